"""What the attacks share: balls, losses, searches, randomness. Registers nothing."""
