"""A tool chain that computes another sigmoid: its outputs, the images and the float file give the decoder back."""

import importlib.util
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image

from depth_distill.cli import main
from depth_distill.codecs import DepthRange, HostSingle, codec_of
from depth_distill.data.network_inputs import NetworkInputs, PixelFormat
from depth_distill.export.backends.runtime import OnnxFile
from depth_distill.loading.trained import load_network_only
from tests.data.files import write_photos

SIZE = (16, 24)
CODEC = HostSingle(DepthRange(0.5, 15.0), "inverse")
MEANING = ["--depth-range", "0.5", "15", "--encoding", "inverse", "--normalize", "unit"]


def save(path, last="Sigmoid", near=0):
    """Three layers of opset 11; the pre-activation has the range of a trained network's."""
    generator = np.random.default_rng(0)
    w1 = generator.standard_normal((8, 3, 3, 3)).astype(np.float32)
    w2 = generator.standard_normal((1, 8, 1, 1)).astype(np.float32) * (0.8 if near == 0 else -0.8)
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["x1"], pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("Conv", ["x2", "w2"], ["x3"], kernel_shape=[1, 1]),
        helper.make_node(last, ["x3"], ["disp"], **({"alpha": 0.2, "beta": 0.5} if last == "HardSigmoid" else {})),
    ]
    sides = {"image": 3, "disp": 1}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, sides[name], *SIZE])] for name in sides
    )
    weights = [numpy_helper.from_array(value, name) for name, value in (("w1", w1), ("w2", w2))]
    graph = helper.make_graph(nodes, "theirs", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 7
    onnx.save(model, path)
    return path


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 10, "p")


def outputs_of(file, photos):
    inputs = NetworkInputs(photos, (3, *SIZE), "image", PixelFormat())
    return {path.stem: OnnxFile(file)(inputs.load(k)[None])["disp"][0] for k, path in enumerate(inputs.files)}


@pytest.fixture
def device(tmp_path, photos):
    """What the chain returns: the last sigmoid is hard, the output 8 bits."""

    def run(last="HardSigmoid", near=0, write=lambda path, codes: np.save(path.with_suffix(".npy"), codes)):
        (tmp_path / "npu").mkdir()
        for name, values in outputs_of(save(tmp_path / "chain.onnx", last, near), photos).items():
            write(tmp_path / "npu" / name, (values * 255).round().numpy().astype(np.uint8))
        return tmp_path / "npu"

    return run


@pytest.fixture
def fit(tmp_path, photos):
    def run(device, *words, network=None, near=0):
        network = network or save(tmp_path / "float.onnx", near=near)
        words = ["--images", str(photos), "--device-outputs", str(device), "--out", str(tmp_path / "out"), *words]
        return main(["fit-decoder", str(network), *words])

    return run


