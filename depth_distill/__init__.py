"""depth-distill: monocular metric depth from FP32 to a pure-INT8 NPU without losing its accuracy."""

__version__ = "0.1.0"
