"""Equal-budget search: every defense gets the same number of trials, and held-out training images choose."""
