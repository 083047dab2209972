"""Reading and writing ONNX: float, QDQ, half precision, network with decoder, edits."""
