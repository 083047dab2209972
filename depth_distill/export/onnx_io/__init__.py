"""Reading, writing and editing ONNX files: float, QDQ, half precision, network with decoder."""
