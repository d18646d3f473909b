"""From a command to stored cells: prepare, plan, run, stop."""
