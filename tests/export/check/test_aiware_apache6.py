"""aiware-apache6 is the vendor's list: each line of it on a model that keeps it, and on one that does not."""

import onnx.parser
import pytest
import torch
from torch import nn

from depth_distill.export.check.npu_check import check_onnx
from depth_distill.export.onnx_io.file_spec import FileSpec, opset_for
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.quantization.target.target import load_target

APACHE = load_target("aiware-apache6")
IMAGE = "(float[1,8,16,16] x) => (float[a,b,c,d] y)"
ONES = {count: ",".join(["1"] * count) for count in (1, 8, 16, 64, 576, 2048)}


def rules(body, signature=IMAGE, opset=11):
    """The rules that a model breaks, without their prefix."""
    body = body.replace("'", '"')
    model = onnx.parser.parse_model(f'<ir_version: 6, opset_import: ["": {opset}]> graph {signature} {body}')
    onnx.checker.check_model(model)
    broken = [each for each in check_onnx(model, APACHE).findings if each.severity == "violation"]
    return [each.rule.split(",")[0].removeprefix("operators.") for each in broken]


def window(operator, side=3, stride=1, dilation=1, padding=0):
    pads = ",".join([str(padding)] * 4)
    settings = f"kernel_shape = [{side},{side}], strides = [{stride},{stride}], pads = [{pads}]"
    if dilation > 1 or operator == "Conv":
        settings += f", dilations = [{dilation},{dilation}]"
    if not operator.startswith("Conv"):
        return f"<float k = {{0}}> {{ y = {operator}<{settings}>(x) }}"
    weight = f"float[8,1,{side},{side}] w = {{{','.join(['1'] * 8 * side * side)}}}"
    return f"<{weight}> {{ y = {operator}<group = 8, {settings}>(x, w) }}"


def constant(operator, shape):
    count = 1
    for side in shape:
        count *= side
    sides = f"[{','.join(map(str, shape))}]" if shape else ""
    return f"<float{sides} k = {{{','.join(['1'] * count)}}}> {{ y = {operator}(x, k) }}"


def padded(pads, mode="constant", behind="y = Conv(p, w)"):
    return (
        f"<int64[8] q = {{{pads}}}, float[8,8,1,1] w = {{{ONES[64]}}}> {{ p = Pad<mode = '{mode}'>(x, q)  {behind} }}"
    )


def sliced(start, end, axes="1", step="1"):
    count = len(axes.split(","))
    given = {"a": start, "b": end, "c": axes, "d": step}
    stored = ", ".join(f"int64[{count}] {name} = {{{values}}}" for name, values in given.items())
    return f"<{stored}> {{ y = Slice(x, a, b, c, d) }}"


def resized(scale, mode="nearest", more=""):
    return f"<float[0] r = {{}}, float[4] s = {{1,1,{scale},{scale}}}> {{ y = Resize<mode = '{mode}'{more}>(x, r, s) }}"


TAKEN = [
    *("{ y = Add(x, x) }", "{ y = Sub(x, x) }", "{ y = Mul(x, x) }", "{ y = Div(x, x) }", "{ y = Sum(x, x) }"),
    *(constant("Add", shape) for shape in ((1, 8, 1, 1), (1, 1, 1, 1))),
    *("{ y = Mean(x, x) }", "{ y = HardSigmoid(x) }", "{ y = Softsign(x) }"),
    "<float e = {2}> { y = Pow(x, e) }",
    *(window("Conv", 17, padding=8), window("Conv", dilation=5), window("Conv", stride=4)),
    *(window("ConvTranspose", 5), window("ConvTranspose", stride=2)),
    *(window(each, 16, 2) for each in ("AveragePool", "MaxPool", "LpPool")),
    "{ y = LpPool<p = 1, kernel_shape = [2,2]>(x) }",
    "{ i = ArgMax<axis = 1>(x)  y = Cast<to = 1>(i) }",
    *("{ y = GlobalAveragePool(x) }", "{ y = GlobalMaxPool(x) }"),
    *("{ y = ReduceMax<axes = [1]>(x) }", "{ y = ReduceMean<axes = [-1,-2]>(x) }"),
    *("{ y = Concat<axis = 1>(x, x) }", "{ y = Concat<axis = -1>(x, x) }"),
    "{ y, z = Split<axis = 2>(x) }",
    padded("0,8,0,0,0,0,0,0", behind="y = Relu(p)"),
    padded("0,0,1,1,0,0,1,1"),
    padded("0,0,1,1,0,0,1,1", behind="y = MaxPool<kernel_shape = [3,3]>(p)"),
    *(sliced(0, 8), sliced(8, 16, "2"), sliced(-8, 16, "-1"), sliced(0, 16, "2", "2")),
    "{ a = GlobalMaxPool(x)  b = Squeeze<axes = [2,3]>(a)  y = Unsqueeze<axes = [2,3]>(b) }",
    *(resized(2), resized(4), resized(2, "linear")),
    *(f"{{ y = {each}(x) }}" for each in ("Abs", "Clip", "Elu", "LeakyRelu", "Relu", "Sigmoid", "Softplus", "Tanh")),
    f"<float[8] w = {{{ONES[8]}}}> {{ y = BatchNormalization(x, w, w, w, w) }}",
    "{ y = LRN<size = 3>(x) }",
]  # fmt: skip


