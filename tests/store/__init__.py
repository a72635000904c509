"""The store, worklist, agreement and settlement."""
