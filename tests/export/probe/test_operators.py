import numpy as np
import onnx
import pytest

from depth_distill.errors import ConfigError
from depth_distill.export.probe.judgement import reference
from depth_distill.export.probe.operators import operator_probes
from depth_distill.export.probe.probes import Prober
from depth_distill.export.probe.report import ProbeReport
from depth_distill.quantization.target.target import load_target
from tests.export.probe.test_probes import Fake, refusing

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

OPERANDS = f"""
    {HEADER}
    probe (float[1, 4, 4, 6] image)
        => (float[1, 4, 4, 6] codes, float[1, 8, 4, 6] both, float[1, 4, 4, 6] chosen, float[1, 4, 6] picked)
    <float s = {{0.05}}, uint8 z = {{100}}, float s2 = {{0.004}}, uint8 z2 = {{0}}, float[3] table = {{5, -6, 7}}>
    {{
        q = QuantizeLinear(image, s, z)
        d = DequantizeLinear(q, s, z)
        g = Sigmoid(image)
        q2 = QuantizeLinear(g, s2, z2)
        d2 = DequantizeLinear(q2, s2, z2)
        f = Sub(d, d2)
        q3 = QuantizeLinear(f, s, z)
        codes = DequantizeLinear(q3, s, z)
        both = Concat<axis = 1>(image, g)
        larger = Greater(image, g)
        chosen = Where(larger, image, g)
        first, rest = Split<axis = 1, num_outputs = 2>(image)
        index = ArgMax<axis = 1, keepdims = 0>(first)
        picked = Gather(table, index)
    }}
"""
# Where each operator's cut gets its values from in the network, stand-ins after them, and what comes out.
PLACES = {
    FLOAT: {
        "Conv kernel 1x1, 1x4x4x6, 2x4x1x1": (["image"], [], "c"),
        "Clip 1x2x4x6": (["c"], [], "a"),
        "Resize mode nearest, 1x2x4x6": (["a"], [], "b"),
        "Resize mode nearest, 1x4x4x6": (["image"], [], "up"),
        "Concat axis 1, 1x2x8x12, 1x4x8x12": (["b"], ["up"], "joined"),
        "ArgMax axis 1, 1x2x4x6": (["c2"], [], "best"),
        "Cast to 10, 1x4x4x6": (["image"], [], "h"),
        "Relu float16 1x4x4x6": (["h"], [], "halved"),
    },
    QDQ: {
        "Conv kernel 1x1, 1x4x4x6, 2x4x1x1": (["d"], [], "d2", "c"),
        "Relu 1x2x4x6": (["c"], [], "r"),
        "Sigmoid 1x2x4x6": (["d2"], [], "codes", "g"),
    },
    OPERANDS: {
        "Sigmoid 1x4x4x6": (["image"], [], "g"),
        "Sub 1x4x4x6, 1x4x4x6": (["d", "d2"], [], "codes", "f"),
        "Concat axis 1, 1x4x4x6, 1x4x4x6": (["image", "g"], [], "both"),
        "Greater 1x4x4x6, 1x4x4x6": (["image", "g"], [], "larger"),
        "Where 1x4x4x6, 1x4x4x6, 1x4x4x6": (["image", "g"], ["larger"], "chosen"),
        "Split axis 1, 1x4x4x6": (["image"], [], "first"),
        "ArgMax axis 1, keepdims 0, 1x2x4x6": (["first"], [], "index"),
        "Gather int64 1x4x6": (["index"], [], "picked"),
    },
}


def probes_of(text, folder, check=True):
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=check)
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


def with_stand_ins(model, values):
    """The model with the given values in place of its constants of the same shape and type."""
    for value in values:
        new = onnx.numpy_helper.from_array(value)
        (old,) = (each for each in model.graph.initializer if (each.dims, each.data_type) == (new.dims, new.data_type))
        old.raw_data = new.raw_data
    return model


@pytest.mark.parametrize("text", PLACES, ids=["float", "qdq", "operands"])
def test_an_extracted_operator_computes_the_same_as_in_the_network(text, tmp_path):
    found = probes_of(text, tmp_path)
    assert list(found) == list(PLACES[text])
    image = np.random.default_rng(4).normal(0, 2, (1, 4, 4, 6)).astype(np.float32)
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load(tmp_path / "model.onnx"))
    values = evaluator.run(None, {"image": image}, intermediate=True)
    for name, (operands, stand_ins, *outputs) in PLACES[text].items():
        probe = found[name]
        assert len(probe.variants) == len(outputs)
        for variant, output in zip(probe.variants, outputs, strict=True):
            fed = np.concatenate([values[each] for each in operands], axis=min(1, values[operands[0]].ndim - 1))
            assert fed.shape == probe.inputs.shape
            model = with_stand_ins(variant.model, [values[each] for each in stand_ins])
            result = reference(model, fed.astype(probe.inputs.dtype))["output0"]
            assert np.ptp(result.astype(np.float64)) > 0
            # Both round at the same places, so that what differs is float32 sums.
            np.testing.assert_allclose(result, values[output], rtol=1e-6, atol=1e-6, err_msg=name)


