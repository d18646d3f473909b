"""One attack, one pure function, one file; a file dropped here is registered."""
