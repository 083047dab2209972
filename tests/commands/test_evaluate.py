"""depth-distill evaluate: one metric, whatever made the depth."""

import json
import re

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from PIL import Image

from depth_distill.cli import main
from depth_distill.codecs import DepthRange, HostSingle, HostTable, describe_codec
from depth_distill.display.pictures import save_depth_png
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.loading.trained import load_run
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold


@pytest.fixture
def run(trained_checkpoint):
    return load_run(trained_checkpoint)


def score(checkpoint, tmp_path, *words):
    assert (
        main(["evaluate", "--checkpoint", str(checkpoint), "--json", str(tmp_path / "m.json"), *map(str, words)]) == 0
    )
    return json.loads((tmp_path / "m.json").read_text())["metrics"]


def test_a_checkpoint_and_its_files_score_alike(run, trained_checkpoint, tmp_path):
    expected = run.evaluator()(run.network)
    found = score(trained_checkpoint, tmp_path)
    assert found["abs_rel"] == pytest.approx(expected["abs_rel"], rel=1e-6)
    path = export_float(fold(trace(run.network)), tmp_path / "alone.onnx", FileSpec.like(torch.zeros(1, 3, 32, 64)))
    assert score(trained_checkpoint, tmp_path, "--onnx", path)["abs_rel"] == pytest.approx(
        expected["abs_rel"], rel=1e-4
    )
    words = ["--checkpoint", str(trained_checkpoint), "--out", str(tmp_path / "b"), "--calibration-images", "4"]
    assert main(["export", *words, "--backends", "--uint8-input", "--logits"]) == 0
    for kind, tolerance in (("float", 1e-3), ("metric", 1e-3), ("int8", 0.2)):
        found = score(trained_checkpoint, tmp_path, "--onnx", tmp_path / "b" / f"model.{kind}.onnx")
        assert found["abs_rel"] == pytest.approx(expected["abs_rel"], rel=tolerance)


def test_a_folder_of_predictions(run, trained_checkpoint, tmp_path, capsys):
    expected = run.evaluator()(run.network)
    folder = tmp_path / "depth"
    for batch in run.data.val_dataloader():
        with torch.no_grad():
            depth_m = run.network.predict_depth(batch.image)
        for each, index in zip(depth_m, batch.sample_index.tolist(), strict=True):
            save_depth_png(each, folder / f"{run.data.val.name(index)}.png")
    found = score(trained_checkpoint, tmp_path, "--predictions", folder)
    # Half a millimetre at half a metre.
    assert found["abs_rel"] == pytest.approx(expected["abs_rel"], abs=1e-3)
    first = folder / f"{run.data.val.name(0)}.png"
    as_array = first.with_suffix(".npy")
    np.save(as_array, np.ones((4, 4), np.float32))
    assert "has the size (4, 4), expected (32, 64)" in refusal(capsys, trained_checkpoint, folder)
    np.save(as_array, np.zeros((32, 64), np.float32))
    assert "2048 of 2048 pixels have no depth" in refusal(capsys, trained_checkpoint, folder)
    as_array.write_bytes(b"no array")
    assert "cannot be read as a NumPy array" in refusal(capsys, trained_checkpoint, folder)
    as_array.unlink()
    first.write_bytes(first.read_bytes()[:100])
    assert "cannot be read as a 16-bit PNG depth map" in refusal(capsys, trained_checkpoint, folder)
    first.unlink()
    assert "expected one an image" in refusal(capsys, trained_checkpoint, folder)


def refusal(capsys, checkpoint, folder):
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--predictions", str(folder)]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_predictions_without_their_bars_score_as_the_network(trained_checkpoint, tmp_path, capsys):
    words = ["--data.resize", "pad", "--data.image_size", "[64, 64]"]
    run = load_run(trained_checkpoint, overrides=words)
    (note,) = run.notes
    assert note.startswith(
        "val: images are 2:1 (64 x 32), the network takes 1:1 (64 x 64): bars fill 50 % of the height"
    )
    expected = run.evaluator()(run.network)
    for batch in run.data.val_dataloader():
        with torch.no_grad():
            depth_m = run.network.predict_depth(batch.image)
        for each, index in zip(depth_m, batch.sample_index.tolist(), strict=True):
            save_depth_png(each[:, 16:48], tmp_path / "depth" / f"{run.data.val.name(index)}.png")
    found = score(trained_checkpoint, tmp_path, "--predictions", tmp_path / "depth", *words)
    assert found["abs_rel"] == pytest.approx(expected["abs_rel"], abs=1e-3)
    assert note in " ".join(capsys.readouterr().out.split())


