"""What the check of an ONNX file against a profile looks at, one idea a module."""
