"""Rules on the whole file."""

import pytest

from depth_distill.export.check.npu_check import check_onnx
from tests.export.check.rules.chips import chip, found, parsed

RELU = "(float[1,8,8,8] x) => (float[1,8,8,8] y) { y = Relu(x) }"
MICROSOFT = ("com.microsoft",)


def test_an_opset_that_is_too_new():
    target = chip(operators={"max_opset": 18})
    (finding,) = found(RELU, target, "operators.max_opset")
    assert (finding.severity, finding.message) == ("violation", "opset 19, at most 18")
    assert finding.remedy == "export it with --max-opset 18"
    assert found(RELU, target, "operators.max_opset", opset=18) == []
    (finding,) = found(RELU, chip(operators={"max_opset": 8}), "operators.max_opset")
    assert "writes 9 or newer" in finding.remedy  # --max-opset takes no 8
    assert found(RELU, chip(), "operators.max_opset", opset=21) == []


def test_operators_of_another_domain():
    text = """(float[1,8,8,8] x) => (float[1,8,8,8] y)
        { a = com.microsoft.QuickGelu(x)  b = com.microsoft.QuickGelu(a)  y = Relu(b) }"""
    target = chip(operators={"domains": ()})
    (finding,) = found(text, target, "operators.domains", domains=MICROSOFT)
    assert (finding.severity, finding.op) == ("violation", "com.microsoft.QuickGelu")
    assert finding.message.startswith("2 operators of com.microsoft")
    assert finding.node.endswith("and 1 more")
    assert found(text, chip(), "operators.domains", domains=MICROSOFT) == []  # ONNX Runtime's profile lists it


def test_qdq_nodes_of_another_domain_are_understood():
    text = """(float[1,2,8,8] x) => (float[1,2,8,8] y)
        <float s = {0.5}, int16 z = {0}, int16[1,2,1,1] k = {1, 1}>
        { q = com.microsoft.QuantizeLinear(x, s, z)  d = com.microsoft.DequantizeLinear(q, s, z)
          w = com.microsoft.DequantizeLinear(k, s, z)  y = Mul(d, w) }"""
    found_all = check_onnx(parsed(text, domains=MICROSOFT), chip(operators={"domains": ()})).findings
    assert [(each.severity, each.rule) for each in found_all if "static" in each.rule] == []  # shapes are known
    (finding,) = found_all
    assert finding.severity == "warning"
    assert finding.message.startswith("3 Q/DQ nodes of com.microsoft")
    assert "from opset 21 on" in finding.remedy


def test_control_flow():
    text = """(float[1,8] x, bool c) => (float[1,8] y)
        { y = If (c) <then_branch = a () => (float[1,8] p) { p = Relu(x) },
                      else_branch = b () => (float[1,8] q) { r = Neg(x)  q = Relu(r) }> }"""
    (finding,) = found(text, chip(), "control flow")
    assert (finding.severity, finding.op) == ("violation", "If")
    assert "3 nodes inside were not checked" in finding.message
    forbidden = chip(operators={"forbidden": ("If",)})
    assert found(text, forbidden, "control flow") == []
    assert len(found(text, forbidden, "operators.forbidden")) == 1


def test_shapes_that_depend_on_data_are_named_once():
    text = """(float[1,8] x) => (int64[2,n] y) { a = Relu(x)  b = NonZero(a)  c = Neg(b)  y = Abs(c) }"""
    (finding,) = found(text, chip(), "static shapes")
    assert (finding.severity, finding.node) == ("warning", "NonZero that writes b and 2 more")
    assert "rules that need it were not checked" in finding.message


def test_an_input_that_is_not_fixed():
    text = """(float[n,8,8,8] x) => (float[n,8,8,8] y) { y = Relu(x) }"""
    refused, unchecked = found(text, chip(), "static shapes")
    assert (refused.severity, refused.node) == ("violation", "x (input)")
    assert (unchecked.severity, unchecked.remedy) == ("warning", "fix the shape of the input, and check again")


@pytest.mark.parametrize(("size", "findings"), [("6,8", 1), ("8,16", 0), ("1,1", 0)])
def test_sizes_of_maps_but_not_of_what_is_pooled(size, findings):
    text = f"""(float[1,1,{size}] x) => (float[1,1,{size}] y) <float[1,1,1,1] w = {{1}}>
        {{ a = Conv(x, w)  y = Conv(a, w) }}"""
    assert len(found(text, chip(alignment=8), "alignment")) == findings


@pytest.mark.parametrize(("support", "severity"), [("no", "violation"), ("unconfirmed", "warning")])
def test_several_outputs(support, severity):
    text = "(float[1,8] x) => (float[1,8] y, float[1,8] z) { y = Relu(x)  z = Neg(x) }"
    (finding,) = found(text, chip(capabilities={"several_outputs": support}), "capabilities.several_outputs")
    assert finding.severity == severity
