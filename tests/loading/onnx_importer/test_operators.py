"""One file of a few lines per operator: the same numbers as ONNX Runtime, as the module that torch users write."""

import numpy as np
import pytest

from depth_distill.errors import ConfigError
from tests.loading.onnx_importer.onnx_text import IMAGE, imported, kinds

I64 = np.int64


def floats(*values):
    return np.asarray(values, np.float32)


def ints(*values):
    return np.asarray(values, I64)


W = {"w": (6, 4, 3, 3), "b": (6,)}
TOKENS = "float[1,5,8] x"

CASES = {
    # Convolutions
    "conv": ("y = Conv <pads=[1,1,1,1]> (x, w, b)", W, "Conv2d"),
    "conv without bias": ("y = Conv <strides=[2,2]> (x, w)", {"w": (6, 4, 3, 3)}, "Conv2d"),
    "grouped": ("y = Conv <group=2, dilations=[2,1]> (x, w)", {"w": (6, 2, 3, 3)}, "Conv2d"),
    "depthwise": ("y = Conv <group=4, pads=[1,2,1,2]> (x, w)", {"w": (4, 1, 3, 5)}, "Conv2d"),
    "unequal pads": ("y = Conv <pads=[0,1,1,2]> (x, w)", {"w": (6, 4, 3, 3)}, "pad Conv2d"),
    "same upper": ('y = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (x, w)', {"w": (6, 4, 3, 3)}, "pad Conv2d"),
    "same lower": ('y = Conv <auto_pad="SAME_LOWER", strides=[2,2]> (x, w)', {"w": (6, 4, 3, 3)}, "pad Conv2d"),
    "same": ('y = Conv <auto_pad="SAME_UPPER"> (x, w)', {"w": (6, 4, 3, 3)}, "Conv2d"),
    "valid": ('y = Conv <auto_pad="VALID"> (x, w)', {"w": (6, 4, 3, 3)}, "Conv2d"),
    "bias behind": ("a = Conv (x, w) y = Add (a, b)", {"w": (6, 4, 1, 1), "b": (1, 6, 1, 1)}, "Conv2d"),
    "bias read twice": ("a = Conv (x, w) c = Add (a, b) y = Mul (a, c)", {"w": (6, 4, 1, 1), "b": (1, 6, 1, 1)},
                        "Conv2d add mul"),
    "transposed": ("y = ConvTranspose <strides=[2,2]> (x, w, b)", {"w": (4, 6, 2, 2), "b": (6,)}, "ConvTranspose2d"),
    "transposed, padded": (
        "y = ConvTranspose <strides=[2,2], pads=[1,1,1,1], output_padding=[1,1], group=2> (x, w)",
        {"w": (4, 3, 3, 3)}, "ConvTranspose2d"),
    "transposed, unequal": (
        "y = ConvTranspose <strides=[2,2], pads=[1,0,0,1]> (x, w)", {"w": (4, 3, 3, 3)}, "ConvTranspose2d getitem"),
    "transposed, shape": (
        "y = ConvTranspose <strides=[2,2], output_shape=[16,16]> (x, w)", {"w": (4, 3, 3, 3)}, "ConvTranspose2d"),
    "transposed, same": (
        'y = ConvTranspose <strides=[2,2], auto_pad="SAME_UPPER"> (x, w)', {"w": (4, 3, 3, 3)},
        "ConvTranspose2d getitem"),
    "transposed, bias behind": ("a = ConvTranspose (x, w) y = Add (b, a)", {"w": (4, 6, 2, 2), "b": (6, 1, 1)},
                                "ConvTranspose2d"),
    "scaled behind": ("a = Conv (x, w) m = Mul (a, f) y = Sub (m, b)",
                      {"w": (6, 4, 1, 1), "f": (6, 1, 1), "b": (1, 6, 1, 1)}, "Conv2d BatchNorm2d"),
    "scaled by a number": ("a = Conv (x, w) m = Div (a, f) y = Add (b, m)",
                           {"w": (6, 4, 1, 1), "f": np.float32(3), "b": (1, 6, 1, 1)}, "Conv2d BatchNorm2d"),
    "numbers behind": ("a = Conv (x, w) m = Mul (a, f) y = Add (m, f)",
                       {"w": (6, 4, 1, 1), "f": np.float32(3)}, "Conv2d mul add"),
    "a factor per row is none per channel": ("a = Conv (x, w) y = Mul (a, f)", {"w": (8, 4, 1, 1), "f": (8, 1)},
                                             "Conv2d mul"),
    "bias that nodes compute": ("a = Conv (x, w) u = Unsqueeze (b, i) y = Add (a, u)",
                                {"w": (6, 4, 1, 1), "b": (6,), "i": ints(1, 2)}, "Conv2d"),
    # Normalizations
    "caffe": ("n = BatchNormalization (x, s, b, m, v) f = Mul (n, c) y = Add (f, d)",
              {"s": (4,), "b": (4,), "m": (4,), "v": floats(0.5, 1, 2, 3), "c": (4, 1, 1), "d": (4, 1, 1)},
              "BatchNorm2d"),
    "batch norm": ("y = BatchNormalization (x, s, b, m, v)",
                   {"s": (4,), "b": (4,), "m": (4,), "v": floats(0.5, 1, 2, 3)}, "BatchNorm2d"),
    "instance norm": ("y = InstanceNormalization (x, s, b)", {"s": (4,), "b": (4,)}, "InstanceNorm2d"),
    "lrn": ("y = LRN <size=3, alpha=0.1> (x)", {}, "LocalResponseNorm"),
    "lp norm": ("y = LpNormalization <axis=1> (x)", {}, "normalize"),
    "lp norm 1": ("y = LpNormalization <axis=-1, p=1> (x)", {}, "normalize"),
    "mean variance": ("y = MeanVarianceNormalization <axes=[2,3]> (x)", {}, "mean sub mul mean sqrt add div"),
    "softmax": ("y = Softmax <axis=1> (x)", {}, "Softmax"),
    "log softmax": ("y = LogSoftmax (x)", {}, "LogSoftmax"),
    # Activations
    "relu": ("y = Relu (x)", {}, "ReLU"),
    "leaky relu": ("y = LeakyRelu <alpha=0.2> (x)", {}, "LeakyReLU"),
    "prelu": ("y = PRelu (x, a)", {"a": floats(0.1, 0.2, 0.3, 0.4).reshape(4, 1, 1)}, "PReLU"),
    "prelu of one": ("y = PRelu (x, a)", {"a": floats(0.25)}, "PReLU"),
    "prelu per pixel": ("y = PRelu (x, a)", {"a": (8, 8)}, "clamp relu mul add"),
    "elu": ("y = Elu <alpha=0.5> (x)", {}, "ELU"),
    "celu": ("y = Celu <alpha=2.0> (x)", {}, "CELU"),
    "selu": ("y = Selu (x)", {}, "SELU"),
    "selu of others": ("y = Selu <alpha=1.0, gamma=2.0> (x)", {}, "ELU mul"),
    "sigmoid": ("y = Sigmoid (x)", {}, "Sigmoid"),
    "tanh": ("y = Tanh (x)", {}, "Tanh"),
    "softplus": ("y = Softplus (x)", {}, "Softplus"),
    "softsign": ("y = Softsign (x)", {}, "Softsign"),
    "hard sigmoid": ("y = HardSigmoid <alpha=0.1666667, beta=0.5> (x)", {}, "Hardsigmoid"),
    "hard sigmoid of onnx": ("y = HardSigmoid (x)", {}, "mul add Hardtanh"),
    "hard swish": ("y = HardSwish (x)", {}, "Hardswish"),
    "thresholded": ("y = ThresholdedRelu <alpha=0.3> (x)", {}, "Threshold"),
    "relu6": ("y = Clip (x, l, h)", {"l": np.float32(0), "h": np.float32(6)}, "ReLU6"),
    "clip": ("y = Clip (x, l, h)", {"l": np.float32(-1), "h": np.float32(1)}, "Hardtanh"),
    "clip from 0": ("y = Clip (x, l)", {"l": np.float32(0)}, "ReLU"),
    "clip up to": ("y = Clip (x, , h)", {"h": np.float32(1)}, "clamp"),
    "erf": ("y = Erf (x)", {}, "erf"),
    # Patterns
    "silu": ("s = Sigmoid (x) y = Mul (x, s)", {}, "SiLU"),
    "silu, read": ("s = Sigmoid (x) a = Mul (x, s) y = Add (a, s)", {}, "Sigmoid mul add"),
    "hardswish": ("s = HardSigmoid <alpha=0.1666667> (x) y = Mul (s, x)", {}, "Hardswish"),
    "hardswish by relu6": (
        "a = Add (x, t) c = Clip (a, l, h) m = Mul (x, c) y = Div (m, h)",
        {"t": np.float32(3), "l": np.float32(0), "h": np.float32(6)}, "Hardswish"),
    "hardswish, divided first": (
        "a = Add (x, t) c = Clip (a, l, h) d = Div (c, h) y = Mul (x, d)",
        {"t": np.float32(3), "l": np.float32(0), "h": np.float32(6)}, "Hardswish"),
    "hard sigmoid by relu6": (
        "a = Add (x, t) c = Clip (a, l, h) y = Div (c, h)",
        {"t": np.float32(3), "l": np.float32(0), "h": np.float32(6)}, "Hardsigmoid"),
    "mish": ("a = Softplus (x) t = Tanh (a) y = Mul (x, t)", {}, "Mish"),
    "gelu": (
        "d = Div (x, r) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, h)",
        {"r": np.float32(2**0.5), "one": np.float32(1), "h": np.float32(0.5)}, "GELU"),
    "gelu, halved first": (
        "i = Mul (x, h) d = Mul (x, r) e = Erf (d) a = Add (e, one) y = Mul (i, a)",
        {"r": np.float32(0.5**0.5), "one": np.float32(1), "h": np.float32(0.5)}, "GELU"),
    "gelu, halved gate": (
        "d = Div (x, r) e = Erf (d) a = Add (e, one) g = Mul (a, h) y = Mul (x, g)",
        {"r": np.float32(2**0.5), "one": np.float32(1), "h": np.float32(0.5)}, "GELU"),
    "gelu with another root": (
        "d = Div (x, r) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, h)",
        {"r": np.float32(1.5), "one": np.float32(1), "h": np.float32(0.5)}, "truediv erf add mul mul"),
    # Arithmetic
    "numbers": ("a = Mul (x, two) c = Sub (one, a) y = Div (c, two)",
                {"two": np.float32(2), "one": np.float32(1)}, "mul sub truediv"),
    "per channel": ("y = Mul (x, f)", {"f": (4, 1, 1)}, "mul"),
    "sum": ("y = Sum (x, x, x)", {}, "add add"),
    "mean": ("y = Mean (x, x, one)", {"one": np.float32(1)}, "add add truediv"),
    "max": ("a = Neg (x) y = Max (x, a, z)", {"z": np.float32(0.5)}, "neg maximum clamp"),
    "min": ("a = Neg (x) y = Min (x, z, a)", {"z": np.float32(0.5)}, "neg minimum clamp"),
    "unary": ("a = Abs (x) b = Sqrt (a) c = Exp (b) d = Log (c) e = Reciprocal (c) y = Add (d, e)", {},
              "abs sqrt exp log reciprocal add"),
    "rounding": ("a = Floor (x) b = Ceil (x) c = Round (x) y = Sum (a, b, c)", {}, "floor ceil round add add"),
    "trigonometry": ("a = Sin (x) b = Cos (a) y = Atan (b)", {}, "sin cos atan"),
    "power": ("a = Pow (x, two) y = Pow (two, a)", {"two": np.float32(2)}, "pow pow"),
    "where": ("c = Greater (x, z) n = Not (c) y = Where (n, x, f)", {"z": np.float32(0), "f": (4, 1, 1)},
              "gt logical_not where"),
    "logic": ("a = Less (x, z) b = Equal (x, x) c = And (a, b) d = Or (c, a) y = Cast <to=1> (d)",
              {"z": np.float32(0)}, "lt eq logical_and logical_or to"),
    "cast to integers": ("a = Cast <to=6> (x) b = Div (a, t) c = Mod (b, t) y = Cast <to=1> (c)", {"t": np.int32(2)},
                         "type div remainder to"),
    "nothing": ("a = Identity (x) b = Dropout (a) c = Cast <to=1> (b) y = Relu (c)", {}, "ReLU"),
    # Pools
    "max pool": ("y = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x)", {}, "MaxPool2d"),
    "max pool, same": ('y = MaxPool <kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"> (x)', {}, "MaxPool2d"),
    "max pool, lower": ("y = MaxPool <kernel_shape=[2,2], pads=[1,1,0,0]> (x)", {}, "MaxPool2d getitem"),
    "max pool, ceil": ("y = MaxPool <kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (x)", {}, "MaxPool2d"),
    "average": ("y = AveragePool <kernel_shape=[2,2], strides=[2,2]> (x)", {}, "AvgPool2d"),
    "average, pads": ("y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (x)", {}, "AvgPool2d"),
    "average, counted": ("y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (x)", {},
                         "AvgPool2d"),
    "average, ceil": ("y = AveragePool <kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (x)", {}, "AvgPool2d"),
    "average, unequal": ("y = AveragePool <kernel_shape=[3,3], pads=[0,0,1,1], count_include_pad=1> (x)", {},
                         "pad AvgPool2d"),
    "average, unequal and not counted": ("y = AveragePool <kernel_shape=[3,3], pads=[0,0,1,1]> (x)", {},
                                         "pad AvgPool2d mul"),
    "global": ("y = GlobalAveragePool (x)", {}, "AdaptiveAvgPool2d"),
    "global max": ("y = GlobalMaxPool (x)", {}, "AdaptiveMaxPool2d"),
    "lp pool": ("a = Abs (x) y = LpPool <kernel_shape=[2,2]> (a)", {}, "abs abs LPPool2d"),
    # Reductions
    "mean over space": ("y = ReduceMean <axes=[2,3]> (x)", {}, "mean"),
    "sum over an axis": ("y = ReduceSum <keepdims=0> (x, a)", {"a": ints(-1)}, "sum"),
    "extrema": ("a = ReduceMax <axes=[1]> (x) b = ReduceMin <axes=[1]> (x) y = Sub (a, b)", {}, "amax amin sub"),
    "norms": ("a = ReduceL2 <axes=[1]> (x) b = ReduceL1 <axes=[1]> (x) y = Add (a, b)", {},
              "linalg_vector_norm linalg_vector_norm add"),
    "product": ("y = ReduceProd <axes=[2,3], keepdims=0> (x)", {}, "prod prod"),
    "log of sums": ("y = ReduceLogSumExp <axes=[1]> (x)", {}, "logsumexp"),
    "squares": ("y = ReduceSumSquare <axes=[1]> (x)", {}, "mul sum"),
    "argmax": ("y = ArgMax <axis=1, keepdims=0> (x)", {}, "argmax"),
    "cumulative": ("y = CumSum (x, a)", {"a": np.int64(3)}, "cumsum"),
    # Moves
    "concat": ("a = Relu (x) y = Concat <axis=-3> (x, a)", {}, "ReLU cat"),
    "reshape": ("y = Reshape (x, s)", {"s": ints(0, -1, 8)}, "reshape"),
    "reshape, as one image": ("y = Reshape (x, s)", {"s": ints(1, 2, 2, 64)}, "reshape"),
    "flatten": ("y = Flatten (x)", {}, "flatten"),
    "transpose": ("y = Transpose <perm=[0,2,3,1]> (x)", {}, "permute"),
    "squeeze": ("a = ReduceMean <axes=[3]> (x) b = Squeeze (a, s) y = Unsqueeze (b, s)", {"s": ints(3)},
                "mean squeeze unsqueeze"),
    "expand": ("a = GlobalAveragePool (x) y = Expand (a, s)", {"s": ints(1, 1, 3, 5)}, "AdaptiveAvgPool2d expand"),
    "tile": ("y = Tile (x, s)", {"s": ints(1, 2, 1, 3)}, "tile"),
    "split": ("a, b = Split <axis=1> (x, s) y = Concat <axis=1> (b, a)", {"s": ints(1, 3)},
              "split getitem getitem cat"),
    "halves": ("a, b = Split <axis=1> (x) y = Add (b, a)", {}, "split getitem getitem add"),
    "pad": ("y = Pad (x, p)", {"p": ints(0, 0, 1, 2, 0, 0, 3, 4)}, "pad"),
    "pad with a number": ("y = Pad (x, p, v)", {"p": ints(0, 0, 1, 2, 0, 0, 3, 4), "v": np.float32(1.5)}, "pad"),
    "pad channels": ("y = Pad (x, p)", {"p": ints(0, 1, 0, 0, 0, 2, 0, 0)}, "pad"),
    "reflect": ('y = Pad <mode="reflect"> (x, p)', {"p": ints(0, 0, 1, 2, 0, 0, 3, 4)}, "pad"),
    "edge": ('y = Pad <mode="edge"> (x, p)', {"p": ints(0, 0, 1, 2, 0, 0, 3, 4)}, "pad"),
    "depth to space": ("y = DepthToSpace <blocksize=2> (x)", {}, "PixelShuffle"),
    "depth to space, CRD": ('y = DepthToSpace <blocksize=2, mode="CRD"> (x)', {}, "PixelShuffle"),
    "depth to space, DCR": ("a = Concat <axis=1> (x, x) y = DepthToSpace <blocksize=2> (a)", {},
                            "cat reshape permute reshape"),
    "space to depth": ("y = SpaceToDepth <blocksize=2> (x)", {}, "reshape permute reshape"),
    # Choices
    "slice": ("y = Slice (x, s, e, a, t)", {"s": ints(1, -6), "e": ints(3, 1000), "a": ints(1, 3), "t": ints(1, 2)},
              "getitem"),
    "slice backwards": ("y = Slice (x, s, e, a, t)",
                        {"s": ints(-1), "e": ints(-1000), "a": ints(2), "t": ints(-1)}, "flip"),
    "slice backwards in part": ("y = Slice (x, s, e, a, t)",
                                {"s": ints(6), "e": ints(1), "a": ints(2), "t": ints(-2)}, "flip getitem"),
    "gather one": ("y = Gather <axis=1> (x, i)", {"i": np.int64(-1)}, "getitem"),
    "gather a range": ("y = Gather <axis=1> (x, i)", {"i": ints(1, 2)}, "getitem"),
    "gather": ("y = Gather <axis=1> (x, i)", {"i": ints(2, 0, -1)}, "index_select"),
    "gather a table": ("y = Gather <axis=3> (x, i)", {"i": ints([2, 0], [7, 3])}, "getitem"),
    "top": ("y, i = TopK <axis=1> (x, k)", {"k": ints(2)}, "topk getitem"),
    "triangle": ("y = Trilu <upper=0> (x)", {}, "tril"),
    # Known before the network runs
    "shape": ("s = Shape (x) h = Slice (s, b, e) n = Concat <axis=0> (h, m) y = Reshape (x, n)",
              {"b": ints(0), "e": ints(2), "m": ints(-1)}, "reshape"),
    "constants": ("s = Shape (x) c = ConstantOfShape (s) r = Cast <to=1> (c) y = Add (x, r)", {}, "add"),
    "range": ("r = Range (b, e, o) c = Cast <to=1> (r) y = Mul (x, c)",
              {"b": np.int64(0), "e": np.int64(8), "o": np.int64(1)}, "mul"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "constants", "expected"), CASES.values(), ids=CASES)
