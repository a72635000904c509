"""From truths to a signed bundle: snapshot, plan, loop, evaluation, gate, registry."""
