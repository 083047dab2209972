"""The passes of a recipe that rebuild what a target refuses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from depth_distill.export.onnx_io.onnx_graph import OnnxGraph, attributes
from depth_distill.quantization.passes.registry import PASSES


def _named(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _is_gate(node: onnx.NodeProto, graph: OnnxGraph) -> bool:
    """Whether a node is part of a squeeze-and-excitation gate: it reads or writes one computed value per channel."""
    names = [name for name in (*node.input[:2], node.output[0]) if name and name not in graph.constants]
    return any((graph.static_shape(name) or ())[2:] == (1, 1) for name in names)


def _multiplies_its_input(node: onnx.NodeProto, graph: OnnxGraph) -> bool:
    """Whether what a node computes is multiplied with its own input, as in SiLU and hardswish."""
    return any(each.op_type == "Mul" and node.input[0] in each.input for each in graph.readers(node.output[0]))


def _scales_a_norm(node: onnx.NodeProto, graph: OnnxGraph) -> bool:
    """Whether a node scales or shifts what was divided by a standard deviation: a norm of an opset that had none."""
    writers = {name: each for each in graph.nodes for name in each.output}
    for _ in range(3):  # shift, scale, division
        if node.op_type == "Div":
            root = writers.get(node.input[1])
            return root is not None and root.op_type == "Sqrt"
        before = [writers[name] for name in node.input if name in writers and name not in graph.constants]
        if len(before) != 1:
            return False
        node = before[0]
    return False


def _has_constant_operand(node: onnx.NodeProto, graph: OnnxGraph) -> bool:
    return any(name in graph.constants for name in node.input[:2])


def _is_one_dimensional(node: onnx.NodeProto, graph: OnnxGraph) -> bool:
    return len(graph.shape(node.input[0]) or ()) == 3


def _interpolates(node: onnx.NodeProto, graph: OnnxGraph) -> bool:
    return attributes(node).get("mode", b"nearest") != b"nearest"


def _always(node: onnx.NodeProto, graph: OnnxGraph) -> bool:
    return True


@dataclass(frozen=True)
class WayOut:
    """A pass that rebuilds an operator.

    Attributes:
        name: name of the pass in a recipe.
        operators: ONNX operators that it replaces.
        rules: last parts of the rules that it helps with, such as ``supported`` or ``max_window``.
        applies: what else must be true of the node.
    """

    name: str
    operators: frozenset[str]
    rules: frozenset[str]
    applies: Callable[[onnx.NodeProto, OnnxGraph], bool] = _always

    @property
    def is_exact(self) -> bool:
        """Whether the pass keeps the function of the network; otherwise a training has to follow."""
        return not PASSES[self.name].changes_function


_REFUSED = frozenset({"supported", "forbidden"})
_WINDOW = _REFUSED | {"max_window", "max_dilation", "strides"}
_FUSED = _REFUSED | {"fused_activations"}
WAYS_OUT: Sequence[WayOut] = (
    WayOut("freeze_norms", _named("LayerNormalization GroupNormalization InstanceNormalization"), _REFUSED),
    WayOut("freeze_norms", _named("Mul Add"), _REFUSED | {"operands"}, _scales_a_norm),
    WayOut("as_conv2d", _named("Gemm Reshape Flatten"), _REFUSED),
    WayOut("as_conv2d", _named("MatMul"), _REFUSED, _has_constant_operand),
    WayOut("as_conv2d", _named("Conv"), _WINDOW, _is_one_dimensional),
    WayOut("split_kernels", _named("Conv"), frozenset({"max_window"})),
    WayOut(
        "replace_gates",
        _named("GlobalAveragePool ReduceMean Sigmoid HardSigmoid Mul"),
        _FUSED | {"axes", "operands"},
        _is_gate,
    ),
    WayOut("replace_activations", _named("Elu HardSwish Gelu Erf"), _FUSED),
    WayOut("replace_activations", _named("Sigmoid HardSigmoid"), _FUSED, _multiplies_its_input),
    WayOut("replace_activations", _named("Mul"), frozenset({"fused_activations"})),  # the end of SiLU or GELU
    WayOut("replace_relu6", _named("Clip"), _FUSED),
    WayOut("zero_padding", _named("Pad"), _REFUSED | {"modes", "pads"}),
    WayOut("replace_transposed_convs", _named("ConvTranspose"), _WINDOW),
    WayOut("nearest_upsampling", _named("Resize Upsample"), _REFUSED | {"modes"}, _interpolates),
)
"""The passes, in the order of a recipe; of a node, the first that fits."""


def way_out(node: onnx.NodeProto, rule: str, graph: OnnxGraph) -> WayOut | None:
    """The pass that repairs a node which breaks a rule; None if there is none.

    Args:
        node: the node, one of ONNX's own operators.
        rule: key of the profile, such as ``operators.supported.Conv.max_window``.
        graph: its graph.
    """
    part = rule.split(",")[0].rpartition(".")[2]
    for each in WAYS_OUT:
        if node.op_type in each.operators and part in each.rules and each.applies(node, graph):
            return each
    return None


def recipe_line(passes: Sequence[str], violations: int) -> str:
    """The last line of a check: which recipe repairs how many violations.

    Args:
        passes: the pass that repairs each violation, for those that one repairs.
        violations: number of all violations.
    """
    order = list(dict.fromkeys(each.name for each in WAYS_OUT))
    exact = {each.name for each in WAYS_OUT if each.is_exact}
    names = ["fold", *sorted(set(passes), key=order.index)]
    changing = any(name not in exact for name in names[1:])
    listing = ", ".join(name if name == "fold" or name in exact else f"{name}*" for name in names)
    note = "; passes marked with * change the function: train behind them" if changing else ""
    return f"recipe that repairs {len(passes)} of {violations}: [{listing}]{note}"
