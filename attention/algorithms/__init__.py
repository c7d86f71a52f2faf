"""Algorithms: exact ways to go from a form to its context, one a file."""
