"""One file per defense; a file dropped here is registered."""
