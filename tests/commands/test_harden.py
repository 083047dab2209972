"""An ONNX file in, the same file back: robust where that can be had, untouched where not, and a page that says so."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from depth_distill.cli import command_parser, main
from depth_distill.commands.options import CommandParser
from depth_distill.errors import ConfigError
from depth_distill.export.backends.runtime import OnnxFile
from depth_distill.export.harden.judge import Judge
from depth_distill.quantization.analysis.deviation import Deviation
from tests.data.files import write_photos

OPSET = 11


def spread(seed, *shape, sigma=0.0):
    """Weights of a convolution, ``(out, in, k, k)``, with output channels of very different size."""
    generator = np.random.default_rng(seed)
    scales = np.exp(sigma * generator.standard_normal(shape[0])).reshape(-1, 1, 1, 1)
    return (generator.standard_normal(shape) * scales / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def save(path, sigma=0.0, channels=3, activation="Relu", batch=1, size=(16, 24), kind=onnx.TensorProto.FLOAT):
    """Two outputs of a file as strangers write it: opset 11, their own names; channel scales that cancel."""
    first = spread(0, 8, channels, 3, 3, sigma=sigma)
    norm = np.abs(first).max((1, 2, 3)).reshape(1, -1, 1, 1)
    second = spread(1, 6, 8, 1, 1) / (norm if sigma else 1)
    weights = {"w1": first, "w2": second.astype(np.float32), "w3": spread(2, 2, 6, 1, 1), "b1": spread(3, 8, 1, 1, 1)}
    weights["b1"] = weights["b1"].ravel() * 0.1
    bounds = {"low": np.float32(0), "high": np.float32(6)} if activation == "Clip" else {}
    nodes = [
        helper.make_node("Conv", ["picture", "w1", "b1"], ["x1"], "stem", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node(activation, ["x1", *bounds], ["x2"], "act"),
        helper.make_node("Conv", ["x2", "w2"], ["x3"], "neck", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["x3"], ["features"], "act2"),
        helper.make_node("Conv", ["features", "w3"], ["mask"], "head", kernel_shape=[1, 1]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, count, *size])
        for name, count in (("mask", 2), ("features", 6))
    ]
    inputs = [helper.make_tensor_value_info("picture", kind, [batch, channels, *size])]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights | bounds).items()]
    graph = helper.make_graph(nodes, "theirs", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 7
    onnx.save(model, path)
    return path


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 12)


@pytest.fixture
def harden(tmp_path, photos):
    def run(source, *words, out="robust.onnx"):
        return main(["harden", str(source), "--images", str(photos), "--out", str(tmp_path / out), *words])

    return run


def interface_of(path):
    model = onnx.load(path)
    onnx.checker.check_model(model)
    graph = model.graph
    return [(each.name, str(each.type)) for each in (*graph.input, *graph.output)], model.opset_import[0].version


def test_a_file_with_uneven_channels_comes_back_robust_and_the_same(harden, tmp_path, capsys):
    source = save(tmp_path / "theirs.onnx", sigma=2.5)
    assert harden(source) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == (
        "inputs   12 pictures, resized to 16 x 24 (H x W): RGB / 255, ImageNet mean and std; --normalize unit or raw "
        "if the network normalizes by itself"
    )
    assert "9 to calibrate on, 3 others to judge on" in printed
    last = printed.splitlines()[-1]
    assert re.match(r"INT8 deviation: .* dB -> .* dB SQNR \(.* % -> .* % relative error\); robust.onnx takes", last)
    found = json.loads((tmp_path / "robust.json").read_text())
    assert found["judge"] == "ONNX Runtime's quantizer"
    assert found["hardened"]
    assert found["before"]["relative_error"] > 5 * found["after"]["relative_error"]
    assert found["recipe"]["passes"][:2] == [{"fold": {}}, {"equalize": {"max_iterations": 500}}]
    assert interface_of(tmp_path / "robust.onnx") == interface_of(source)
    assert [each.name for each in onnx.load(tmp_path / "robust.onnx").graph.node] == [
        each.name for each in onnx.load(source).graph.node
    ]
    batch = torch.randn(2, 3, 16, 24)
    expected, received = OnnxFile(source)(batch), OnnxFile(tmp_path / "robust.onnx")(batch)
    for name, values in expected.items():  # the same function, but for what biases gained
        robust = received[name]
        assert (values - robust).abs().max() < 0.05 * values.abs().max()
    assert {each["node"] for each in found["layers"]} >= {"stem", "neck", "head"}
    assert all(each["sqnr_after_db"] > each["sqnr_before_db"] for each in found["layers"] if each["node"] == "neck")
    assert next(each["pinned"] for each in found["layers"] if each["node"] == "head") == "an output of the network"


def test_the_page_has_its_picture_inside_and_the_calibration_images_beside(harden, tmp_path):
    source = save(tmp_path / "<b>theirs.onnx", sigma=2.5)
    assert harden(source, "--report", str(tmp_path / "page.html"), "--json", str(tmp_path / "also.json")) == 0
    page = (tmp_path / "page.html").read_text()
    assert "data:image/png;base64," in page
    assert "&lt;b&gt;theirs.onnx" in page
    assert "<b>theirs" not in page
    assert "http" not in page
    assert json.loads((tmp_path / "also.json").read_text()) == json.loads((tmp_path / "robust.json").read_text())
    folder = tmp_path / "robust.calibration"
    names = (folder / "tensors.txt").read_text().split()
    assert len(names) == 9 == len((folder / "sources.txt").read_text().split())
    arrays = [np.load(folder / name) for name in names]
    assert {each.shape for each in arrays} == {(1, 3, 16, 24)}
    assert -2.2 < np.mean(arrays) < 2.7  # normalized


def test_where_nothing_helps_the_untouched_file_comes_back(harden, tmp_path, capsys, monkeypatch):
    source = save(tmp_path / "theirs.onnx", sigma=2.5)
    # A tool chain that finds every change worse.
    monkeypatch.setattr(Judge, "_by_vendor", lambda self, recipe: Deviation({"mask": len(recipe.passes)}, 3))
    assert harden(source) == 0
    assert (tmp_path / "robust.onnx").read_bytes() == source.read_bytes()
    printed = capsys.readouterr().out
    assert "gains in our simulation, but not by ONNX Runtime's quantizer" in printed
    assert printed.splitlines()[-1].startswith("nothing helped: the untouched network was returned as robust.onnx")
    assert not json.loads((tmp_path / "robust.json").read_text())["hardened"]


@pytest.mark.parametrize("splitting", ["{split_channels: {multiple: 2}}", "{split_weights: {layers: ['*']}}"])
def test_layers_may_become_several_where_that_is_asked_for(harden, tmp_path, splitting):
    source = save(tmp_path / "theirs.onnx", sigma=2.5)
    assert harden(source, "--recipe", f"[fold, {splitting}]") == 0
    assert json.loads((tmp_path / "robust.json").read_text())["hardened"]
    assert interface_of(tmp_path / "robust.onnx") == interface_of(source)
    convolutions = [each for each in onnx.load(tmp_path / "robust.onnx").graph.node if each.op_type == "Conv"]
    assert len(convolutions) > 3
    batch = torch.randn(1, 3, 16, 24)
    expected, received = OnnxFile(source)(batch), OnnxFile(tmp_path / "robust.onnx")(batch)
    for name, values in expected.items():
        torch.testing.assert_close(received[name], values, rtol=1e-4, atol=1e-4)


def test_a_file_of_another_input_keeps_its_layers(harden, tmp_path, capsys):
    source = save(tmp_path / "theirs.onnx", sigma=2.5, channels=1)
    images = tmp_path / "arrays"
    images.mkdir()
    for count, array in enumerate(np.random.default_rng(0).standard_normal((8, 1, 16, 24)).astype(np.float32)):
        np.save(images / f"{count}.npy", array)
    words = ["--recipe", "[fold, {split_channels: {multiple: 2}}]"]
    assert main(["harden", str(source), "--images", str(images), "--out", str(tmp_path / "robust.onnx"), *words]) == 0
    assert "leave out split_channels" in str(json.loads((tmp_path / "robust.json").read_text()))
    assert (tmp_path / "robust.onnx").read_bytes() == source.read_bytes()


def test_a_clip_at_six_may_become_a_relu(harden, tmp_path):
    source = save(tmp_path / "theirs.onnx", sigma=2.5, activation="Clip")
    assert harden(source, "--recipe", "[fold, replace_relu6, equalize]", "--normalize", "unit") == 0
    found = json.loads((tmp_path / "robust.json").read_text())
    model = onnx.load(tmp_path / "robust.onnx")
    assert interface_of(tmp_path / "robust.onnx") == interface_of(source)
    assert found["hardened"]
    assert [each.op_type for each in model.graph.node] == ["Conv", "Relu", "Conv", "Relu", "Conv"]
    assert {each.name for each in model.graph.initializer}.isdisjoint({"low", "high"})


def test_where_onnx_runtime_cannot_stand_for_the_target_the_simulation_decides(harden, tmp_path, capsys):
    assert harden(save(tmp_path / "theirs.onnx", sigma=2.5), "--target", "symmetric-pow2") == 0
    assert json.loads((tmp_path / "robust.json").read_text())["judge"] == "this package's simulation"
    printed = capsys.readouterr().out
    assert "cannot stand for symmetric-pow2: its scales are powers of two" in printed


def test_arrays_are_fed_as_they_are(tmp_path, capsys):
    source = save(tmp_path / "theirs.onnx", sigma=2.5, channels=5)
    (tmp_path / "arrays").mkdir()
    for index in range(4):
        shape = (5, 16, 24) if index % 2 else (1, 5, 16, 24)
        np.save(tmp_path / "arrays" / f"{index}.npy", np.random.default_rng(index).standard_normal(shape))
    words = ["harden", str(source), "--images", str(tmp_path / "arrays"), "--out", str(tmp_path / "robust.onnx")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "inputs   4 arrays of shape 5 x 16 x 24, fed as they are"
    assert "warning  only 4 images: ranges and verdict are uncertain" in printed
    assert "3 to calibrate on, 1 others to judge on" in printed
    assert main([*words, "--normalize", "unit"]) == 2
    assert "has .npy arrays, which are fed as they are: leave out --normalize" in capsys.readouterr().err
    assert main([*words, "--normalize", "raw"]) == 0
    np.save(tmp_path / "arrays" / "0.npy", np.zeros((5, 16, 25)))
    assert main(words) == 2
    expected = "0.npy: received float64 of shape 5 x 16 x 25, expected numbers of shape 5 x 16 x 24"
    assert expected in capsys.readouterr().err


def test_the_checkpoint_of_a_run_becomes_an_onnx_file(harden, trained_checkpoint, tmp_path, capsys):
    assert harden(trained_checkpoint, "--recipe", "equalize", "--data.train.init_args.length", "8") == 0
    printed = capsys.readouterr().out
    assert "RGB / 255, ImageNet mean and std" in printed.splitlines()[0]
    assert "--normalize" not in printed.splitlines()[0]
    names, _ = interface_of(tmp_path / "robust.onnx")
    assert [name for name, _ in names] == ["image", "codes"]
    assert harden(trained_checkpoint, "--normalize", "unit") == 2
    assert "knows how its images are normalized" in capsys.readouterr().err


def test_a_file_that_ends_in_what_the_target_substitutes_keeps_its_outputs_and_says_so(harden, tmp_path, capsys):
    model = onnx.load(save(tmp_path / "float.onnx", sigma=1.5))
    (head,) = (node for node in model.graph.node if node.name == "head")
    head.output[0] = "logits"
    model.graph.node.append(helper.make_node("Sigmoid", ["logits"], ["mask"], "last"))
    onnx.save(model, tmp_path / "float.onnx")
    before = interface_of(tmp_path / "float.onnx")
    assert harden(tmp_path / "float.onnx", "--recipe", "equalize", "--target", "hard-sigmoid") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning  hard-sigmoid")]
    assert "computes the last Sigmoid as hard_sigmoid: the output is off by" in line
    assert "end the file before it and compute it on the host" in line
    assert interface_of(tmp_path / "robust.onnx") == before
    assert any(node.op_type == "Sigmoid" for node in onnx.load(tmp_path / "robust.onnx").graph.node)
    assert "computes the last Sigmoid" in (tmp_path / "robust.html").read_text()
    found = json.loads((tmp_path / "robust.json").read_text())
    assert "ONNX Runtime" in json.dumps(found)


@pytest.mark.parametrize(
    ("file", "words", "message"),
    [
        ({"channels": 1}, [], "the input 'picture' is 1 x 16 x 24, and pictures are 3 x H x W: save inputs as .npy"),
        ({"batch": 2}, [], "has the shape [2, 3, 16, 24], expected a batch of 1"),
        ({"kind": onnx.TensorProto.DOUBLE}, [], "the input 'picture' is float64, expected float32 or uint8"),
        ({}, ["--mean", "123", "117", "104"], "--mean and --std belong together"),
        ({}, ["--mean", "123", "117", "104", "--std", "1", "1", "1"], "mean: received 123, expected a number for"),
        ({}, ["--recipe", "[fold, uint8_input]"], "uint8_input has no place here"),
        ({}, ["--recipe", "[fold, auto, equalize]"], "equalize stands behind auto"),
        ({}, ["--data.root", "x"], "--data.root is for a checkpoint or a config"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(harden, tmp_path, capsys, file, words, message):
    assert harden(save(tmp_path / "theirs.onnx", **file), *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "robust.onnx").exists()


def test_files_with_several_inputs_or_of_another_kind_are_refused_by_name(harden, tmp_path, capsys):
    model = onnx.load(save(tmp_path / "theirs.onnx"))
    model.graph.input.append(helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "two.onnx")
    assert harden(tmp_path / "two.onnx") == 2
    assert "two.onnx has 2 inputs (picture, second), expected one" in capsys.readouterr().err
    (tmp_path / "net.pth").write_bytes(b"")
    assert harden(tmp_path / "net.pth") == 2
    assert "expected an .onnx file, a .ckpt of a run, or a config (.yaml)" in capsys.readouterr().err
    assert harden(tmp_path / "theirs.onnx", out="theirs.onnx") == 2
    assert "is the source: choose another name" in capsys.readouterr().err
    assert harden(tmp_path / "theirs.onnx", out="robust") == 2
    assert "expected the path of an .onnx file" in capsys.readouterr().err


def test_one_image_is_too_few(harden, photos, tmp_path, capsys):
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    assert harden(save(tmp_path / "theirs.onnx")) == 2
    assert "received 1 image, expected 2 or more" in capsys.readouterr().err


def test_the_source_may_stand_anywhere_and_is_the_only_word():
    parser = command_parser("harden")
    rest = ["--images", "d", "--out", "o.onnx"]
    for words in (["a.ckpt", *rest], [*rest, "a.ckpt"], ["--data.root", "x", "a.ckpt", *rest]):
        options, overrides = parser.parse(words)
        assert str(options.source) == "a.ckpt"
        assert overrides in ([], ["--data.root", "x"])
    with pytest.raises(ConfigError, match="unexpected argument 'b.onnx'"):
        parser.parse(["a.onnx", "b.onnx", *rest])
    with pytest.raises(ConfigError, match="SOURCE"):
        parser.parse(rest)
    plain = CommandParser("x", "")
    with pytest.raises(ConfigError, match="unexpected argument 'word'"):
        plain.parse(["word"])


def test_a_file_with_weights_beside_it_comes_back_whole(harden, tmp_path, monkeypatch):
    model = onnx.load(save(tmp_path / "inside.onnx", sigma=2.5))
    (tmp_path / "theirs").mkdir()
    source = tmp_path / "theirs" / "network.onnx"
    onnx.save(model, source, save_as_external_data=True, size_threshold=0, location="network.onnx.data")
    monkeypatch.setattr(Judge, "_by_vendor", lambda self, recipe: Deviation({"mask": len(recipe.passes)}, 3))
    assert harden(source) == 0
    batch = torch.randn(1, 3, 16, 24)
    found, expected = OnnxFile(tmp_path / "robust.onnx")(batch), OnnxFile(tmp_path / "inside.onnx")(batch)
    assert all(torch.equal(found[name], values) for name, values in expected.items())


def test_calibration_inputs_have_the_type_that_the_file_takes(harden, tmp_path, capsys):
    model = onnx.load(save(tmp_path / "floats.onnx", sigma=2.5))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.graph.node[0].input[0] = "as_floats"
    model.graph.node.insert(0, helper.make_node("Cast", ["picture"], ["as_floats"], to=onnx.TensorProto.FLOAT))
    onnx.save(model, tmp_path / "pixels.onnx")
    assert harden(tmp_path / "pixels.onnx") == 0
    arrays = [np.load(path) for path in sorted((tmp_path / "robust.calibration").glob("*.npy"))]
    assert {each.dtype.name for each in arrays} == {"uint8"}
    assert max(each.max() for each in arrays) > 100
    (tmp_path / "arrays").mkdir()
    for index in range(3):
        np.save(tmp_path / "arrays" / f"{index}.npy", np.full((3, 16, 24), 0.5, np.float32))
    words = ["--images", str(tmp_path / "arrays"), "--out", str(tmp_path / "x.onnx")]
    assert main(["harden", str(tmp_path / "pixels.onnx"), *words]) == 2
    assert "arrays: the input 'picture' of" in capsys.readouterr().err


def test_files_of_somebody_else_beside_the_new_one_are_kept(harden, tmp_path, capsys):
    source, folder = save(tmp_path / "theirs.onnx", sigma=2.5), tmp_path / "robust.calibration"
    folder.mkdir()
    np.save(folder / "0000.npy", np.zeros(3))
    assert harden(source) == 2
    assert "robust.calibration has files of somebody else" in capsys.readouterr().err
    (folder / "0000.npy").unlink()
    assert harden(source) == 0
    np.save(folder / "0042.npy", np.zeros(3))
    assert harden(source, "--calibration-images", "4") == 0
    kept = sorted(path.name for path in folder.glob("*.npy"))
    assert kept == ["0000.npy", "0001.npy", "0002.npy", "0003.npy", "0042.npy"]
