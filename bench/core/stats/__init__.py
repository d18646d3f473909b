"""Statistics of a board over numpy arrays; no torch, no store."""
