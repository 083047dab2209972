"""How far two runs of a network deviate from each other."""
