"""Benchmarks: what attention and its training cost, beside other means to the same end."""
