import builtins

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, parser

from depth_distill.errors import ConfigError
from depth_distill.loading.onnx_importer import OnnxModule, import_onnx, verification
from depth_distill.loading.onnx_importer.builder import _CONVERTERS
from depth_distill.quantization.graph.channel_groups import channel_groups
from depth_distill.quantization.passes.equalize import equalize
from depth_distill.quantization.passes.fold import fold
from tests.loading.onnx_importer.onnx_text import IMAGE, imported, kinds, model_of, saved

NETWORK = """
    [stem] a = Conv <pads=[1,1,1,1]> (x, w) n = BatchNormalization (a, s, s, s, v) r = Relu (n)
    p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r) c = Conv <pads=[1,1,1,1]> (p, w2) d = Add (c, p) e = Relu (d)
    u = Resize <mode="nearest"> (e, , f) k = Concat <axis=1> (u, r) [head] o = Conv (k, w3) y = Sigmoid (o)
"""
WEIGHTS = {
    "w": (6, 4, 3, 3), "w2": (6, 6, 3, 3), "w3": (1, 12, 1, 1), "s": (6,), "v": np.full(6, 2, np.float32),
    "f": np.array([1, 1, 2, 2], np.float32),
}  # fmt: skip


def test_a_network_has_the_nodes_of_a_trace_and_pins_its_last_layer_only(tmp_path):
    found = imported(tmp_path, NETWORK, **WEIGHTS)
    assert kinds(found) == [
        "Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Conv2d", "add", "ReLU", "interpolate", "cat", "Conv2d", "Sigmoid"
    ]  # fmt: skip
    folded = fold(found.graph)
    assert list(channel_groups(folded).pinned) == ["conv_2"]
    image = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(equalize(folded).graph_module(image), found.graph(image), rtol=1e-5, atol=1e-6)


def test_what_an_import_tells(tmp_path):
    found = imported(tmp_path, "[c] y = Conv (x, w) [r] z = Relu (y)", outputs="z y", w=(6, 4, 3, 3))
    assert [(each.name, each.shape, each.dtype) for each in found.inputs] == [("x", (1, 4, 8, 8), torch.float32)]
    assert [(each.name, each.shape) for each in found.outputs] == [("z", (1, 6, 6, 6)), ("y", (1, 6, 6, 6))]
    assert found.layers == {"conv": "c", "relu": "r"}
    assert found.tensors == {"x": "x", "conv": "y", "relu": "z"}
    assert found.any_batch
    assert found.stripped_pairs == 0
    z, y = found.graph(torch.ones(3, 4, 8, 8))
    assert z.shape == y.shape == (3, 6, 6, 6)


def test_a_dynamic_batch_is_one_and_other_dimensions_have_to_be_given(tmp_path):
    assert imported(tmp_path, "y = Relu (x)", inputs="float[N,4,8,8] x").inputs[0].shape == (1, 4, 8, 8)
    with pytest.raises(ConfigError, match=r"dimension 2 \(H\) of the input 'x' .* give its size with shapes=\{'x'"):
        imported(tmp_path, "y = Relu (x)", inputs="float[N,4,H,8] x")
    found = imported(tmp_path, "y = Relu (x)", {"x": (2, 4, 6, 8)}, inputs="float[N,4,H,8] x")
    assert found.inputs[0].shape == (2, 4, 6, 8)
    with pytest.raises(ConfigError, match=r"shapes gives \[1, 3, 8, 8\] for the input 'x', which has \['N', 4"):
        imported(tmp_path, "y = Relu (x)", {"x": (1, 3, 8, 8)}, inputs="float[N,4,H,8] x")
    with pytest.raises(ConfigError, match="shapes names the input 'image'"):
        imported(tmp_path, "y = Relu (x)", {"image": (1, 3, 8, 8)}, inputs="float[N,4,H,8] x")


def test_a_symbol_has_one_size(tmp_path):
    found = imported(tmp_path, "y = Add (x, z)", {"x": (1, 4, 6, 8)}, inputs="float[N,4,H,8] x, float[N,4,H,8] z")
    assert found.inputs[1].shape == (1, 4, 6, 8)


def test_files_that_are_no_onnx(tmp_path):
    path = tmp_path / "network.onnx"
    with pytest.raises(ConfigError, match="does not exist"):
        import_onnx(path)
    path.write_bytes(b"\xff\xd8 a picture")
    with pytest.raises(ConfigError, match="is no ONNX file"):
        import_onnx(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="is no ONNX file"):
        import_onnx(path)
    with pytest.raises(ConfigError, match="uses opset 8, expected 9 to 21"):
        imported(tmp_path, "y = Relu (x)", opset=8)


def test_weights_beside_the_file(tmp_path):
    model = model_of("y = Conv (x, w)", w=(6, 4, 3, 3))
    path = tmp_path / "network.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert import_onnx(path).deviation <= 1e-5
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        import_onnx(path)


def test_pairs_are_stripped_and_weights_dequantized(tmp_path):
    body = """
        q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) k = DequantizeLinear <axis=0> (w, t, n)
        c = Conv (d, k) r = Relu (c) p = QuantizeLinear (r, s, z) y = DequantizeLinear (p, s, z)
    """
    generator = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.1), "z": np.uint8(7), "t": generator.random(6).astype(np.float32), "n": np.zeros(6, np.int8),
        "w": generator.integers(-127, 127, (6, 4, 3, 3)).astype(np.int8),
    }  # fmt: skip
    found = imported(tmp_path, body, **constants)
    assert kinds(found) == ["Conv2d", "ReLU"]
    assert found.stripped_pairs == 2
    expected = constants["w"] * constants["t"].reshape(6, 1, 1, 1)
    np.testing.assert_allclose(found.graph.conv.weight.detach(), expected, rtol=1e-6)
    assert [each.name for each in found.outputs] == ["y"]