def test_equals_onnxruntime_as_torch_users_write_it(tmp_path, body, constants, expected):
    opset = 14 if "MeanVariance" in body else 17
    found = imported(tmp_path, body, opset=opset, **constants)
    assert found.deviation <= 1e-5
    assert kinds(found) == expected.split()
    assert found.any_batch


TOKEN_CASES = {
    "linear": ("a = MatMul (x, w) y = Add (a, b)", {"w": (8, 6), "b": (6,)}, "Linear"),
    "linear, bias first": ("a = MatMul (x, w) y = Add (b, a)", {"w": (8, 6), "b": (6,)}, "Linear"),
    "linear without bias": ("y = MatMul (x, w)", {"w": (8, 6)}, "Linear"),
    "attention": ("t = Transpose <perm=[0,2,1]> (x) a = MatMul (x, t) s = Softmax (a) y = MatMul (s, x)", {},
                  "permute matmul Softmax matmul"),
    "constant first": ("y = MatMul (w, x)", {"w": (3, 5)}, "matmul"),
    "layer norm": ("y = LayerNormalization (x, s, b)", {"s": (8,), "b": (8,)}, "LayerNorm"),
    "layer norm without bias": ("y = LayerNormalization (x, s)", {"s": (8,)}, "LayerNorm"),
    "einsum": ('y = Einsum <equation="bnc, bmc -> bnm"> (x, x)', {}, "einsum"),
    "heads": ("a = Reshape (x, s) t = Transpose <perm=[0,2,1,3]> (a) y = Reshape (t, r)",
              {"s": ints(1, 5, 2, 4), "r": ints(2, 5, 4)}, "reshape permute reshape"),
    "class token": ("y = Concat <axis=1> (c, x)", {"c": (1, 1, 8)}, "size expand cat"),
    "conv1d": ("y = Conv <pads=[1,1]> (x, w)", {"w": (6, 5, 3)}, "Conv1d"),
    "resize1d": ('y = Resize <mode="linear", coordinate_transformation_mode="half_pixel"> (x, , s)',
                 {"s": floats(1, 1, 2)}, "interpolate"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "constants", "expected"), TOKEN_CASES.values(), ids=TOKEN_CASES)
