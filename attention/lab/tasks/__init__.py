"""Tasks: where sequences come from. Every batch carries its gold alignment."""
