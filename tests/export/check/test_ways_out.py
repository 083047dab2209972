"""The pass that repairs each violation, and the recipe of them."""

import pytest

from depth_distill.export.check.npu_check import check_onnx
from depth_distill.export.check.ways_out import recipe_line
from depth_distill.export.onnx_io.opsets.lowering import lower
from depth_distill.quantization.target.operators import OperatorLimits
from tests.export.check.rules.chips import chip, parsed

IMAGE = "(float[1,8,16,16] x) => (float[a,b,c,d] y)"
ONES = ",".join("1" * 8)
RULES = {
    "max_opset": 20,
    "supported": {
        **dict.fromkeys(["Relu", "Add", "Mul", "ReduceMean"], OperatorLimits()),
        "Conv": OperatorLimits(max_window=3),
        "ConvTranspose": OperatorLimits(max_window=3),
        "Pad": OperatorLimits(modes=("constant",)),
        "Resize": OperatorLimits(modes=("nearest",)),
    },
}
CASES = [
    ("reflecting padding", "<int64[8] p = {0,0,1,1,0,0,1,1}> { y = Pad<mode = 'reflect'>(x, p) }", "zero_padding"),
    ("ELU", "{ y = Elu(x) }", "replace_activations"),
    ("SiLU", "{ s = Sigmoid(x)  y = Mul(x, s) }", "replace_activations"),
    ("a sigmoid on its own", "{ y = Sigmoid(x) }", ""),
    ("GELU", "{ y = Gelu(x) }", "replace_activations"),
    ("hardswish", "{ y = HardSwish(x) }", "replace_activations"),
    ("ReLU6", "<float l = {0}, float h = {6}> { y = Clip(x, l, h) }", "replace_relu6"),
    ("a gate", "{ p = ReduceMean<axes = [2,3]>(x)  s = HardSigmoid(p)  y = Mul(x, s) }", "replace_gates"),
    (
        "a transposed convolution",
        "<float[8,1,4,4] w> { y = ConvTranspose<group = 8>(x, w) }",
        "replace_transposed_convs",
    ),
    ("bilinear", "<float[4] s = {1,1,2,2}> { y = Resize<mode = 'linear'>(x, , s) }", "nearest_upsampling"),
    ("instance norm", f"<float[8] w = {{{ONES}}}> {{ y = InstanceNormalization(x, w, w) }}", "freeze_norms"),
    ("a large window", "<float[8,1,5,5] w> { y = Conv<group = 8>(x, w) }", "split_kernels"),
    ("flatten", "{ y = Flatten(x) }", "as_conv2d"),
    ("an operator that no pass rebuilds", "{ y = Transpose(x) }", ""),
]


@pytest.mark.parametrize(("name", "body", "expected"), CASES)
def test_the_pass_that_repairs_it(name, body, expected):
    opset = 17 if "axes" in body else 20
    body = body.replace("'", '"')
    for side in (4, 5):
        weight = f"float[8,1,{side},{side}] w"
        body = body.replace(f"{weight}>", f"{weight} = {{{','.join(['1'] * 8 * side * side)}}}>")
    signature = IMAGE if "Flatten" not in body else IMAGE.replace("a,b,c,d", "a,b")
    check = check_onnx(parsed(f"{signature} {body}", opset), chip(operators=RULES))
    (finding,) = (each for each in check.findings if each.severity == "violation")
    assert finding.pass_ == expected
    assert finding.remedy.startswith(f"pass {expected}" if expected else "build the network without it")
    assert bool(check.recipe_line) == bool(expected)


def test_the_line_at_the_end():
    text = f"""{IMAGE} <float[8] w = {{{ONES}}}>
        {{ a = Elu(x)  b = Elu(a)  c = InstanceNormalization(b, w, w)  d = Transpose(c)  y = Relu(d) }}"""
    check = check_onnx(parsed(text), chip(operators=RULES))
    assert check.recipe_line == (
        "recipe that repairs 3 of 4: [fold, freeze_norms*, replace_activations*]; "
        "passes marked with * change the function: train behind them"
    )
    assert recipe_line(["split_kernels"], 1) == "recipe that repairs 1 of 1: [fold, split_kernels]"


def test_a_norm_of_an_opset_without_it_is_recognized():
    text = f"""{IMAGE} <float[16] w = {{{",".join("1" * 16)}}}> {{ y = LayerNormalization(x, w, w) }}"""
    check = check_onnx(lower(parsed(text), 11), chip("aiware-apache6"))
    assert [(each.op, each.pass_) for each in check.findings] == [("Mul", "freeze_norms"), ("Add", "freeze_norms")]