def script_of(folder):
    spec = importlib.util.spec_from_file_location("decode_of_fit", folder / "decode.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("near", [0, 1])
def test_a_hard_sigmoid_is_measured_and_undone(fit, device, photos, tmp_path, near, capsys):
    npu = device(near=near)
    assert fit(npu, *MEANING, "--near", str(near), near=near) == 0
    printed = capsys.readouterr().out
    assert "deviation on images that the table was not fitted on: " in printed.splitlines()[-1]
    found = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert found["helps"]
    assert found["images"] == 10
    assert found["before"]["mean_mm"] > 30
    assert found["after"]["mean_mm"] < 0.3 * found["before"]["mean_mm"]
    assert (tmp_path / "out" / "fit.png").stat().st_size > 10_000
    table = codec_of(json.loads((tmp_path / "out" / "decode_table.json").read_text())["codec"])
    decode = script_of(tmp_path / "out")
    for name, codes in outputs_of(tmp_path / "float.onnx", photos).items():
        said = np.load(npu / f"{name}.npy")
        depth_m = decode.decode(decode.codes_of({"disp": decode.dequantize(said, 1 / 255, 0)}))
        assert np.array_equal(depth_m, table.decode(said.astype(np.float32) * np.float32(1 / 255)))
        true_m = CODEC.decode(codes.numpy() if near == 0 else 1 - codes.numpy())
        assert np.abs(depth_m / true_m - 1).mean() < 0.02


@pytest.mark.parametrize(
    ("kind", "zero", "listed"), [(np.uint8, 0, True), (np.int8, -128, True), (np.uint16, 0, False), (float, 0, False)]
)
def test_the_header_has_a_table_of_the_integers_that_were_really_read(fit, device, tmp_path, kind, zero, listed):
    most = np.iinfo(kind).max - zero if np.issubdtype(kind, np.integer) else 1

    def write(path, codes):
        np.save(path.with_suffix(".npy"), (codes / 255 * most + zero).round(8 * (most == 1)).astype(kind))

    assert fit(device(write=write), *MEANING) == 0
    header = (tmp_path / "out" / "decode.h").read_text()
    assert ("dd_depth_m_of_code[256]" in header) == listed
    if listed:
        assert f"#define DD_CODE_ZERO_POINT {zero}\n" in header
        assert f"Depth in metres of each {kind.__name__} " in header
        table = codec_of(json.loads((tmp_path / "out" / "decode_table.json").read_text())["codec"])
        values = header.partition("dd_depth_m_of_code[256] = {")[2].partition("}")[0].split(",")
        expected = table.decode(np.float32([(0 - (zero % 256 - 256 * (zero < 0))) / 255]).reshape(1, 1, 1)).item()
        assert float.fromhex(values[0].strip().removesuffix("f")) == pytest.approx(expected, rel=1e-5)  # the byte 0


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path, codes: np.save(path.with_suffix(".npy"), codes[0].astype(np.float32) / 255), []),
        (lambda path, codes: np.save(path.with_suffix(".npy"), (codes.astype(int) - 128).astype(np.int8)), []),
        (lambda path, codes: np.savez(path.with_suffix(".npz"), codes), []),
        (lambda path, codes: codes.tofile(path.with_suffix(".raw")), ["--dump-dtype", "uint8"]),
        (
            lambda path, codes: np.save(path.with_suffix(".npy"), codes.astype(np.int32) * 2 + 7),
            ["--scale", str(1 / 510), "--zero-point", "7"],
        ),
        (
            lambda path, codes: np.save(path.with_suffix(".npy"), np.moveaxis(codes, 0, -1)),
            ["--dump-layout", "nhwc"],
        ),
        (
            lambda path, codes: np.save(path.with_suffix(".npy"), CODEC.decode(codes.astype(np.float32) / 255)),
            ["--device-unit", "metres"],
        ),
    ],
    ids=["floats", "int8", "npz", "raw", "scale", "channels last", "metres"],
)
def test_whatever_form_the_outputs_have_the_table_is_the_same(fit, device, tmp_path, write, words):
    npu = device()
    assert fit(npu, *MEANING) == 0
    expected = json.loads((tmp_path / "out" / "decode_table.json").read_text())["codec"]["tables"][0]
    npu.rename(tmp_path / "first")
    assert fit(device(write=write), *MEANING, *words) == 0
    again = json.loads((tmp_path / "out" / "decode_table.json").read_text())["codec"]["tables"][0]
    assert again == pytest.approx(expected, abs=2e-3)


