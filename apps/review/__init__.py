"""Pages and JSON for adjudicators: disputes in, signed decisions out; readers are letters here, never names."""
