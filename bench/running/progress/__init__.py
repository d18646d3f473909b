"""What a running command says: which cells are done, how far the others are, how long the rest will take."""
