"""Benchmarks: what attention and its training cost, beside the same by other means."""
