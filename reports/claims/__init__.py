"""The paper's claims as data, and their verdicts from the board."""
