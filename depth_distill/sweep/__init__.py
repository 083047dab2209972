"""Sweeps: files as Weights & Biases reads them, run on this machine without an account."""