def test_tokens(tmp_path, body, constants, expected):
    found = imported(tmp_path, body, inputs=TOKENS, **constants)
    assert found.deviation <= 1e-5
    assert kinds(found) == expected.split()
    assert found.any_batch


@pytest.mark.parametrize(
    ("attributes", "weight", "bias", "expected"),
    [
        ("", (8, 6), (6,), "Linear"),
        ("<transB=1>", (6, 8), (6,), "Linear"),
        ("<transB=1, alpha=0.5, beta=2.0>", (6, 8), (1, 6), "Linear"),
        ("<transB=1>", (6, 8), (), "Linear"),
        ("<alpha=0.5, beta=2.0>", (8, 6), (3, 6), "matmul mul mul add"),
    ],
)
def test_gemm(tmp_path, attributes, weight, bias, expected):
    found = imported(tmp_path, f"y = Gemm {attributes} (x, w, b)", inputs="float[3,8] x", w=weight, b=bias)
    assert found.deviation <= 1e-5
    assert kinds(found) == expected.split()


def test_gemm_transposed_and_without_bias(tmp_path):
    found = imported(tmp_path, "y = Gemm <transA=1> (x, w)", inputs="float[8,3] x", w=(8, 6))
    assert kinds(found) == ["transpose", "Linear"]


