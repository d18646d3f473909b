"""`verify`: everything that a result folder says, computed again from its weights and its adversarial examples."""
