"""One check of trust, or a family of them, per file; found by looking."""
