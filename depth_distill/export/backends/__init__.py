"""Tool chains: which there are, and how a network is run, quantized and timed on them."""
