"""A result folder as a few files that travel, and back."""
