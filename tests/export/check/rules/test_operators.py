"""Rules on single operators that need hand-built graphs; the others are in test_npu_check.py."""

import pytest

from depth_distill.quantization.target.operators import OperatorLimits
from tests.export.check.rules.chips import chip, found, parsed

APACHE = "aiware-apache6"
CUTS = chip(operators={"limits": dict.fromkeys(["Slice", "Split"], OperatorLimits(multiple=8))})
ONES = ",".join("1" * 64)


def parts(split, axis=1):
    sizes = ",".join(map(str, split))
    shapes = [[1, 32, 8, 8] for _ in split]
    for shape, size in zip(shapes, split, strict=True):
        shape[axis] = size
    outputs = [f"y{index}" for index in range(len(split))]
    declared = ", ".join(f"float[{','.join(map(str, shape))}] {y}" for shape, y in zip(shapes, outputs, strict=True))
    return f"""(float[1,32,8,8] x) => ({declared}) <int64[{len(split)}] s = {{{sizes}}}>
        {{ {", ".join(outputs)} = Split<axis = {axis}>(x, s) }}"""


@pytest.mark.parametrize(
    ("split", "axis", "refused"),
    [((8, 24), 1, None), ((16, 16), -3, None), ((8, 12, 12), 1, "8, 20"), ((4, 28), 1, "4"), ((4, 4), 2, "4")],
)
def test_split_cuts_like_slice(split, axis, refused):
    findings = found(parts(split, axis), CUTS, "operators.limits.Split.multiple")
    assert [each.message for each in findings] == (
        [f"cuts at {refused} of axis {axis}, expected multiples of 8"] if refused else []
    )


def test_split_in_equal_parts():
    text = """(float[1,12,8,8] x) => (float[1,6,8,8] y, float[1,6,8,8] z)
        { y, z = Split<axis = 1, num_outputs = 2>(x) }"""
    assert len(found(text, CUTS, "operators.limits.Split.multiple")) == 1


@pytest.mark.parametrize(
    ("start", "end", "step", "refused"),
    [
        ("0", "8", "1", None),
        ("8", "9223372036854775807", "1", None),
        ("-8", "32", "1", None),
        ("1", "32", "2", "from 1 to 32"),
        ("-1", "-9223372036854775807", "-1", None),  # all of it, backwards
        ("7", "3", "-1", "from 4 to 8"),
    ],
)
def test_slices_with_steps_and_from_the_end(start, end, step, refused):
    text = f"""(float[1,32,8,8] x) => (float[1,n,8,8] y)
        <int64[1] a = {{{start}}}, int64[1] b = {{{end}}}, int64[1] c = {{1}}, int64[1] d = {{{step}}}>
        {{ y = Slice(x, a, b, c, d) }}"""
    messages = [each.message for each in found(text, CUTS, "operators.limits.Slice.multiple")]
    assert messages == ([f"{refused} of axis 1, expected multiples of 8"] if refused else [])


def test_a_slice_without_axes_or_as_attributes():
    text = """(float[32] x) => (float[4] y) <int64[1] a = {4}, int64[1] b = {8}, int64[1] d = {1}>
        { y = Slice(x, a, b, , d) }"""
    assert len(found(text, CUTS, "operators.limits.Slice.multiple")) == 1
    old = "(float[32] x) => (float[4] y) { y = Slice<starts = [4], ends = [8]>(x) }"
    assert len(found(old, CUTS, "operators.limits.Slice.multiple", opset=9)) == 1


