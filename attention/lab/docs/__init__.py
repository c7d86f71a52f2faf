"""What the pages of `docs/` take from the code: the gallery of scores, and pictures."""