@pytest.mark.parametrize("body", TAKEN)
def test_what_the_list_has_is_taken(body):
    signature = IMAGE.replace("d] y)", "d] y, float[a,b,e,d] z)") if "Split" in body else IMAGE
    assert rules(body, signature) == []


REFUSED = [
    *((constant("Add", shape), "supported.Add.operands") for shape in ((), (8, 1, 1), (1, 8, 16, 16), (1, 1, 1, 16))),
    (constant("Mul", (1, 16)), "supported.Mul.operands"),  # of 16 columns, not channels
    ("{ y = Sum(x, x, x) }", "supported.Sum.operands"),
    ("{ y = Pow(x, x) }", "supported.Pow.exponent"),
    (window("Conv", 19, padding=9), "supported.Conv.max_window"),
    (window("Conv", dilation=6), "supported.Conv.max_dilation"),
    (window("Conv", stride=3), "supported.Conv.strides"),
    (window("ConvTranspose", 6), "supported.ConvTranspose.max_window"),
    (window("ConvTranspose", stride=3), "supported.ConvTranspose.strides"),
    (window("ConvTranspose", dilation=6), "supported.ConvTranspose.max_dilation"),
    (window("MaxPool", 19, padding=9), "supported.MaxPool.max_window"),
    (window("MaxPool", 2, dilation=6), "supported.MaxPool.max_dilation"),
    (window("AveragePool", stride=3), "supported.AveragePool.strides"),
    (window("LpPool", 19, padding=9), "supported.LpPool.max_window"),
    ("{ y = LpPool<p = 3, kernel_shape = [2,2]>(x) }", "supported.LpPool.p"),
    ("{ i = ArgMax<axis = 2>(x)  y = Cast<to = 1>(i) }", "supported.ArgMax.axes"),
    ("{ y = ReduceMax<axes = [0,1]>(x) }", "supported.ReduceMax.axes"),
    ("{ y = ReduceMean(x) }", "supported.ReduceMean.axes"),
    ("{ y = ReduceSum<axes = [1]>(x) }", "supported"),
    ("{ y = Concat<axis = 0>(x, x) }", "supported.Concat.axes"),
    (padded("0,0,1,1,0,0,1,1", behind="y = Relu(p)"), "supported.Pad.pads"),
    (padded("0,0,1,1,0,0,1,1", behind="y = Conv<pads = [1,1,1,1]>(p, w)"), "supported.Pad.pads"),
    (padded("0,0,1,1,0,0,1,1", behind="c = Conv(p, w)  z = Relu(p)  y = Sum(c, z)"), "supported.Pad.pads"),
    (padded("0,0,1,1,0,0,1,1", "edge"), "supported.Pad.modes"),
    (sliced(1, 9), "supported.Slice.multiple"),
    (sliced(0, 8, "0"), "supported.Slice.axes"),
    (sliced("0,0", "8,8", "1,2", "1,1"), "supported.Slice.max_axes"),
    (sliced(15, -17, "2", "-1"), "supported.Slice.steps"),
    ("{ a = ReduceMax<axes = [1]>(x)  y = Squeeze<axes = [1]>(a) }", "supported.Squeeze.exact_axes"),
    ("{ a = Unsqueeze<axes = [0]>(x)  y = Relu(a) }", "supported.Unsqueeze.exact_axes"),
    (resized(3), "supported.Resize.factors"),
    (resized(0.5), "supported.Resize.factors"),
    (resized(2, "cubic"), "supported.Resize.modes"),
    ("{ c = Cast<to = 6>(x)  y = Cast<to = 1>(c) }", "supported.Cast.to"),
    ("<int64[2] s = {1,-1}> { y = Reshape(x, s) }", "supported"),
    ("{ y = Flatten(x) }", "supported"),
    ("{ y = Transpose(x) }", "supported"),
    ("{ y = ThresholdedRelu(x) }", "supported"),
    ("{ y = Max(x, x) }", "supported"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "rule"), REFUSED)