def test_where_nothing_is_wrong_nothing_is_written_for_the_host(fit, device, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    for name in ("decode.py", "fit.json"):
        (tmp_path / "out" / name).write_text("of an earlier fit")
    assert fit(device("Sigmoid"), *MEANING) == 1
    assert "nothing is written for the host" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fit.json", "fit.png"]
    assert not json.loads((tmp_path / "out" / "fit.json").read_text())["helps"]


def test_a_folder_with_other_files_is_left_alone(fit, device, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "decode.py").write_text("of a bundle")
    assert fit(device(), *MEANING) == 2
    assert "has files that are not of fit-decoder" in capsys.readouterr().err
    assert (tmp_path / "out" / "decode.py").read_text() == "of a bundle"


def test_ground_truth_takes_the_place_of_the_float_network(fit, device, photos, tmp_path):
    npu = device()
    (tmp_path / "truth").mkdir()
    for name, codes in outputs_of(save(tmp_path / "float.onnx"), photos).items():
        depth_m = CODEC.decode(codes.numpy())[0]
        depth_m[:, :4] = 0  # none there
        Image.fromarray((1000 * depth_m).round().astype(np.uint16)).save(tmp_path / "truth" / f"{name}.png")
    assert fit(npu, *MEANING) == 0
    expected = json.loads((tmp_path / "out" / "decode_table.json").read_text())["codec"]["tables"][0]
    assert fit(npu, *MEANING, "--ground-truth", str(tmp_path / "truth")) == 0
    found = json.loads((tmp_path / "out" / "decode_table.json").read_text())
    assert found["fitted"]["fitted_to"] == "ground truth"
    said = np.concatenate([np.load(path).ravel() for path in npu.iterdir()])
    usual = slice(*np.percentile(said, (5, 95)).astype(int))
    assert found["codec"]["tables"][0][usual] == pytest.approx(expected[usual], abs=0.01)


def test_a_checkpoint_knows_what_its_codes_mean(trained_checkpoint, photos, tmp_path):
    run = load_network_only(trained_checkpoint)
    layout = run.interface.inputs
    inputs = NetworkInputs(photos, (3, 32, 64), "image", PixelFormat(tuple(layout.mean), tuple(layout.std)))
    (tmp_path / "npu").mkdir()
    for index in range(len(inputs)):
        with torch.inference_mode():
            codes = run.network(inputs.load(index)[None])[0]
        np.save(tmp_path / "npu" / f"{index:04d}.npy", (codes**2).numpy())  # numbered
    words = ["--images", str(photos), "--device-outputs", str(tmp_path / "npu"), "--out", str(tmp_path / "out")]
    assert main(["fit-decoder", str(trained_checkpoint), *words]) == 0
    found = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert found["after"]["mean_mm"] < 0.1 * found["before"]["mean_mm"]


def remove(path):
    path.unlink()


def npz(path, **arrays):
    path.with_suffix(".npy").unlink()
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (None, [], "what the output of {float} means is not known: say --depth-range MIN MAX and --encoding"),
        (None, ["--depth-range", "0.5", "15"], "--depth-range and --encoding belong together"),
        (None, [*MEANING, "--output", "depth"], "has no output 'depth': expected one of disp"),
        (None, [*MEANING, "--zero-point", "3"], "--zero-point goes with --scale"),
        (lambda npu: remove(npu / "p03.npy"), MEANING, "has nothing for the image p03: expected one file, p03.npy"),
        (lambda npu: np.save(npu / "9999.npy", np.zeros(3)), MEANING, "9999.npy belongs to no image (1 such)"),
        (lambda npu: (npu / "p03.npy").write_bytes(b"\x93NUMPY"), MEANING, "p03.npy: cannot be read as a NumPy array"),
        (lambda npu: np.save(npu / "p03.npy", np.zeros((24, 16))), MEANING, "p03.npy has the shape (24, 16), expected"),
        (lambda npu: np.save(npu / "p03.npy", np.full(SIZE, np.nan)), MEANING, "p03.npy has NaN or infinity"),
        (lambda npu: np.save(npu / "p03.npy", np.full(SIZE, 0.5)), MEANING, "p03.npy holds floats, but others uint8:"),
        (None, [*MEANING, "--scale", "1"], "expected codes in [0, 1]: say --device-unit metres if they are depth"),
        (lambda npu: np.save(npu / "p03.npy", np.zeros(SIZE, int)), MEANING, "p03.npy holds int64: say its --scale"),
        (lambda npu: np.save(npu / "p03.npy", np.zeros((2, *SIZE))), MEANING, "p03.npy has the shape (2, 16, 24)"),
        (lambda npu: npz(npu / "p03", a=np.zeros(SIZE), b=np.ones(SIZE)), MEANING, "p03.npz has no array 'disp'; it"),
        (lambda npu: (npu / "p03.npy").rename(npu / "p03.npz"), MEANING, "p03.npz: cannot be read as an .npz file"),
        (lambda npu: np.save(npu / "p03.npy", np.full(SIZE, "a")), MEANING, "p03.npy holds <U1, expected floats"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fit, device, tmp_path, change, words, message, capsys):
    npu = device()
    if change is not None:
        change(npu)
    assert fit(npu, *words) == 2
    printed = capsys.readouterr().err
    assert message.format(float=tmp_path / "float.onnx") in printed
    assert len(printed.strip().splitlines()) == 1