NEAREST = 'mode="nearest", coordinate_transformation_mode="{}", nearest_mode="{}"'
RESIZES = {
    "asymmetric": (NEAREST.format("asymmetric", "floor"), floats(1, 1, 2, 2), {"scale_factor": 2.0, "mode": "nearest"}),
    "half pixel": (NEAREST.format("half_pixel", "round_prefer_ceil"), floats(1, 1, 2, 4),
                   {"scale_factor": (2.0, 4.0), "mode": "nearest"}),
    "half pixel, odd": (NEAREST.format("half_pixel", "round_prefer_floor"), floats(1, 1, 1.4, 1.4),
                        {"mode": "nearest-exact"}),
    "linear": ('mode="linear"', floats(1, 1, 2, 2),
               {"scale_factor": 2.0, "mode": "bilinear", "align_corners": False}),
    "linear down": ('mode="linear", coordinate_transformation_mode="pytorch_half_pixel"', floats(1, 1, 0.5, 0.5),
                    {"scale_factor": 0.5, "mode": "bilinear", "align_corners": False}),
    "corners": ('mode="linear", coordinate_transformation_mode="align_corners"', floats(1, 1, 2, 2),
                {"align_corners": True}),
    "cubic": ('mode="cubic"', floats(1, 1, 2, 2), {"mode": "bicubic", "align_corners": False}),
}  # fmt: skip


