"""Mathematics of one model on one batch: derivatives, Lanczos, Lipschitz gains, segments, inequalities."""
