"""Networks as fx graphs: trace, kinds of nodes, operators of an NPU, channel groups."""