@pytest.mark.parametrize(("attributes", "scales", "options"), RESIZES.values(), ids=RESIZES)
def test_resize_by_scales(tmp_path, attributes, scales, options):
    found = imported(tmp_path, f"y = Resize <{attributes}> (x, , s)", s=scales)
    (node,) = (node for node in found.graph.graph.nodes if node.op == "call_function")
    assert found.deviation <= 1e-5
    assert {key: node.kwargs[key] for key in options} == options


def test_resize_to_sizes(tmp_path):
    found = imported(tmp_path, 'y = Resize <mode="linear"> (x, , , s)', s=ints(1, 4, 16, 12))
    (node,) = (node for node in found.graph.graph.nodes if node.op == "call_function")
    assert node.kwargs["size"] == (16, 12)


def test_resize_that_torch_has_not_is_refused_by_name(tmp_path):
    body = '[up] y = Resize <mode="linear", coordinate_transformation_mode="asymmetric"> (x, , s)'
    with pytest.raises(ConfigError, match=r"network\.onnx: Resize 'up': linear with asymmetric has no equal in torch"):
        imported(tmp_path, body, s=floats(1, 1, 2, 2))


OLD = {
    "upsample 9": (9, "y = Upsample (x, s)", {"s": floats(1, 1, 2, 2)}, "interpolate"),
    "resize 10": (10, "y = Resize (x, s)", {"s": floats(1, 1, 2, 2)}, "interpolate"),
    "clip 9": (9, "y = Clip <min=0.0, max=6.0> (x)", {}, "ReLU6"),
    "clip 9 from 0": (9, "y = Clip <min=0.0> (x)", {}, "ReLU"),
    "pad 9": (9, "y = Pad <pads=[0,0,1,1,0,0,1,1]> (x)", {}, "pad"),
    "slice 9": (9, "y = Slice <axes=[1], starts=[1], ends=[3]> (x)", {}, "getitem"),
    "split 9": (9, "a, b = Split <axis=1, split=[1,3]> (x) y = Concat <axis=1> (b, a)", {},
                "split getitem getitem cat"),
    "squeeze 9": (9, "a = ReduceMean <axes=[3]> (x) b = Squeeze <axes=[3]> (a) y = Unsqueeze <axes=[3]> (b)", {},
                  "mean squeeze unsqueeze"),
    "top 9": (9, "y, i = TopK <axis=1, k=2> (x)", {}, "topk getitem"),
    "dropout 9": (9, "a = Dropout <ratio=0.5> (x) y = Relu (a)", {}, "ReLU"),
    "softmax 11": (11, "y = Softmax <axis=1> (x)", {}, "flatten Softmax reshape"),
    "softmax 11 of one pixel": (11, "a = GlobalAveragePool (x) y = Softmax <axis=1> (a)", {},
                                "AdaptiveAvgPool2d Softmax"),
    "softmax 13": (13, "y = Softmax <axis=1> (x)", {}, "Softmax"),
    "gemm 9": (9, "f = Flatten (x) y = Gemm <transB=1> (f, w, b)", {"w": (3, 256), "b": (3,)}, "flatten Linear"),
    "reduce 18": (18, "y = ReduceMean (x, a)", {"a": ints(2, 3)}, "mean"),
    "resize 18": (18, 'y = Resize <mode="linear", axes=[2,3]> (x, , s)', {"s": floats(2, 2)}, "interpolate"),
    "resize 18 antialiased": (18, 'y = Resize <mode="linear", antialias=1, exclude_outside=1> (x, , s)',
                              {"s": floats(1, 1, 0.5, 0.5)}, "interpolate"),
    "pad 18": (18, "y = Pad (x, p, , a)", {"p": ints(1, 2), "a": ints(3)}, "pad"),
    "split 18": (18, "a, b, c = Split <axis=3, num_outputs=3> (x) y = Concat <axis=3> (c, b, a)", {},
                 "split getitem getitem getitem cat"),
    "mish 18": (18, "y = Mish (x)", {}, "Mish"),
    "gelu 20": (20, "y = Gelu (x)", {}, "GELU"),
    "gelu 20 by tanh": (20, 'y = Gelu <approximate="tanh"> (x)', {}, "GELU"),
    "group norm 21": (21, "y = GroupNormalization <num_groups=2> (x, s, b)", {"s": (4,), "b": (4,)}, "GroupNorm"),
    "group norm 18": (18, "y = GroupNormalization <num_groups=2> (x, s, b)", {"s": (2,), "b": (2,)}, "GroupNorm"),
    "grid 16": (16, "y = GridSample (x, g)", {"g": (1, 3, 3, 2)}, "grid_sample"),
}  # fmt: skip


