"""Compute cells in processes that have no store: orders as bytes in, results as bytes out, content by its SHA-256."""