def test_what_the_list_has_not_is_refused(body, rule):
    assert rules(body) == [rule]


def test_argmax_over_many_channels():
    text = "{ i = ArgMax<axis = 1>(x)  y = Cast<to = 1>(i) }"
    assert rules(text, IMAGE.replace("1,8,", "1,256,")) == []
    assert rules(text, IMAGE.replace("1,8,", "1,257,")) == ["supported.ArgMax.max_channels"]


def test_a_constant_per_channel_of_a_vector():
    assert rules(constant("Mul", (1, 8)), "(float[1,8] x) => (float[a,b] y)") == []


def test_split_along_the_batch():
    text = "{ y, z = Split<axis = 0>(x) }"
    assert rules(text, "(float[2,8,8,8] x) => (float[a,b,c,d] y, float[a,b,c,d] z)") == ["supported.Split.axes"]


NINE = {
    "HardSwish": ("{ y = HardSwish(x) }", 14),
    "Softmax": ("{ y = Softmax(x) }", 11),
    "Erf": ("{ y = Erf(x) }", 11),
    "MatMul": ("{ y = MatMul(x, x) }", 11),
    "reflect Pad": (padded("0,0,1,1,0,0,1,1", "reflect"), 11),
    "InstanceNorm": (f"<float[8] w = {{{ONES[8]}}}> {{ y = InstanceNormalization(x, w, w) }}", 11),
    "DepthToSpace": ("{ y = DepthToSpace<blocksize = 2>(x) }", 11),
    "cubic Resize": (resized(2, "cubic"), 11),
    "MaxPool 19": (window("MaxPool", 19, padding=9), 11),
}


@pytest.mark.parametrize("name", NINE)
def test_nine_files_that_once_passed(name):
    body, opset = NINE[name]
    broken = [each for each in rules(body, opset=opset) if each != "max_opset"]
    assert len(broken) == 1
    assert broken[0].startswith("supported")


class Block(nn.Module):
    """A basic block of ResNet18."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs))
        self.short = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return torch.relu(self.second(self.first(x)) + self.short(x))


class UNet(nn.Module):
    """A ResNet encoder and a decoder of nearest upsampling and skips, with a sigmoid at its end."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.deep = Block(8, 16, 2)
        self.up = nn.Upsample(scale_factor=2)
        self.near = nn.Conv2d(24, 8, 3, padding=1)
        self.head = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image):
        stem = self.stem(image * 2.0 - 1.0)
        pooled = self.pool(stem)
        near = torch.relu(self.near(torch.cat([self.up(self.deep(pooled)), pooled], dim=1)))
        return torch.sigmoid(self.up(self.head(torch.cat([self.up(near), stem], dim=1))))


def test_a_network_of_its_operators_has_no_violation(tmp_path):
    torch.manual_seed(0)
    spec = FileSpec(64, 64, opset_for(APACHE))
    assert spec.opset == 11
    check = check_onnx(export_float(UNet().eval(), tmp_path / "f.onnx", spec), APACHE)
    assert [str(each) for each in check.findings if each.severity == "violation"] == []
    assert check.recipe_line == ""
