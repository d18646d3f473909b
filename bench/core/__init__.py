"""What everything else may import: records, errors, statistics, seeding. Imports nothing of ours."""
