"""Older versions of ONNX's operator set, one rewrite per change of an operator: old tool chains read no other."""
