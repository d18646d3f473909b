"""What a user writes: suites, defense specs, values; parsed and validated once."""
