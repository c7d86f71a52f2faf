"""Algorithms: exact ways to go from a form to its context, a file for each.

What a file must define is `Algorithm` in `request.py`. `tiles.py` and `sharded.py` are no such
files: what the first cuts, others go through, and the second is asked for by name.
"""
