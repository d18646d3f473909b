"""Data sets: find them, read them, fingerprint them."""
