"""Analyses of where INT8 loses accuracy: sensitivity, error budget, mixed precision."""
