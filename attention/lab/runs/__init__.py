"""Runs: the directory of a run, and what is written to it and shown of it."""
