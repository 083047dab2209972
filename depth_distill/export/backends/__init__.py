"""Tool chains: a registry, and running, quantizing and timing a network on them."""