@pytest.mark.parametrize("operation", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize(
    ("channels", "axis", "rule"), [(256, 1, None), (256, -3, None), (257, 1, "max_channels"), (8, 2, "axes")]
)
def test_argmax_and_argmin(operation, channels, axis, rule):
    text = f"(float[1,{channels},8,8] x) => (int64[a,b,c,d] y) {{ y = {operation}<axis = {axis}>(x) }}"
    target = chip(operators={"limits": {operation: OperatorLimits(axes=(1,), max_channels=256)}})
    for each in ("axes", "max_channels"):
        assert len(found(text, target, f"operators.limits.{operation}.{each}")) == (each == rule)


@pytest.mark.parametrize(
    ("axes", "refused"), [("1", None), ("0,-1", "axes 0, 3, allowed are 1, 3"), ("", "axes 0, 1, 2, 3")]
)
def test_axes_of_a_reduction_as_an_input(axes, refused):
    count = len(axes.split(",")) if axes else 0
    text = f"""(float[1,8,8,8] x) => (float[a,b,c,d] y) <int64[{count}] a = {{{axes}}}> {{ y = ReduceSum(x, a) }}"""
    target = chip(operators={"limits": {"ReduceSum": OperatorLimits(axes=(1, 3))}})
    messages = [each.message for each in found(text, target, "operators.limits.ReduceSum.axes")]
    assert [each.startswith(refused or "?") for each in messages] == [True] * bool(refused)


@pytest.mark.parametrize(("shape", "refused"), [("1,8,1,1", False), ("8,1,1", True), ("8,8", True), ("1,1,1,8", True)])
def test_a_constant_that_is_stored_in_codes(shape, refused):
    count = 64 if shape == "8,8" else 8
    text = f"""(float[1,8,8,8] x) => (float[1,8,8,8] y)
        <float s = {{0.5}}, int8 z = {{0}}, int8[{shape}] k = {{{ONES[: 2 * count - 1]}}}>
        {{ d = DequantizeLinear(k, s, z)  y = Mul(x, d) }}"""
    assert len(found(text, chip(APACHE), "operators.supported.Mul.operands")) == refused
    quantized = text.replace("int8[", "float[").replace("DequantizeLinear(k", "QuantizeLinear(k").replace("d =", "q =")
    quantized = quantized.replace("y = Mul", "d = DequantizeLinear(q, s, z)  y = Mul")
    assert len(found(quantized, chip(APACHE), "operators.supported.Mul.operands")) == refused


def test_a_constant_with_one_scale_per_channel():
    text = """(float[1,2,8,8] x) => (float[1,2,8,8] y)
        <float[2] s = {0.5, 1}, int8[2] z = {0, 0}, int8[1,2,1,1] k = {1, 2}>
        { d = DequantizeLinear<axis = 1>(k, s, z)  y = Mul(x, d) }"""
    assert found(text, chip(APACHE), "operators.supported.Mul.operands") == []


def test_a_window_of_stored_codes():
    text = f"""(float[1,1,32,32] x) => (float[1,1,a,b] y)
        <float s = {{0.5}}, int8[1,1,19,19] k = {{{",".join("1" * 361)}}}>
        {{ w = DequantizeLinear(k, s)  y = Conv(x, w) }}"""
    assert len(found(text, chip(APACHE), "operators.supported.Conv.max_window")) == 1


def test_a_list_of_what_is_taken():
    text = "(float[1,8,8,8] x) => (float[1,8,8,8] y) { a = Relu(x)  y = Sigmoid(a) }"
    target = chip(operators={"supported": {"Relu": OperatorLimits()}})
    (finding,) = found(text, target, "operators.supported")
    assert (finding.severity, finding.op, finding.message) == ("violation", "Sigmoid", "Sigmoid is not supported")
    both = chip(
        operators={"supported": {"Relu": OperatorLimits(), "Sigmoid": OperatorLimits()}, "forbidden": ("Relu",)}
    )
    assert found(text, both, "operators.supported") == []
    assert [each.op for each in found(text, both, "operators.forbidden")] == ["Relu"]


def test_formats_of_tensors_are_no_operators():
    text = """(float[1,8,8,8] x) => (float[1,8,8,8] y) <float s = {0.5}, uint8 z = {0}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  i = Identity(d)  y = Relu(i) }"""
    assert found(text, chip(operators={"supported": {"Relu": OperatorLimits()}}), "operators.supported") == []


@pytest.mark.parametrize(
    ("shape", "sizes", "refused"),
    [("1,8", "1,8", False), ("1,1", "1,8,8,8", False), ("1,8", "1,8,8,8", True), ("1,8,1,1", "1,8", True)],
)
def test_one_value_per_channel_has_the_axes_of_the_other_operand(shape, sizes, refused):
    values = ",".join("1" * (8 if "8" in shape else 1))
    text = f"(float[{sizes}] x) => (float[a,b] y) <float[{shape}] k = {{{values}}}> {{ y = Mul(x, k) }}"
    text = text if sizes != "1,8,8,8" and shape != "1,8,1,1" else text.replace("float[a,b]", "float[a,b,c,d]")
    assert len(found(text, chip(APACHE), "operators.supported.Mul.operands")) == refused


def test_a_slice_whose_steps_are_left_out_is_checked():
    text = """(float[1,32,8,8] x) => (float[1,n,8,8] y) <int64[1] a = {1}, int64[1] b = {9}, int64[1] c = {1}>
        { y = Slice(x, a, b, c, ) }"""
    model = parsed(text.replace("c, )", "c)"))
    model.graph.node[0].input.append("")
    assert len(found(model, CUTS, "operators.limits.Slice.multiple")) == 1
