"""ONNX files as graphs of ``nn.Conv2d`` and friends, verified against ONNX Runtime.

onnx2torch makes Add, Concat and Resize custom modules, which pins the channels of every layer before them. Here every
operator becomes what ``trace`` gives for a network written in PyTorch.
"""

from depth_distill.loading.onnx_importer.importing import ImportedOnnx, import_onnx
from depth_distill.loading.onnx_importer.onnx_module import OnnxModule
from depth_distill.loading.onnx_importer.reading import OnnxTensor, plain

__all__ = ["ImportedOnnx", "OnnxModule", "OnnxTensor", "import_onnx", "plain"]
