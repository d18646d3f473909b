"""What every defense, attack and evaluation must keep, whoever wrote it: `bench check` and the tests ask the same."""
