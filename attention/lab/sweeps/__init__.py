"""Sweeps: many settings, several seeds each, trained in groups and ranked."""
