"""Number formats of a file against the capabilities of a target, one finding per file."""

import pytest
import torch
from torch import nn

from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.half import export_half, export_mixed
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.loading.onnx_importer.files import read_onnx
from depth_distill.quantization.analysis.mixed_precision import mixed_network
from depth_distill.quantization.graph.trace import trace
from tests.export.check.rules.chips import chip, found
from tests.export.networks import calibrated, smooth_images

NO = {"fp16", "int8", "int16", "per_layer_precision", "asymmetric_activations", "per_channel_weights"}


def pair(zero_point, constants="", domain=""):
    """A Q/DQ pair on the input, and a ReLU."""
    point = f", {zero_point} z = {{{constants}}}" if zero_point else ""
    settings = "s, z" if zero_point else "s"
    return f"""(float[1,2,8,8] x) => (float[1,2,8,8] y) <float s = {{0.5}}{point}>
        {{ q = {domain}QuantizeLinear(x, {settings})  d = {domain}DequantizeLinear(q, {settings})  y = Relu(d) }}"""


@pytest.mark.parametrize(
    ("zero_point", "value", "asymmetric"),
    [
        ("int8", 0, False),
        ("int8", 3, True),
        ("uint8", 128, False),
        ("uint8", 0, True),
        ("uint8", 127, True),
        ("", None, True),  # uint8, 0
    ],
)
def test_symmetry_is_where_the_zero_point_is(zero_point, value, asymmetric):
    target = chip(capabilities={"asymmetric_activations": "no"})
    findings = found(pair(zero_point, value), target, "capabilities.asymmetric_activations")
    assert len(findings) == asymmetric
    for finding in findings:
        assert finding.severity == "violation"
        assert f"{zero_point or 'uint8'} zero point is {value or 0}" in finding.message


@pytest.mark.parametrize(("values", "asymmetric"), [("128, 128", False), ("128, 100", True)])
def test_zero_points_per_channel(values, asymmetric):
    text = pair("uint8[2]", values).replace("float s = {0.5}", "float[2] s = {0.5, 0.5}")
    target = chip(capabilities={"asymmetric_activations": "no", "per_channel_weights": "no"})
    assert len(found(text, target, "capabilities.asymmetric_activations")) == asymmetric
    (finding,) = found(text, target, "capabilities.per_channel_weights")
    assert finding.message.startswith("1 tensors with one scale per channel")


def test_a_zero_point_that_is_computed_may_be_anything():
    text = """(float[1,2,8,8] x) => (float[1,2,8,8] y)
        { q, s, z = DynamicQuantizeLinear(x)  d = DequantizeLinear(q, s, z)  y = Relu(d) }"""
    target = chip(capabilities={"asymmetric_activations": "unconfirmed"})
    (finding,) = found(text, target, "capabilities.asymmetric_activations")
    assert finding.severity == "warning"
    assert "zero point is computed" in finding.message


def test_codes_as_input_are_activations_and_stored_ones_are_not():
    target = chip(capabilities={"asymmetric_activations": "no"})
    text = """(uint8[1,1,8,8] x) => (float[1,1,8,8] y) <float s = {0.5}, int8[1,1,1,1] c = {5}, int8 z = {5}>
        { d = DequantizeLinear(x, s)  w = DequantizeLinear(c, s, z)  y = Conv(d, w) }"""
    (finding,) = found(text, target, "capabilities.asymmetric_activations")
    assert finding.message.startswith("1 asymmetric activations (first: uint8 zero point is 0)")