def same_operand(model):
    for node in model.graph.node:
        if node.op_type in ("Sub", "Concat"):
            node.input[1] = node.input[0]
    return model


def swapped_operands(model):
    for node in model.graph.node:
        if node.op_type in ("Sub", "Concat"):
            node.input[:] = list(node.input)[::-1]
    return model


@pytest.mark.parametrize("habit", [same_operand, swapped_operands])
@pytest.mark.parametrize("name", ["Sub 1x4x4x6, 1x4x4x6", "Concat axis 1, 1x4x4x6, 1x4x4x6"])
def test_operands_are_told_apart(habit, name, tmp_path):
    probe = probes_of(OPERANDS, tmp_path)[name]
    assert Prober(Fake()).operator(probe).verdict == "confirmed"
    finding = Prober(Fake(habit)).operator(probe)  # for Sub, the same operand twice is all zeros
    assert finding.verdict == "unconfirmed"
    assert "runs, but is off by" in finding.reason


def test_refusing_to_split_the_input_proves_nothing_about_the_operator(tmp_path):
    sub = probes_of(OPERANDS, tmp_path)["Sub 1x4x4x6, 1x4x4x6"]
    finding = Prober(Fake(refusing(lambda model: "Slice" in ops(model)))).operator(sub)
    assert finding.verdict == "unconfirmed"
    assert "the form is refused, not the operator (the split of its input is refused, too): E load" in finding.reason
    assert Prober(Fake(refusing(lambda model: "Sub" in ops(model)))).operator(sub).verdict == "unsupported"


def test_whole_numbers_stay_in_bounds_and_their_refusal_proves_nothing(tmp_path):
    gather = probes_of(OPERANDS, tmp_path)["Gather int64 1x4x6"]
    assert set(gather.inputs.flat) == {0, 1, 2}
    assert Prober(Fake()).operator(gather).verdict == "confirmed"
    floats_only = refusing(lambda model: model.graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT)
    finding = Prober(Fake(floats_only)).operator(gather)
    assert finding.verdict == "unconfirmed"
    assert finding.reason == "refused as a network whose input is int64: E load: Error: out of luck"
    # A tool chain that refuses a bool input may still take Where, whose float operand is the input.
    where = probes_of(OPERANDS, tmp_path)["Where 1x4x4x6, 1x4x4x6, 1x4x4x6"]
    assert Prober(Fake(floats_only)).operator(where).verdict == "confirmed"
    assert where.stand_in


def test_indices_stay_within_the_axis_that_they_index(tmp_path):
    text = f"""
        {HEADER.replace("19", "17")}
        probe (float[1, 4, 4, 6] image) => (float[2, 1, 4, 6] wide, float[1, 4, 1, 4, 6, 6] columns)
        <float[2, 5] table = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}>
        {{
            index = ArgMax<axis = 1, keepdims = 0>(image)
            wide = Gather<axis = 1>(table, index)
            line = ReduceMax<keepdims = 0, axes = [1]>(image)
            places = Cast<to = 7>(line)
            columns = Gather<axis = 2>(image, places)
        }}
    """  # opset 17 is the last in which the axes of ReduceMax are an attribute
    found = probes_of(text, tmp_path)
    assert set(found["Gather int64 axis 1, 1x4x6"].inputs.flat) == set(range(5))
    gather = found["Gather axis 2, 1x4x4x6, 1x4x6"]
    (index,) = (onnx.numpy_helper.to_array(each) for each in gather.variants[0].model.graph.initializer)
    assert (gather.stand_in, set(index.flat)) == (True, {0, 1, 2, 3})
    assert {Prober(Fake()).operator(probe).verdict for probe in found.values()} == {"confirmed"}


def test_half_precision_operands_and_outputs_of_two_kinds(tmp_path):
    text = f"""
        {HEADER}
        probe (float[1, 4, 4, 6] image) => (float16[1, 4, 4, 6] y, float[1, 1, 4, 6] best, int64[1, 1, 4, 6] place)
        <int64[1] one = {{1}}>
        {{
            h = Cast<to = 10>(image)
            r = Relu(h)
            y = Sub(h, r)
            best, place = TopK<axis = 1>(image, one)
        }}
    """
    found = probes_of(text, tmp_path)
    assert ops(found["Sub float16 1x4x4x6, 1x4x4x6"].variants[0].model) == [*["Slice", "Cast"] * 2, "Sub", "Cast"]
    assert {Prober(Fake()).operator(probe).verdict for probe in found.values()} == {"confirmed"}

    def worst(model):  # finds the smallest
        for node in model.graph.node:
            if node.op_type == "TopK":
                node.attribute.append(onnx.helper.make_attribute("largest", 0))
        return model

    assert Prober(Fake(worst)).operator(found["TopK axis 1, 1x4x4x6"]).verdict == "unconfirmed"


