"""Everything that is a network: layers, backbones, defenses, and the registry that finds them."""
