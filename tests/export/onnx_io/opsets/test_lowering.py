"""Each operator that changed: a tiny model computes the same in an older opset, or is refused by name."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.opsets.lowering import lower
from depth_distill.export.onnx_io.opsets.rewriting import OpsetError
from depth_distill.loading.onnx_importer.files import opset_of

MAP = "(float[1,4,6,8] x) => (float[a,b,c,d] y)"


def parsed(body, opset, signature=MAP, constants=""):
    """A model whose nodes are called after their outputs; the sizes of its output are inferred."""
    body = body.replace("'", '"')
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> graph {signature} <{constants}> {{ {body} }}'
    )
    for node in model.graph.node:
        node.name = f"node {node.output[0]}"
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for output in model.graph.output:
        if not output.type.tensor_type.HasField("shape"):  # of GroupNormalization, which has no inference of its own
            output.type.CopyFrom(model.graph.input[0].type)
    return model


def run(model, seed=0):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    random = np.random.default_rng(seed)
    feeds = {each.name: 3 * random.normal(size=each.shape).astype(np.float32) for each in session.get_inputs()}
    return session.run(None, feeds)


SAME = {
    "relu": ("y = Relu(x)", "", 21, 9),
    "clip": ("y = Clip(x, l, h)", "float l = {-1}, float h = {2}", 21, 9),
    "clip from below": ("y = Clip(x, l)", "float l = {-1}", 18, 9),
    "pad": ("y = Pad(x, p, v)", "int64[8] p = {0,0,1,2,0,0,3,0}, float v = {2.5}", 18, 9),
    "pad of axes": ("y = Pad<mode = 'reflect'>(x, p, , a)", "int64[4] p = {1,2,3,0}, int64[2] a = {2,-1}", 18, 9),
    "mean": ("y = ReduceMean<keepdims = 1>(x, a)", "int64[2] a = {-1,-2}", 18, 9),
    "mean of all": ("y = ReduceMean<keepdims = 1>(x)", "", 18, 9),
    "mean of none": ("y = ReduceMean<noop_with_empty_axes = 1>(x)", "", 18, 9),
    "max": ("y = ReduceMax(x, a)", "int64[1] a = {1}", 20, 9),
    "sum": ("y = ReduceSum(x, a)", "int64[1] a = {-1}", 18, 9),
    "squares": ("y = ReduceSumSquare(x, a)", "int64[1] a = {1}", 18, 9),
    "split": ("u, v = Split<axis = -3>(x, s)  y = Sub(u, v)", "int64[2] s = {2,2}", 18, 9),
    "split in parts": ("u, v = Split<axis = -3, num_outputs = 2>(x)  y = Sub(u, v)", "", 18, 9),
    "split unevenly": ("u, v, y = Split<axis = -1, num_outputs = 3>(x)", "", 18, 9),
    "squeeze": ("u = Unsqueeze(x, a)  w = Sigmoid(u)  y = Squeeze(w, a)", "int64[1] a = {-2}", 21, 9),
    "slice": (
        "y = Slice(x, s, e, a)",
        "int64[2] s = {1,-4}, int64[2] e = {3,9223372036854775807}, int64[2] a = {1,-1}",
        18, 9,
    ),
    "slice with steps": (
        "y = Slice(x, s, e, a, t)", "int64[1] s = {0}, int64[1] e = {8}, int64[1] a = {-1}, int64[1] t = {2}", 18, 10,
    ),
    "softmax": ("y = Softmax<axis = -1>(x)", "", 18, 9),
    "softmax of channels": ("y = Softmax<axis = 1>(x)", "", 18, 9),
    "log softmax of channels": ("y = LogSoftmax<axis = -3>(x)", "", 18, 9),
    "hardswish": ("y = HardSwish(x)", "", 18, 9),
    "mish": ("y = Mish(x)", "", 18, 9),
    "gelu": ("y = Gelu(x)", "", 20, 9),
    "gelu by tanh": ("y = Gelu<approximate = 'tanh'>(x)", "", 20, 9),
    "celu": ("y = Celu<alpha = 0.5>(x)", "", 18, 9),
    "layer norm": (
        "y = LayerNormalization<axis = -1, epsilon = 0.01>(x, s, t)",
        "float[8] s = {1,2,3,4,5,6,7,8}, float[8] t = {8,7,6,5,4,3,2,1}", 18, 9,
    ),
    "layer norm without a bias": ("y = LayerNormalization<axis = 2>(x, s)", "float[8] s = {1,2,3,4,5,6,7,8}", 17, 9),
    "group norm": (
        "y = GroupNormalization<num_groups = 2, epsilon = 0.01>(x, s, t)",
        "float[4] s = {1,2,3,4}, float[4] t = {4,3,2,1}", 21, 9,
    ),
    "batch norm": (
        "y = BatchNormalization<epsilon = 0.1>(x, s, t, m, v)",
        "float[4] s = {1,2,3,4}, float[4] t = {4,3,2,1}, float[4] m = {0,1,0,1}, float[4] v = {1,2,3,4}", 18, 9,
    ),
    "instance norm": ("y = InstanceNormalization(x, s, s)", "float[4] s = {1,2,3,4}", 21, 9),
    "average pool": ("y = AveragePool<kernel_shape = [2,2], strides = [2,2], dilations = [1,1]>(x)", "", 19, 9),
    "max pool": ("y = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]>(x)", "", 18, 9),
    "ceil mode, nothing left": ("y = MaxPool<kernel_shape = [2,2], strides = [2,2], ceil_mode = 1>(x)", "", 18, 9),
    "dilated pool": ("y = MaxPool<kernel_shape = [2,2], dilations = [2,2]>(x)", "", 18, 10),
    "power": ("y = Pow(x, e)", "int64 e = {3}", 18, 9),
    "at least": ("c = GreaterOrEqual(x, z)  y = Cast<to = 1>(c)", "float z = {0.5}", 18, 9),
    "round": ("y = Round(x)", "", 18, 9),
    "round of ties": ("s = Sign(x)  t = Mul(s, h)  y = Round(t)", "float h = {2.5}", 18, 9),
    "round of almost a tie": ("s = Sign(x)  t = Mul(s, h)  y = Round(t)", "float h = {0.49999997}", 18, 9),
    "depth to space": ("y = DepthToSpace<blocksize = 2, mode = 'CRD'>(x)", "", 18, 9),
    "depth to space, blocks first": ("y = DepthToSpace<blocksize = 2>(x)", "", 18, 9),
    "gemm": (
        "f = Flatten<axis = -2>(x)  g = Gemm<transB = 1>(f, w)  y = Reshape<allowzero = 1>(g, s)",
        "float[2,48] w = {" + ",".join(["0.5"] * 96) + "}, int64[4] s = {1,4,2,1}", 18, 9,
    ),
    "dropout": ("y = Dropout(x)", "", 18, 9),
    "identity": ("y = Identity(x)", "", 21, 9),
    "constant": ("c = Constant<value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]>()  y = Mul(x, c)", "", 21, 9),
    "shape": ("s = Shape<start = 1, end = 2>(x)  f = Cast<to = 1>(s)  y = Mul(x, f)", "", 19, 9),
    "cast like": ("y = CastLike(x, k)", "float k = {1}", 19, 9),
    "argmax": ("i = ArgMax<axis = -3>(x)  y = Cast<to = 1, saturate = 1>(i)", "", 19, 9),
    "top k": ("y, i = TopK<axis = -1>(x, k)", "int64[1] k = {2}", 18, 9),
    "gather": ("y = Gather<axis = -1>(x, i)", "int64[2] i = {1,0}", 18, 9),
    "gather from the end": ("y = Gather<axis = -1>(x, i)", "int64[3] i = {-1,0,-8}", 18, 9),
    "scatter from the end": (
        "y = ScatterElements<axis = -1>(x, i, u)", "int64[1,1,1,1] i = {-1}, float[1,1,1,1] u = {9}", 18, 9,
    ),
    "scatter": (
        "y = ScatterElements<axis = -1>(x, i, u)", "int64[1,1,1,1] i = {2}, float[1,1,1,1] u = {9}", 18, 9,
    ),
    "grid sample": (
        "y = GridSample<mode = 'linear'>(x, g)", "float[1,1,2,2] g = {-0.5,0.3,0.1,0.9}", 20, 16,
    ),
    "nearest": ("y = Resize<mode = 'nearest'>(x, , s)", "float[4] s = {1,1,2,2}", 19, 9),
    "nearest by 3": ("y = Resize<mode = 'nearest'>(x, , s)", "float[4] s = {1,1,3,3}", 13, 9),
    "nearest to a size": (
        "y = Resize<mode = 'nearest', coordinate_transformation_mode = 'asymmetric', nearest_mode = 'floor', "
        "axes = [2,3]>(x, , , z)", "int64[2] z = {13,8}", 18, 9,
    ),
    "nearest, smaller": (
        "y = Resize<mode = 'nearest', coordinate_transformation_mode = 'asymmetric'>(x, , s)",
        "float[4] s = {1,1,0.5,0.5}", 18, 10,
    ),
    "symmetric centres": (
        "y = Resize<mode = 'linear', coordinate_transformation_mode = 'half_pixel_symmetric', axes = [2,3]>(x, , s)",
        "float[2] s = {2,2}", 19, 9,
    ),
    "bilinear": ("y = Resize<mode = 'linear'>(x, , s)", "float[4] s = {1,1,2,2}", 18, 9),
    "bilinear by 4 and 3": ("y = Resize<mode = 'linear'>(x, , s)", "float[4] s = {1,1,4,3}", 18, 9),
    "bilinear from the corner": (
        "y = Resize<mode = 'linear', coordinate_transformation_mode = 'asymmetric'>(x, , s)",
        "float[4] s = {1,1,2,2}", 18, 9,
    ),
    "bilinear in 11": (
        "y = Resize<mode = 'linear', coordinate_transformation_mode = 'align_corners'>(x, , , z)",
        "int64[4] z = {1,4,9,9}", 19, 11,
    ),
    "quantized": (
        "q = QuantizeLinear<axis = 0>(x, s, z)  y = DequantizeLinear(q, s, z)",
        "float[1] s = {0.1}, uint8[1] z = {120}", 21, 10,
    ),
    "quantized without a zero point": (
        "q = QuantizeLinear<output_dtype = 3>(x, s)  y = DequantizeLinear(q, s)", "float s = {0.1}", 21, 10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_it_computes_the_same(case):
    body, constants, newest, oldest = SAME[case]
    model = parsed(body, newest, constants=constants)
    given = model.SerializeToString()
    expected = run(model)
    for opset in range(oldest, newest):
        older = lower(model, opset)
        assert opset_of(older) == opset
        assert older.ir_version == onnx.helper.find_min_ir_version_for(older.opset_import)
        onnx.checker.check_model(older, full_check=True)
        # Positions of pixels and sums are rounded in another order.
        for ours, theirs in zip(run(older), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        ours, theirs = older.graph.node[-1], model.graph.node[-1]
        assert (ours.name, ours.output) == (theirs.name, theirs.output)
    assert model.SerializeToString() == given


REFUSED = {
    "quantized": (
        "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)", "float s = {1}, uint8 z = {0}", 13, 9,
        "opset 9 has no QuantizeLinear, it needs 10; use the float file and let the tool chain quantize it",
    ),
    "per channel": (
        "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)",
        "float[4] s = {1,2,3,4}, uint8[4] z = {0,0,0,0}", 13, 12,
        "opset 12 cannot express it, it needs 13: it has one scale per channel; export for a target with weights",
    ),
    "16 bits": (
        "q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)", "float s = {1}, uint16 z = {0}", 21, 20,
        r"opset 20 has it for other types than uint16 \(z\)",
    ),
    "cubic": (
        "y = Resize<mode = 'cubic'>(x, , s)", "float[4] s = {1,1,2,2}", 18, 10,
        r"node y \(Resize\): opset 10 cannot express it, it needs 11: it is cubic with half_pixel",
    ),
    "corners": (
        "y = Resize<mode = 'linear', coordinate_transformation_mode = 'align_corners'>(x, , s)",
        "float[4] s = {1,1,2,2}", 18, 9, "it is bilinear with align_corners coordinates",
    ),
    "other pixels": (
        "y = Resize<mode = 'nearest', nearest_mode = 'ceil'>(x, , s)", "float[4] s = {1,1,2,2}", 18, 10,
        "it picks other pixels than asymmetric ones",
    ),
    "smaller": (
        "y = Resize<mode = 'nearest', coordinate_transformation_mode = 'asymmetric'>(x, , s)",
        "float[4] s = {1,1,0.5,0.5}", 18, 9, "it makes a map smaller; use a strided convolution",
    ),
    "antialiasing": (
        "y = Resize<mode = 'linear', antialias = 1>(x, , s)", "float[4] s = {1,1,0.5,0.5}", 18, 17, "antialias is 1",
    ),
    "steps": (
        "y = Slice(x, s, e, a, t)", "int64[1] s = {0}, int64[1] e = {8}, int64[1] a = {3}, int64[1] t = {2}", 18, 9,
        "it needs 10: it has steps",
    ),
    "ceil mode": (
        "y = MaxPool<kernel_shape = [2,2], strides = [4,4], ceil_mode = 1>(x)", "", 18, 9, "ceil_mode is 1",
    ),
    "wrapping": ("y = Pad<mode = 'wrap'>(x, p)", "int64[8] p = {0,0,1,1,0,0,1,1}", 19, 18, "it wraps around"),
    "grid sample": (
        "y = GridSample(x, g)", "float[1,1,1,2] g = {0,0}", 18, 15, "has no GridSample, it needs 16; sample on",
    ),
    "einsum": ("y = Einsum<equation = 'abcd->abdc'>(x)", "", 18, 11, "has no Einsum, it needs 12; write it as"),
    "bounds at run time": (
        "m = ReduceMax<keepdims = 0>(x)  y = Clip(x, , m)", "", 18, 10, "m is computed at run time; make it",
    ),
    "places at run time": (
        "c = ArgMax<keepdims = 0>(x)  y = Gather(x, c)", "", 18, 10, "c is computed at run time; make it",
    ),
    "8 bits": (
        "c = Cast<to = 3>(x)  d = Add(c, c)  y = Cast<to = 1>(d)", "", 18, 13, "has it for other types than int8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_older_opset_cannot_say_is_refused_by_name(case):
    body, constants, newest, opset, message = REFUSED[case]
    model = parsed(body, newest, constants=constants)
    with pytest.raises(OpsetError, match=message) as caught:
        lower(model, opset)
    assert "\n" not in str(caught.value)
    assert opset_of(lower(model, caught.value.needed)) == caught.value.needed  # that one can


def test_a_file_with_operators_of_somebody_else_is_lowered_too():
    model = parsed("y = Relu(x)", 18)
    model.opset_import.append(onnx.helper.make_opsetid("com.somebody", 3))
    older = lower(model, 11)
    assert (opset_of(older), older.opset_import[1].version) == (11, 3)


def test_a_name_that_is_no_operator_is_refused_by_name():
    model = parsed("y = Relu(x)", 18)
    model.graph.node[0].op_type = "Rleu"
    with pytest.raises(ConfigError, match=r"node y \(Rleu\): opset 18 of ONNX has no operator of this name"):
        lower(model, 11)


def test_no_opset_before_9_and_no_branches():
    with pytest.raises(ConfigError, match="opset: received 8, expected 9 or newer"):
        lower(parsed("y = Relu(x)", 18), 8)
    branches = parsed(
        "y = If (c) <then_branch = a () => (float[1,8] p) { p = Relu(x) },"
        " else_branch = b () => (float[1,8] q) { q = Neg(x) }>",
        18,
        "(float[1,8] x, bool c) => (float[1,8] y)",
    )
    with pytest.raises(ConfigError, match=r"node y \(If\) has a graph of its own"):
        lower(branches, 11)
