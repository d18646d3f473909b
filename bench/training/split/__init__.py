"""Training one network over several processes: each takes its part of every batch, all compute the same weights."""
