"""Train one model: the loop, its batches, its steps, its checkpoints."""
