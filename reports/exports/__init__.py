"""The board as files: CSV, JSON, Markdown, LaTeX, Parquet, manifest, RobustBench, terminal."""
