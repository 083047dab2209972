import numpy as np
import onnx
import pytest

from depth_distill.errors import ConfigError
from depth_distill.export.operator_probes import operator_probes
from depth_distill.export.probe_judgement import reference
from depth_distill.export.probes import Prober
from tests.export.test_probes import Fake, refusing

HEADER = '<ir_version: 9, opset_import: ["": 19]>'
NEAREST = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
FLOAT = f"""
    {HEADER}
    probe (float[1, 4, 4, 6] image) => (float[1, 6, 8, 12] joined, int64[1, 1, 4, 6] best, float16[1, 4, 4, 6] halved)
    <float[2, 4, 1, 1] w = {{1, 2, 3, 4, -1, -2, -3, -4}}, float[4] factors = {{1, 1, 2, 2}},
     float low = {{0}}, float high = {{6}}>
    {{
        c = Conv<kernel_shape = [1, 1]>(image, w)
        a = Clip(c, low, high)
        c2 = Conv<kernel_shape = [1, 1]>(image, w)
        b = Resize<{NEAREST}>(a, , factors)
        up = Resize<{NEAREST}>(image, , factors)
        joined = Concat<axis = 1>(b, up)
        best = ArgMax<axis = 1>(c2)
        h = Cast<to = 10>(image)
        halved = Relu(h)
    }}
"""
QDQ = f"""
    {HEADER}
    probe (float[1, 4, 4, 6] image) => (float[1, 2, 4, 6] codes)
    <int8[2, 4, 1, 1] w = {{10, 20, 30, 40, -10, -20, -30, -40}}, float[2] ws = {{0.1, 0.2}}, int8[2] wz = {{0, 0}},
     float s = {{0.05}}, uint8 z = {{100}}, float s2 = {{0.5}}, uint8 z2 = {{0}}, float s3 = {{0.004}}>
    {{
        q = QuantizeLinear(image, s, z)
        d = DequantizeLinear(q, s, z)
        wd = DequantizeLinear<axis = 0>(w, ws, wz)
        c = Conv<kernel_shape = [1, 1]>(d, wd)
        r = Relu(c)
        q2 = QuantizeLinear(r, s2, z2)
        d2 = DequantizeLinear(q2, s2, z2)
        g = Sigmoid(d2)
        q3 = QuantizeLinear(g, s3, z2)
        codes = DequantizeLinear(q3, s3, z2)
    }}
"""


def probes_of(text, folder):
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")
    return {probe.name: probe for probe in operator_probes(folder / "model.onnx")}


def ops(model):
    return [node.op_type for node in model.graph.node]


def test_each_distinct_operator_is_one_model(tmp_path):
    found = probes_of(FLOAT, tmp_path)
    assert [(name, probe.count) for name, probe in found.items()] == [
        ("Conv kernel 1x1, 1x4x4x6, 2x4x1x1", 2),
        ("Clip 1x2x4x6", 1),
        ("Resize mode nearest, 1x2x4x6", 1),
        ("Resize mode nearest, 1x4x4x6", 1),
        ("Concat axis 1, 1x2x8x12, 1x4x8x12", 1),
        ("ArgMax axis 1, 1x2x4x6", 1),
        ("Cast to 10, 1x4x4x6", 1),
        ("Relu float16 1x4x4x6", 1),
    ]
    assert ops(found["Relu float16 1x4x4x6"].variants[0].model) == ["Cast", "Relu", "Cast"]
    assert [probe.stand_in for probe in found.values()] == [False] * 4 + [True] + [False] * 3
    prober = Prober(Fake())
    findings = [prober.operator(probe) for probe in found.values()]
    assert {each.verdict for each in findings} == {"confirmed"}
    assert findings[0].reason == "off by 0 of the largest value, at most 0.01"
    for probe in found.values():
        onnx.checker.check_model(probe.variants[0].model, full_check=True)


def test_a_quantized_operator_keeps_its_pairs_and_its_activation(tmp_path):
    found = probes_of(QDQ, tmp_path)
    conv = found["Conv kernel 1x1, 1x4x4x6, 2x4x1x1"]
    pairs = ["QuantizeLinear", "DequantizeLinear"]
    assert ops(conv.variants[0].model) == [*pairs, "DequantizeLinear", "Conv", "Relu", *pairs]
    assert ops(conv.variants[1].model) == ["Conv"]
    assert conv.variants[0].step == 0.5
    weights = next(
        node for node in conv.variants[0].model.graph.node if node.op_type == "DequantizeLinear" and len(node.attribute)
    )
    assert weights.attribute[0].i == 0
    # Its weights are (10, 20, 30, 40) * 0.1 and the negative of that * 0.2: by hand, for inputs of one step each.
    ones = np.full((1, 4, 4, 6), 0.05, np.float32)
    np.testing.assert_allclose(reference(conv.variants[0].model, ones)["output0"][0, :, 0, 0], [0.5, 0])
    np.testing.assert_allclose(reference(conv.variants[1].model, ones)["output0"][0, :, 0, 0], [0.5, -1], rtol=1e-6)
    assert ops(found["Sigmoid 1x2x4x6"].variants[0].model) == [*pairs, "Sigmoid", *pairs]
    assert ops(found["Relu 1x2x4x6"].variants[0].model) == ["Relu"]
    assert {Prober(Fake()).operator(probe).verdict for probe in found.values()} == {"confirmed"}


def test_refusals(tmp_path):
    found = probes_of(QDQ, tmp_path)
    conv, sigmoid = found["Conv kernel 1x1, 1x4x4x6, 2x4x1x1"], found["Sigmoid 1x2x4x6"]
    prober = Prober(Fake(refusing(lambda model: "Sigmoid" in ops(model))))
    assert prober.operator(sigmoid).verdict == "unsupported"
    assert prober.operator(sigmoid).reason == "between Q/DQ pairs: E load: Error: out of luck"
    assert prober.operator(conv).verdict == "confirmed"
    # Taken in float only is neither.
    prober = Prober(Fake(refusing(lambda model: {"Sigmoid", "QuantizeLinear"} <= set(ops(model)))))
    assert prober.operator(sigmoid).verdict == "unconfirmed"
    # A constant took the place of an input, so its refusal is not the operator's.
    concat = probes_of(FLOAT, tmp_path)["Concat axis 1, 1x2x8x12, 1x4x8x12"]
    finding = Prober(Fake(refusing(lambda model: "Concat" in ops(model)))).operator(concat)
    assert finding.verdict == "unconfirmed"
    assert finding.reason.startswith("refused with a constant in place of an input of another shape")


def test_another_operator_in_its_place_is_noticed(tmp_path):
    def halve_pixels(model):
        for node in model.graph.node:
            if node.op_type == "Resize":
                next(each for each in node.attribute if each.name == "nearest_mode").s = b"ceil"
        return model

    resize = probes_of(FLOAT, tmp_path)["Resize mode nearest, 1x2x4x6"]
    finding = Prober(Fake(halve_pixels)).operator(resize)
    assert finding.verdict == "unconfirmed"
    assert finding.reason.startswith("runs, but is off by")


def test_files_that_cannot_be_cut(tmp_path):
    with pytest.raises(ConfigError, match="export it with a static batch of 1"):
        probes_of(
            f"{HEADER} probe (float[batch, 4] image) => (float[batch, 4] codes) {{ codes = Relu(image) }}", tmp_path
        )
    with pytest.raises(ConfigError, match=r"none.onnx"):
        operator_probes(tmp_path / "none.onnx")
