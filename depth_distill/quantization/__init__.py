"""Passes between a float network and its INT8 behaviour, shared by PTQ, training and export."""
