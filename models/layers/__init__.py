"""The layers of the paper, each usable on its own in anyone's network."""
