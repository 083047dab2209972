"""Rules of the check of an ONNX file against a profile, one topic per module."""
