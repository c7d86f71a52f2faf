"""Analysis: what a model attends to, in numbers and pictures."""
