"""Networks as fx graphs: tracing, kinds of nodes, channel groups, weights that nothing quantizes."""
