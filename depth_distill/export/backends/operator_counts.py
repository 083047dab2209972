"""Operators of a file after ONNX Runtime's optimization: integer and float convolutions, Q/DQ nodes, and others."""

import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnxruntime

from depth_distill.export.backends.runtime import open_file
from depth_distill.export.onnx_io.onnx_graph import QDQ_OPERATORS
from depth_distill.loading.onnx_importer.session import session_options

_CONVS = ("Conv", "FusedConv", "ConvTranspose")


@dataclass(frozen=True)
class OperatorCounts:
    """Nodes after ONNX Runtime's optimization.

    Attributes:
        integer_convs: number of convolutions on integers.
        float_convs: number of convolutions on floats.
        quantize: number of remaining QuantizeLinear and DequantizeLinear nodes.
        avoidable: number of those that are neither at an input or output of the file nor next to a float operator.
        transposes: number of Transpose nodes.
        others: number of other nodes by type.
    """

    integer_convs: int
    float_convs: int
    quantize: int
    avoidable: int
    transposes: int
    others: dict[str, int]

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


def count_operators(path: Path) -> OperatorCounts:
    """Count the operators that remain after optimization.

    Args:
        path: an ONNX file.

    Raises:
        ConfigError: ONNX Runtime refuses the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        # Higher levels than "extended" change memory layouts for this machine's processor.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        open_file(path, options)
        graph = onnx.load(options.optimized_model_filepath).graph
    kinds = Counter(node.op_type for node in graph.node)
    border = {each.name for each in (*graph.input, *graph.output)}
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def is_needed(node: onnx.NodeProto) -> bool:
        if border.intersection((*node.input, *node.output)):
            return True
        if node.op_type == "QuantizeLinear":  # behind an operator on floats
            before = producers.get(node.input[0])
            return before is not None and before.op_type not in QDQ_OPERATORS
        return any(after.op_type not in QDQ_OPERATORS for after in readers.get(node.output[0], []))

    pairs = [node for node in graph.node if node.op_type in QDQ_OPERATORS]
    return OperatorCounts(
        integer_convs=kinds["QLinearConv"] + kinds["ConvInteger"],
        float_convs=sum(kinds[each] for each in _CONVS),
        quantize=len(pairs),
        avoidable=sum(not is_needed(node) for node in pairs),
        transposes=kinds["Transpose"],
        others={
            name: count for name, count in sorted(kinds.items()) if name not in (*QDQ_OPERATORS, "QLinearConv", *_CONVS)
        },
    )
