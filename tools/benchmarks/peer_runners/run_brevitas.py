"""Brevitas: graph-wide equalization of the float network, which comes in by onnx2torch and goes back to ONNX."""

from importlib.metadata import version

import onnx
import torch
from brevitas.graph.equalize import EqualizeGraph
from onnx import numpy_helper
from onnx2torch import convert
from peer_io import FLOAT, Job, main
from torch import fx, nn


def equalize(job: Job) -> str:
    """Cross-layer equalization over the whole graph: a float file."""
    model = onnx.load(job.model)
    graph = with_upsampling(convert(model).eval(), model)
    found = EqualizeGraph(iterations=20, return_regions=False).apply(graph)
    torch.onnx.export(
        found.eval(),
        (torch.from_numpy(job.images[0]),),
        str(job.out / "float.onnx"),
        input_names=["image"],
        output_names=["codes"],
        opset_version=18,
        dynamo=True,
        external_data=False,
    )
    return FLOAT


def with_upsampling(graph: fx.GraphModule, model: onnx.ModelProto) -> fx.GraphModule:
    """Nearest upsampling as ``nn.Upsample``, through which Brevitas equalizes; it does not know onnx2torch's Resize."""
    values = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    factors = [values[node.input[2]][-1] for node in model.graph.node if node.op_type == "Resize"]
    resizes = [
        node
        for node in graph.graph.nodes
        if node.op == "call_module" and "Resize" in type(graph.get_submodule(node.target)).__name__
    ]
    for node, factor in zip(resizes, factors, strict=True):
        graph.set_submodule(node.target, nn.Upsample(scale_factor=float(factor), mode="nearest"))
        node.args = node.args[:1]
    graph.recompile()
    return graph


if __name__ == "__main__":
    main(version("brevitas"), {"equalize": equalize})
