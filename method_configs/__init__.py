"""Method specification and codec presets of lmvic-ns."""
