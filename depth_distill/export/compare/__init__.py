"""Deviation between two runs of a network."""
