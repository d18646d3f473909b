"""Where cells run: one file per engine."""
