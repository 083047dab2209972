"""From a network to files that tool chains read. Only this package imports ONNX."""
