"""Training: from settings to a trained run, and back from its checkpoint."""
