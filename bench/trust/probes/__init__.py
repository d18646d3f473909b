"""What the trust evaluation measures on a model, one theme per file: per-example numbers, no verdicts."""
