"""Operators and shapes of an ONNX file against the profile of an NPU."""
