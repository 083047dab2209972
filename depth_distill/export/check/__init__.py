"""Check the operators and shapes of an ONNX file against an NPU's profile."""
