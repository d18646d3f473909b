"""Run the museum: fakes that the trust checks must see, honest networks that they must leave alone, broken attacks."""
