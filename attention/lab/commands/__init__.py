"""Commands: what a person types. They alone know flags; each has a script of three lines."""
