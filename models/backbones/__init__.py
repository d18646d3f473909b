"""The networks that a defense can be built on."""