def test_the_first_node_that_differs_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(_CONVERTERS, "Relu", lambda node, build: build.call(torch.abs, build.value(node)))
    with pytest.raises(ConfigError, match=r"network\.onnx: Relu 'r' differs from ONNX Runtime by \d.* at most 0.0001"):
        imported(tmp_path, "a = Neg (x) [r] b = Relu (a) y = Exp (b)")


def test_without_onnxruntime_the_extra_is_named(tmp_path, monkeypatch):
    path = saved(tmp_path / "network.onnx", model_of("y = Relu (x)"))
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install depth-distill\[export\]"):
        import_onnx(path)
    assert np.isnan(import_onnx(path, verify=False).deviation)


def test_integer_inputs_and_scalars(tmp_path):
    found = imported(
        tmp_path, "a = Cast <to=1> (x) b = Mul (a, z) y = Gather <axis=0> (t, i)",
        inputs="uint8[1,4] x, float z, int64[1,3] i", outputs="b y", t=(5, 2),
    )  # fmt: skip
    assert [each.shape for each in found.outputs] == [(1, 4), (1, 3, 2)]


def test_a_shared_weight_becomes_two_layers_of_their_own(tmp_path):
    found = imported(tmp_path, "a = Conv (x, w) y = Conv (a, w)", w=(4, 4, 1, 1))
    assert found.graph.conv.weight is not found.graph.conv_1.weight


def test_a_module_for_configs(tmp_path):
    module = OnnxModule(saved(tmp_path / "network.onnx", model_of(NETWORK, **WEIGHTS)))
    image = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(image), module.traced()(image))
    assert module(image).shape == (2, 1, 8, 8)


def test_half_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds weights in float16 \(w\), expected float"):
        imported(tmp_path, "y = Conv (x, w)", inputs="float16[1,4,8,8] x", w=np.zeros((4, 4, 1, 1), np.float16))


@pytest.mark.parametrize(("name", "argument"), [("0", "input_0"), ("input.1", "input_1"), ("class", "input_class")])
def test_names_of_inputs_that_are_no_names_in_python(tmp_path, name, argument):
    model = model_of("y = Relu (x)")
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    found = import_onnx(saved(tmp_path / "network.onnx", model))
    assert next(iter(found.graph.graph.nodes)).target == argument
    assert found.inputs[0].name == name


def test_pairs_that_a_branch_reads_are_stripped_there_too(tmp_path):
    branch = parser.parse_graph("a () => (float[1,4,8,8] p) { p = Relu (d) }")
    model = model_of(
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Relu (d)",
        s=np.float32(0.1), z=np.uint8(7), c=np.array(True),
    )  # fmt: skip
    other = onnx.GraphProto()
    other.CopyFrom(branch)
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)
    model.graph.node[2].CopyFrom(choice)
    found = import_onnx(saved(tmp_path / "network.onnx", model))
    assert kinds(found) == ["ReLU"]
    assert found.stripped_pairs == 1


def test_a_squeeze_without_axes_takes_the_batch_of_one_out_as_well(tmp_path):
    found = imported(tmp_path, "a = ReduceMean <axes=[1]> (x) b = Squeeze (a) y = Add (b, t)", t=(8, 1))
    assert [each.shape for each in found.outputs] == [(8, 8)]
    assert not found.any_batch


def test_a_number_may_come_before_the_image(tmp_path):
    found = imported(tmp_path, "y = Mul (x, s)", inputs=f"float s, {IMAGE}")
    assert [each.shape for each in found.inputs] == [(), (1, 4, 8, 8)]
    assert not found.any_batch


def test_a_type_that_numpy_does_not_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the input 'x' is of type BFLOAT16"):
        imported(tmp_path, "y = Relu (x)", inputs="bfloat16[1,4] x")


def test_onnx_runtime_opens_a_file_once(tmp_path, monkeypatch):
    opened = []
    real = verification.open_session
    monkeypatch.setattr(verification, "open_session", lambda *words: opened.append(words) or real(*words))
    imported(tmp_path, "y = Relu (x)")
    assert len(opened) == 1


BOMBS = {
    "constant": ("k = ConstantOfShape (n) y = Add (x, k)", {"n": np.array([1 << 20, 1 << 20])}),
    "expanded": ("k = Expand (o, n) y = Add (x, k)", {"o": np.float32(1), "n": np.array([1 << 20, 1 << 20])}),
    "tiled": ("k = Tile (o, n) y = Add (x, k)", {"o": np.ones(2, np.float32), "n": np.array([1 << 40])}),
    "counted": ("k = Range (a, b, c) y = Add (x, k)", {"a": np.float32(0), "b": np.float32(1e12), "c": np.float32(1)}),
    "upsampled": ("y = Resize (x, , k)", {"k": np.array([1, 1, 1e5, 1e5], np.float32)}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_few_bytes_do_not_become_terabytes(tmp_path, name):
    body, constants = BOMBS[name]
    with pytest.raises(ConfigError, match="more than 1073741824 values"):
        imported(tmp_path, body, **constants)


def test_a_node_whose_settings_do_not_fit_is_named(tmp_path):
    model = model_of("y = Conv <group = 7> (x, w)", w=(6, 4, 3, 3))
    with pytest.raises(ConfigError, match=r"Conv 'y': it is damaged, or cannot be imported: [^\n]+$"):
        import_onnx(saved(tmp_path / "network.onnx", model))
