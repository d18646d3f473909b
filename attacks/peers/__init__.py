"""The same calls as ours, into other people's libraries."""
