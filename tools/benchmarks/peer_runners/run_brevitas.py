"""Brevitas: graph-wide equalization of the float network, which comes in by onnx2torch and goes back to ONNX."""

from importlib.metadata import version

import onnx
import torch
from brevitas.fx import symbolic_trace
from brevitas.graph.equalize import EqualizeGraph
from onnx2torch import convert
from peer_io import FLOAT, Job, main


def equalize(job: Job) -> str:
    """Cross-layer equalization over the whole graph: a float file."""
    graph = symbolic_trace(convert(onnx.load(job.model)).eval())
    graph = EqualizeGraph(iterations=20, return_regions=False).apply(graph)
    torch.onnx.export(
        graph.eval(),
        (torch.from_numpy(job.images[0]),),
        str(job.out / "float.onnx"),
        input_names=["image"],
        output_names=["codes"],
        opset_version=18,
        dynamo=True,
        external_data=False,
    )
    return FLOAT


if __name__ == "__main__":
    main(version("brevitas"), {"equalize": equalize})
