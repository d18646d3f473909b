"""Evidence on whether a robust accuracy can be believed: what attacks find of what is known to be there."""