OTHERS = """
    <ir_version: 8, opset_import: ["": 16, "com.microsoft": 1, "mine": 1]>
    probe (float[1, 4, 4, 6] image) => (float[1, 4, 4, 6] a, float[1, 4, 4, 6] b, float[1, 4, 4, 6] c)
    <float[4, 1, 1] w = {1, 2, 3, 4}>
    {
        a = com.microsoft.Gelu(image)
        b = mine.Thing(image)
        k = mine.Thing(w)
        scaled = Mul(image, k)
        c = Relu(scaled)
        wide = Cast<to = 11>(image)
        negative = Neg(wide)
        short = Cast<to = 16>(image)
    }
"""


def test_operators_that_cannot_be_probed_have_a_reason_and_the_rest_is_probed(tmp_path):
    found = probes_of(OTHERS, tmp_path, check=False)
    prober = Prober(Fake())
    results = {name: prober.operator(probe) for name, probe in found.items()}
    assert {name: each.verdict for name, each in results.items()} == {
        "com.microsoft.Gelu 1x4x4x6": "confirmed",
        "mine.Thing 1x4x4x6": "unconfirmed",
        "mine.Thing": "unconfirmed",
        "Mul 1x4x4x6": "unconfirmed",
        "Relu": "unconfirmed",
        "Cast to 11, 1x4x4x6": "unconfirmed",
        "Neg float64 1x4x4x6": "unconfirmed",
        "Cast to 16, 1x4x4x6": "unconfirmed",
    }
    reasons = [each.reason for each in results.values() if each.verdict == "unconfirmed"]
    assert reasons[0].startswith("the extracted operator itself does not run: ")
    assert reasons[1:] == [
        "it only reads constants, but its value is not known",
        "the shape of its input k is not known",
        "the shape of its input scaled is not known",
        "float64 cannot be probed",
        "float64 cannot be probed",
        "bfloat16 cannot be probed",
    ]


def test_another_domains_operator_does_not_forbid_onnxs_own(tmp_path):
    gelu = probes_of(OTHERS, tmp_path, check=False)["com.microsoft.Gelu 1x4x4x6"]
    result = Prober(Fake(refusing(lambda model: "Gelu" in ops(model)))).operator(gelu)
    assert (result.op, result.verdict) == ("com.microsoft.Gelu", "unsupported")
    report = ProbeReport(load_target("per-channel"), "fake 1", (result,))
    assert (report.forbidden(), report.overstated, report.profile_value(result)) == ([], [], "-")


def test_q_dq_of_another_domain_stay_what_they_are(tmp_path):
    text = """
        <ir_version: 9, opset_import: ["": 19, "com.microsoft": 1]>
        probe (float[1, 4, 4, 6] image) => (float[1, 4, 4, 6] codes) <float s = {0.001}, uint16 z = {30000}>
        {
            q = com.microsoft.QuantizeLinear(image, s, z)
            d = com.microsoft.DequantizeLinear(q, s, z)
            g = Sigmoid(d)
            q2 = com.microsoft.QuantizeLinear(g, s, z)
            codes = com.microsoft.DequantizeLinear(q2, s, z)
        }
    """
    (probe,) = probes_of(text, tmp_path).values()
    assert {node.domain for node in probe.variants[0].model.graph.node} == {"", "com.microsoft"}
    finding = Prober(Fake()).operator(probe)
    assert finding.reason == "between Q/DQ pairs: off by 0 output steps, at most 2"


def test_nodes_that_differ_in_their_operands_are_two(tmp_path):
    text = f"""
        {HEADER}
        probe (float[1, 4] image) => (float[1, 4] y) <float[1, 4] k = {{1, 2, 3, 4}}>
        {{ a = Sub(image, k)  b = Sub(k, a)  c = Mul(b, b)  d = Mul(a, c)  y = Mul(d, d) }}
    """
    model = onnx.parser.parse_model(text)
    onnx.save(model, tmp_path / "model.onnx")
    found = [(probe.op, probe.count, probe.inputs.shape) for probe in operator_probes(tmp_path / "model.onnx")]
    assert found == [("Sub", 1, (1, 4)), ("Sub", 1, (1, 4)), ("Mul", 2, (1, 4)), ("Mul", 1, (1, 8))]


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
    # Accepted in float only is neither confirmed nor unsupported.
    prober = Prober(Fake(refusing(lambda model: {"Sigmoid", "QuantizeLinear"} <= set(ops(model)))))
    assert prober.operator(sigmoid).verdict == "unconfirmed"
    # A constant took the place of an input, so its refusal is not the operator's.
    concat = probes_of(FLOAT, tmp_path)["Concat axis 1, 1x2x8x12, 1x4x8x12"]
    finding = Prober(Fake(refusing(lambda model: "Concat" in ops(model)))).operator(concat)
    assert finding.verdict == "unconfirmed"
    assert finding.reason.startswith("refused with a constant in place of an input of another shape or type")


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


def test_files_that_cannot_be_probed(tmp_path):
    with pytest.raises(ConfigError, match="export it with a static batch of 1"):
        probes_of(
            f"{HEADER} probe (float[batch, 4] image) => (float[batch, 4] codes) {{ codes = Relu(image) }}", tmp_path
        )
    with pytest.raises(ConfigError, match=r"none.onnx"):
        operator_probes(tmp_path / "none.onnx")