@pytest.mark.parametrize(
    ("dtype", "opset", "domain", "capability"),
    [
        ("int8", 19, "", "int8"),
        ("uint8", 19, "", "int8"),
        ("int16", 21, "", "int16"),
        ("uint16", 21, "", "int16"),
        ("int16", 19, "com.microsoft.", "int16"),
    ],
)
def test_codes_of_either_width(dtype, opset, domain, capability):
    domains = (domain[:-1],) if domain else ()
    for support, severities in (("yes", []), ("unconfirmed", ["warning"]), ("no", ["violation"])):
        target = chip(capabilities={capability: support})
        findings = found(pair(dtype, 0, domain), target, f"capabilities.{capability}", opset, domains)
        assert [each.severity for each in findings] == severities
        assert all(each.message == f"2 Q/DQ nodes with {capability} codes: {support}" for each in findings)
    other = {"int8": "int16", "int16": "int8"}[capability]
    target = chip(capabilities={other: "no"})
    assert found(pair(dtype, 0, domain), target, f"capabilities.{other}", opset, domains) == []


def test_biases_are_no_codes_of_their_own():
    text = """(float[1,1,8,8] x) => (float[1,1,8,8] y) <float s = {0.5}, int32[1] b = {5}, float[1,1,1,1] w = {1}>
        { d = DequantizeLinear(b, s)  y = Conv(x, w, d) }"""
    target = chip(capabilities={"int8": "unconfirmed", "int16": "unconfirmed"})
    for rule in ("capabilities", "capabilities.int8", "capabilities.int16"):
        assert found(text, target, rule) == []


def test_codes_that_profiles_do_not_cover():
    text = """(float[4] x) => (float[4] y) <float s = {0.5}, float8e4m3fn z = {0}>
        { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"""
    (finding,) = found(text, chip(), "capabilities")
    assert finding.severity == "warning"
    assert "2 Q/DQ nodes with float8e4m3fn codes" in finding.message or "float8_e4m3fn" in finding.message


def test_half_precision_is_one_finding_per_file():
    chain = "(float16[1,8] x) => (float16[1,8] y) { a = Relu(x)  b = Tanh(a)  c = Relu(b)  d = Tanh(c)  y = Relu(d) }"
    for support, node in (
        ("unconfirmed", "Relu that writes a and 4 more"),
        ("no", "Relu that writes a, Tanh that writes b, Relu that writes c and 2 more"),
    ):
        target = chip(capabilities={"fp16": support, "per_layer_precision": "no"})
        (finding,) = found(chain, target, "capabilities.fp16")
        assert (finding.node, finding.message) == (node, f"5 operators compute in FP16: {support}")
        assert found(chain, target, "capabilities.per_layer_precision") == []


def test_half_precision_scales_do_not_compute_in_half_precision():
    text = """(float16[1,8] x) => (float16[1,8] y) <float16 s = {14336}, uint8 z = {0}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  a = Relu(d)  b = Neg(a)
          p = QuantizeLinear(b, s, z)  y = DequantizeLinear(p, s, z) }"""
    assert found(text, chip(capabilities={"fp16": "no"}), "capabilities.fp16") == []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, image):
        return self.head(self.body(self.stem(image))).sigmoid()


def test_the_files_of_a_bundle(tmp_path):
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 8, 8)
    network = trace(Net())
    images = [smooth_images(4, (8, 8))]
    quantized = calibrated(network, "per-tensor-minmax", images)
    files = {"float": export_float(network, tmp_path / "float.onnx", FileSpec.like(image))}
    files["fp16"] = export_half(files["float"], tmp_path / "fp16.onnx")
    files["int8"] = export_qdq(quantized, tmp_path / "int8.onnx", FileSpec.like(image))
    mixed = mixed_network(quantized, ["body"], images)
    files["mixed"] = export_mixed(mixed, ["body"], tmp_path / "mixed.onnx", FileSpec.like(image))
    target = chip(fused_activations=("relu", "sigmoid"), capabilities=dict.fromkeys(NO, "unconfirmed"))
    rules = {
        name: {rule for rule in NO if found(read_onnx(path), target, f"capabilities.{rule}")}
        for name, path in files.items()
    }
    assert rules == {
        "float": set(),
        "fp16": {"fp16"},
        "int8": {"int8", "asymmetric_activations"},
        "mixed": {"int8", "asymmetric_activations", "fp16", "per_layer_precision"},
    }
    (finding,) = found(read_onnx(files["mixed"]), target, "capabilities.per_layer_precision")
    assert finding.node == "body"
