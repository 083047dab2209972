"""Calibration images that are chosen: better than all where some are faulty, and not recommended where they are not."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image

from depth_distill.cli import main
from depth_distill.data.network_inputs import NetworkInputs, PixelFormat
from depth_distill.export.interface.calibration_set import read_calibration_set
from depth_distill.export.pick import picking, report
from depth_distill.export.pick.outcome import Choice, PickOptions, SizeRow, recommend
from depth_distill.quantization.interface import Interface
from tests.data.files import write_photos

SIZE = (16, 24)


def save(path, channels=3):
    """Two layers, of which the first answers to the finest pattern with ten times as much as to anything else."""
    generator = np.random.default_rng(0)
    w1 = generator.standard_normal((8, channels, 3, 3)).astype(np.float32) / 5
    w1[0] = np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]], np.float32) / 2
    w2 = generator.standard_normal((1, 8, 1, 1)).astype(np.float32)
    w2[:, 0] = 0.1
    nodes = [
        helper.make_node("Conv", ["picture", "w1"], ["x1"], pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("Conv", ["x2", "w2"], ["depth"], kernel_shape=[1, 1]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, count, *SIZE])]
        for name, count in (("picture", channels), ("depth", 1))
    )
    weights = [numpy_helper.from_array(value, name) for name, value in (("w1", w1), ("w2", w2))]
    model = helper.make_model(
        helper.make_graph(nodes, "theirs", inputs, outputs, weights), opset_imports=[helper.make_opsetid("", 11)]
    )
    model.ir_version = 7
    onnx.save(model, path)
    return path


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 20)


@pytest.fixture
def pick(tmp_path, photos):
    def run(*words, network=None, images=photos, count=4):
        network = network or save(tmp_path / "theirs.onnx")
        words = ["--images", str(images), "--count", str(count), "--out", str(tmp_path / "out"), *words]
        return main(["pick-calibration", str(network), *words])

    return run


def found_in(folder):
    return json.loads((folder / "pick.json").read_text())


def spoil(photos, *names):
    board = (np.indices((32, 48)) // 2).sum(0) % 2 * 255  # of pixels in the network's size
    for name in names:
        Image.fromarray(np.repeat(board[..., None], 3, 2).astype(np.uint8)).save(photos / name)


def test_faulty_images_are_left_out_and_named(pick, photos, tmp_path, capsys):
    write_photos(tmp_path / "use", 6, "u")
    spoil(photos, "03.png", "11.png")
    assert pick("--judge-on", str(tmp_path / "use")) == 0
    found = found_in(tmp_path / "out")
    assert found["recommended"] == "picked"
    assert found["candidates"] == 20
    assert found["held_out"] == 3
    assert found["picked_deviation"] < 0.8 * found["every"]
    assert {each["image"].rpartition("/")[2] for each in found["stretching"][:2]} == {"03.png", "11.png"}
    assert not {"03.png", "11.png"} & {each.rpartition("/")[2] for each in found["picked"]}
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("calibrate on the picked images: deviation from FP32 ")
    assert "03.png would add" in printed


def test_a_faulty_image_among_those_that_are_judged_on_does_not_decide(pick, photos, tmp_path):
    spoil(photos, "02.png")
    write_photos(tmp_path / "more", 24, "m")
    for path in (tmp_path / "more").iterdir():
        path.rename(photos / path.name)
    assert pick("--holdout", "11") == 0
    found = found_in(tmp_path / "out")
    assert found["recommended"] == "picked"
    assert not any("02.png" in each for each in found["picked"])


def test_what_is_written_is_what_tool_chains_read(pick, photos, tmp_path):
    assert pick("--normalize", "unit") == 0
    out = tmp_path / "out"
    found = found_in(out)
    tensors = read_calibration_set(out)
    assert tensors.shape == (len(found["chosen"]), 3, *SIZE)
    assert 0 <= tensors.min() < tensors.max() <= 1
    assert (out / "sources.txt").read_text().split() == found["chosen"]
    copies = (out / "dataset.txt").read_text().split()
    for copy, source in zip(copies, found["chosen"], strict=True):
        assert (out / copy).read_bytes() == (photos / source.rpartition("/")[2]).read_bytes()
    raw = np.fromfile(out / "raw" / "0000.raw", np.float32).reshape(3, *SIZE)
    assert np.array_equal(raw, tensors[0])
    assert (out / "images.txt").read_text().split()[0] == "images/0000.png"
    assert (out / "pick.png").stat().st_size > 10_000


def test_the_same_seed_picks_the_same_and_another_draws_others(pick, tmp_path):
    assert pick() == 0
    first = found_in(tmp_path / "out")
    assert pick("--json", str(tmp_path / "again.json")) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert pick("--seed", "1") == 0
    other = found_in(tmp_path / "out")
    assert other["picked"] == first["picked"]
    assert other["rows"][-1]["random"] != first["rows"][-1]["random"]


@pytest.mark.parametrize(("gain", "expected"), [(1.0, 0.0), (2.0, 100.0), (0.5, 50.0)])
def test_a_wrong_gain_of_an_output_of_unknown_meaning_counts(gain, expected, monkeypatch):
    batches = [torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    ranges = SimpleNamespace(of=lambda images: None)
    monkeypatch.setattr(picking, "with_ranges", lambda *_: lambda batch: gain * batch)
    interface = Interface.raw("picture", (3, *SIZE), ["depth"])
    judge = picking._Judge(lambda batch: batch, None, interface, ranges, batches, 0.0)
    assert judge.unit == "%"
    assert judge([0]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((5.0, 7.0, 6.0), "picked"),
        ((6.05, 7.0, 6.0), "picked"),  # within noise
        ((6.5, 7.0, 6.0), "all"),
        ((6.5, 6.0, 7.0), "random"),
        ((np.inf, np.inf, np.inf), "picked"),
    ],
)
def test_a_set_that_is_worse_on_other_images_is_not_recommended(numbers, expected):
    assert recommend(*numbers) == expected


@pytest.mark.parametrize(("worst", "told"), [((90.0, 30.0), True), ((40.0, 30.0), False)])
def test_what_the_worst_image_pays_is_told(worst, told):
    rows = (SizeRow(1, 5.0, (7.0, 8.0)),)
    choice = Choice("mm", 9, 3, ("a",), rows, 6.0, worst, "picked", ("a",), (), (), 1.0)
    assert ("30 mm with all become 90 mm" in choice.price) == told
    assert dataclasses.replace(choice, recommended="all").price == ""
    assert choice.to_dict()["price"] == choice.price
    assert choice.verdict.startswith("calibrate on the picked images: deviation from FP32 5 mm with the 1 picked")


def test_all_are_written_where_picking_is_worse(pick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(picking, "choose_greedily", lambda *arguments: [0])
    monkeypatch.setattr(picking, "recommend", lambda picked, random, every: "all")
    assert pick() == 0
    assert len(read_calibration_set(tmp_path / "out")) == 15
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("no set of 1 is as good as all images: calibrate on all of them")


def test_a_checkpoint_is_judged_in_mm_and_a_data_config_gives_the_images(trained_checkpoint, tmp_path, capsys):
    config = tmp_path / "data.yaml"
    config.write_text("train: {class_path: SyntheticDepth, init_args: {length: 12, size: [32, 64]}}\n")
    words = ["--images", str(config), "--count", "4", "--out", str(tmp_path / "out")]
    assert main(["pick-calibration", str(trained_checkpoint), *words]) == 0
    found = found_in(tmp_path / "out")
    assert found["unit"] == "mm"
    assert 0 < found["picked_deviation"] < 1000
    copies = (tmp_path / "out" / "dataset.txt").read_text().split()
    assert copies[0] == "images/0000.png"  # no file of its own
    assert (tmp_path / "out" / copies[0]).is_file()
    assert "warning  only 9 images to choose from and 3 to judge on" in capsys.readouterr().out


def test_arrays_are_picked_too(pick, tmp_path):
    (tmp_path / "arrays").mkdir()
    for index in range(8):
        np.save(tmp_path / "arrays" / f"{index}.npy", np.random.default_rng(index).random((5, *SIZE)))
    assert pick(network=save(tmp_path / "five.onnx", 5), images=tmp_path / "arrays", count=2) == 0
    assert read_calibration_set(tmp_path / "out").shape[1:] == (5, *SIZE)
    assert not (tmp_path / "out" / "images.txt").exists()
    assert (tmp_path / "out" / "dataset.txt").read_text().startswith("pictures/0000_")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "{percentile}"], "calibrates by percentile: images are picked for tool chains that"),
        (["--count", "0"], "--count must be a whole number of 1 or more"),
        (["--seed", "-1"], "--seed must be a whole number of 0 or more"),
        (["--images", "nowhere"], "nowhere does not exist: expected a folder"),
        (["--judge-on", "nowhere"], "nowhere does not exist: expected a folder"),
        (["--data.root", "x"], "--data.root is for a checkpoint or a config"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(pick, tmp_path, words, message, capsys):
    profile = tmp_path / "percentile.yaml"
    from depth_distill.shipped_configs import shipped_folder

    text = (shipped_folder() / "target" / "per-tensor-minmax.yaml").read_text()
    profile.write_text(text.replace("calibrator: minmax", "calibrator: percentile"))
    assert pick(*(word.format(percentile=profile) for word in words)) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1


def test_the_price_is_printed(pick, capsys, monkeypatch):
    monkeypatch.setattr(Choice, "price", "on the worst image 30 mm with all become 90 mm")
    assert pick() == 0
    assert "warning  on the worst image 30 mm with all become 90 mm" in capsys.readouterr().out


def test_images_in_the_folder_that_is_written_are_not_deleted(pick, photos, tmp_path, capsys):
    inside = tmp_path / "out" / "pictures"
    inside.parent.mkdir()
    (tmp_path / "out" / "pick.json").write_text("{}")
    photos.rename(inside)
    for words in (["--images", str(inside)], ["--images", str(tmp_path / "more"), "--judge-on", str(inside)]):
        assert pick(*words) == 2
        assert "lie in --out" in capsys.readouterr().err
    assert len(list(inside.iterdir())) == 20


def test_a_failure_leaves_the_earlier_choice(photos, tmp_path, monkeypatch):
    source = SimpleNamespace(takes_uint8=False, interface=Interface.raw("picture", (3, *SIZE), ["depth"]))
    inputs = NetworkInputs(photos, (3, *SIZE), "picture", PixelFormat())
    files = tuple(map(str, inputs.files))
    choice = Choice(
        "mm", 20, 3, files[:2], (SizeRow(2, 5.0, (7.0,)),), 6.0, (5.0, 6.0), "picked", files[:2], (), (), 1.0
    )
    out, options = tmp_path / "out", PickOptions(tmp_path / "n.onnx", photos, 2)
    report.write_choice(choice, [0, 1], inputs, source, options, out)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(report, "save_figure", fail)
    with pytest.raises(OSError, match="disk is full"):
        report.write_choice(choice, [2, 3], inputs, source, options, out)
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_left_alone(pick, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tensors.txt").write_text("of a bundle")
    assert pick() == 2
    assert "has files that are not of pick-calibration" in capsys.readouterr().err