@pytest.mark.parametrize(("opset", "body", "constants", "expected"), OLD.values(), ids=OLD)
def test_every_opset(tmp_path, opset, body, constants, expected):
    found = imported(tmp_path, body, opset=opset, **constants)
    assert found.deviation <= 1e-5
    assert kinds(found) == expected.split()
    assert found.any_batch or "grid" in expected


def test_a_branch_with_a_known_condition_is_taken(tmp_path):
    branches = "then_branch = t () => (float[1,4,8,8] a) { a = Relu (x) }, else_branch = e () => (float[1,4,8,8] b) "
    body = f"s = Size (x) c = Greater (s, n) y = If (c) <{branches} {{ b = Sigmoid (x) }}>"
    assert kinds(imported(tmp_path, body, n=np.int64(100))) == ["ReLU"]
    assert kinds(imported(tmp_path, body, n=np.int64(1000))) == ["Sigmoid"]


@pytest.mark.parametrize(
    ("body", "constants", "message"),
    [
        ("[nms] y = NonZero (x)", {}, "NonZero 'nms': its shape or values depend on the input"),
        ("[rnn] y = Bernoulli (x)", {}, "Bernoulli 'rnn': this operator cannot be imported"),
        ("s = Sigmoid (x) i = Cast <to=7> (s) f = Reshape (i, m) t = Slice (f, z, o) [r] y = Reshape (x, t)",
         {"m": ints(-1), "z": ints(0), "o": ints(1)}, "Reshape 'r': its shape is computed by the network"),
        ("[bn] y, m = BatchNormalization <training_mode=1> (x, s, s, s, s)", {"s": floats(1, 1, 1, 1)},
         "BatchNormalization 'bn': it is in training mode"),
        ("[argmax] y = ArgMax <select_last_index=1> (x)", {}, "ArgMax 'argmax': it selects the last"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_refused_with_operator_node_and_file(tmp_path, body, constants, message):
    with pytest.raises(ConfigError, match=rf"network\.onnx: {message}"):
        imported(tmp_path, body, **constants)


def test_uint8_input_is_dequantized(tmp_path):
    found = imported(
        tmp_path, "y = DequantizeLinear (x, s, z)", inputs="uint8[1,4,8,8] x", s=np.float32(0.5), z=np.uint8(3)
    )
    assert kinds(found) == ["to", "sub", "mul"]
    assert IMAGE.startswith("float")
