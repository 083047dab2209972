"""Activations: each form found in files is recognized as the same function, once."""

import pytest
import torch
from torch import nn

from depth_distill.export.check.npu_check import check_onnx
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.loading.onnx_importer.files import read_onnx
from depth_distill.quantization.graph.trace import trace
from tests.export.check.rules.chips import chip, found, parsed

FUSES_NOTHING = chip(fused_activations=())
PAIR = "c_q = QuantizeLinear(c, s, z)  d = DequantizeLinear(c_q, s, z)"
FORMS = {
    "relu": "y = Relu(c)",
    "sigmoid": "y = Sigmoid(c)",
    "relu6": "y = Clip(c, zero, six)",
    "clip": "y = Clip(c, zero, three)",
    "hardsigmoid": "a = Add(c, three)  b = Clip(a, zero, six)  y = Div(b, six)",
    "silu": "a = Sigmoid(c)  y = Mul(c, a)",
    "hardswish": "a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(c)  y = Mul(a, c)",
    "hardswish of a clip": "a = Add(c, three)  b = Clip(a, zero, six)  m = Mul(c, b)  y = Div(m, six)",
    "gelu": "a = Div(c, root)  b = Erf(a)  d = Add(b, one)  h = Mul(c, half)  y = Mul(h, d)",
    "gelu, halved at the end": "a = Div(c, root)  b = Erf(a)  d = Add(b, one)  h = Mul(c, d)  y = Mul(h, half)",
    "silu over pairs": f"""{PAIR}
        a = Sigmoid(d)  a_q = QuantizeLinear(a, t, z)  b = DequantizeLinear(a_q, t, z)
        other = DequantizeLinear(c_q, s, z)  y = Mul(other, b)""",
    "silu in half": "h = Cast<to = 10>(c)  a = Sigmoid(h)  m = Mul(h, a)  y = Cast<to = 1>(m)",
    "relu6 of a relu": "a = Relu(c)  y = Clip(a, zero, six)",
}


def graph(nodes):
    return f"""(float[1,4,8,8] x) => (float[1,4,8,8] y)
        <float[4,4,1,1] w = {{{",".join("1" * 16)}}}, float zero = {{0}}, float half = {{0.5}}, float one = {{1}},
         float root = {{1.41421356}}, float three = {{3}}, float six = {{6}},
         float s = {{0.1}}, float t = {{0.00392}}, uint8 z = {{0}}>
        {{ c = Conv(x, w)  {nodes} }}"""


@pytest.mark.parametrize("form", FORMS)
def test_one_warning_per_function_and_none_if_it_is_fused(form):
    name = form.split(",")[0].split(" ")[0]
    (finding,) = found(graph(FORMS[form]), FUSES_NOTHING, "fused_activations")
    assert (finding.severity, finding.message.split()[0]) == ("warning", name)
    assert "there is none" in finding.remedy or name == "sigmoid"
    assert found(graph(FORMS[form]), chip(fused_activations=(name,)), "fused_activations") == []


@pytest.mark.parametrize(
    "module", [nn.SiLU(), nn.Hardswish(), nn.ReLU6(), nn.GELU(), nn.GELU("tanh"), nn.Mish()], ids=str
)
def test_activations_as_written_by_the_exporter(module, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), module, nn.Conv2d(4, 4, 1), module, nn.Conv2d(4, 1, 1)).eval()
    model = read_onnx(export_float(trace(network), tmp_path / "a.onnx", FileSpec.like(torch.zeros(1, 3, 8, 8))))
    (finding,) = found(model, FUSES_NOTHING, "fused_activations")
    assert finding.message.split()[0] == type(module).__name__.lower()
    assert "and 1 more" in finding.node


def test_a_gate_is_not_a_silu():
    gate = "a = GlobalAveragePool(c)  b = Sigmoid(a)  y = Mul(c, b)"
    (finding,) = found(graph(gate), FUSES_NOTHING, "fused_activations")
    assert finding.message.startswith("sigmoid")


def test_a_part_that_is_read_elsewhere_is_there_as_well():
    text = graph("a = Sigmoid(c)  m = Mul(c, a)  y = Add(m, a)")
    names = [each.message.split()[0] for each in found(text, FUSES_NOTHING, "fused_activations")]
    assert sorted(names) == ["sigmoid", "silu"]
    assert [
        each.message.split()[0] for each in found(text, chip(fused_activations=("silu",)), "fused_activations")
    ] == ["sigmoid"]


def test_another_slope_is_another_function():
    quick = graph("b = Mul(c, three)  a = Sigmoid(b)  y = Mul(c, a)")
    assert [each.message.split()[0] for each in found(quick, FUSES_NOTHING, "fused_activations")] == ["sigmoid"]


def test_a_target_that_fuses_clips_sees_relu6_as_one():
    assert found(graph(FORMS["relu6"]), chip(fused_activations=("clip",)), "fused_activations") == []
    two = chip(fused_activations=("relu", "clip"))
    assert found(graph(FORMS["relu6 of a relu"]), two, "fused_activations") == []


def test_the_last_sigmoid_can_be_left_to_the_host():
    (last,) = found(graph("y = Sigmoid(c)"), FUSES_NOTHING, "fused_activations")
    assert last.remedy == "leave it to the host (--logits)"
    inner, last = found(graph("a = Sigmoid(c)  b = Conv(a, w)  y = Sigmoid(b)"), FUSES_NOTHING, "fused_activations")
    assert "--logits" not in inner.remedy
    assert "--logits" in last.remedy


def test_the_model_is_left_as_it_was():
    model = parsed(graph(FORMS["silu over pairs"]))
    before = model.SerializeToString(deterministic=True)
    check_onnx(model, FUSES_NOTHING)
    assert model.SerializeToString(deterministic=True) == before


def test_constants_with_a_computed_scale_are_no_activation():
    graph = """
        (float[1, 2] x) => (float[1, 2] y)
        <int8[1, 2] k = {1, 2}>
        {
            s = ReduceMax<keepdims = 0>(x)
            d = DequantizeLinear(k, s)
            y = Relu(d)
        }
    """
    assert found(graph, chip(), "fused_activations") == []
