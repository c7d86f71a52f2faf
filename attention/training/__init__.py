"""Training: settings, state, the loop, checkpoints, logs."""
