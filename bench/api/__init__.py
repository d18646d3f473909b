"""The Python calls of `import bench`: evaluate any model, RobustBench's `benchmark`, results and trained models."""
