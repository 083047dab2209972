"""Probe the actual capabilities of a tool chain, and write profiles from the results."""