def test_a_config_is_enough_for_files_and_predictions(run, trained_checkpoint, tmp_path, capsys):
    words = ["--checkpoint", str(trained_checkpoint), "--out", str(tmp_path / "b"), "--calibration-images", "4"]
    assert main(["export", *words, "--backends"]) == 0
    config = trained_checkpoint.parents[1] / "config.yaml"
    file = tmp_path / "b/model.float.onnx"
    panel = tmp_path / "panel.png"
    words = ["--config", str(config), "--onnx", str(file), "--json", str(tmp_path / "m.json"), "--panel", str(panel)]
    assert main(["evaluate", *words]) == 0
    found = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert found["abs_rel"] == pytest.approx(run.evaluator()(run.network)["abs_rel"], rel=1e-3)
    with Image.open(panel) as picture:
        assert picture.width > 1000  # image, truth, depth and error side by side
    capsys.readouterr()
    assert main(["evaluate", "--onnx", str(file)]) == 2
    assert "give --config" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", "--config", str(config)]) == 2
    assert "nothing to score" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["image", "picture"])
def test_a_file_that_returns_nan_or_takes_something_else_is_refused(trained_checkpoint, tmp_path, capsys, name):
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,3,32,64] {name}) => (float[1,1,32,64] codes)
        <int64[1] a = {{1}}> {{ u = ReduceMin<axes = [1]>({name})  codes = Sqrt(u) }}"""
    onnx.save(onnx.parser.parse_model(text.replace("<int64[1] a = {1}>", "")), tmp_path / "nan.onnx")
    words = ["evaluate", "--checkpoint", str(trained_checkpoint), "--onnx"]
    assert main([*words, str(tmp_path / "nan.onnx")]) == 2
    assert re.search(r"nan\.onnx: \d+ of \d+ values of 'codes' are not finite", capsys.readouterr().err)
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[1,3] a, float[1,3] b) => (float[1,3] codes) { codes = Add(a, b) }""")
    onnx.save(model, tmp_path / "two.onnx")
    assert main([*words, str(tmp_path / "two.onnx")]) == 2
    assert "two.onnx takes a [1, 3], b [1, 3], expected one image [1, 3, H, W]" in capsys.readouterr().err


def test_codes_go_through_a_decode_table(run, trained_checkpoint, tmp_path, capsys):
    path = export_float(fold(trace(run.network)), tmp_path / "alone.onnx", FileSpec.like(torch.zeros(1, 3, 32, 64)))
    plain = score(trained_checkpoint, tmp_path, "--onnx", path)
    file = tmp_path / "decode_table.json"

    def write(values, codec=run.network.codec.host):
        file.write_text(json.dumps({"codec": describe_codec(HostTable(codec, [values]))}))

    write([0.0, 1.0])
    same = score(trained_checkpoint, tmp_path, "--onnx", path, "--decode-table", file)
    assert same["abs_rel"] == pytest.approx(plain["abs_rel"], rel=1e-4)
    write([0.2, 0.9])
    assert score(trained_checkpoint, tmp_path, "--onnx", path, "--decode-table", file)["abs_rel"] != plain["abs_rel"]
    words = ["evaluate", "--checkpoint", str(trained_checkpoint), "--decode-table", str(file)]
    assert main(words) == 2
    assert "--decode-table goes with --onnx" in capsys.readouterr().err
    write([0.2, 0.9], HostSingle(DepthRange(1, 2)))
    assert main([*words, "--onnx", str(path)]) == 2
    assert "was fitted to the codec single, log of 1-2 m, not to" in capsys.readouterr().err
    for content in ("{", "[]", '{"codec": 5}'):
        file.write_text(content)
        assert main([*words, "--onnx", str(path)]) == 2
        assert "decode_table.json is no decode table" in capsys.readouterr().err
