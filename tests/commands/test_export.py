"""depth-distill export, npu-compare and npu-info on a small trained network."""

import json
import re
import shutil
import subprocess
import sys
from typing import get_args

import numpy as np
import onnx
import pytest
import torch

from depth_distill.cli import main
from depth_distill.commands.device_options import DUMP_DTYPES, DUMP_LAYOUTS
from depth_distill.export.backends.backends import BACKENDS
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.bundle.bundle import load_bundle
from depth_distill.export.compare.tensor_files import DumpDtype, DumpLayout
from depth_distill.loading.trained import load_run
from depth_distill.quantization.target.target import load_target

SMALL = ["--calibration-images", "4", "--backends", "onnxruntime"]


def export(checkpoint, out, *words):
    return main(["export", "--checkpoint", str(checkpoint), "--out", str(out), *SMALL, *words])


@pytest.fixture(scope="module")
def bundle(trained_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "bundle"
    assert export(trained_checkpoint, out) == 0
    return load_bundle(out)


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_bundle_is_whole(bundle, trained_checkpoint):
    assert set(bundle.artifacts) == {"float", "int8", "fp16", "metric"}
    names = {path.name for path in bundle.folder.iterdir()}
    assert names >= {"decode.py", "decode.h", "encodings.json", "report.html", "report.md", "runners", "calibration"}
    assert not list(bundle.folder.parent.glob(".bundle*"))
    manifest = bundle.manifest
    assert manifest["formula"] == "depth_m = 0.5 * (15/0.5)^code"
    assert manifest["input"]["shape"] == [1, 3, 32, 64]
    run = load_run(trained_checkpoint)
    evaluator = run.evaluator()
    assert manifest["metrics"]["float"]["abs_rel"] == pytest.approx(evaluator(run.network)["abs_rel"], rel=1e-4)
    rows = {(row["artifact"], row["runtime"]): row for row in manifest["metrics"]["rows"]}
    assert all(row["error"] is None for row in rows.values())
    found = evaluator(OnnxNetwork(bundle.artifact("int8")))["abs_rel"]
    assert rows["int8", "ONNX Runtime"]["abs_rel"] == pytest.approx(found, rel=1e-6)
    assert rows["float", "ONNX Runtime"]["ratio"] == pytest.approx(1, abs=1e-4)
    assert rows["metric", "ONNX Runtime"]["ratio"] == pytest.approx(1, abs=1e-4)
    report = (bundle.folder / "report.md").read_text()
    assert report.startswith("# DepthNet test_efficientnet, single, log, on SyntheticDepth, for per-tensor-minmax")
    assert manifest["verdict"] in report
    first, last = manifest["comparison"]["scores"]
    assert (first["recipe"], last["recipe"]) == ("untouched", "fold + equalize")
    exported = manifest["comparison"]["scores"][manifest["comparison"]["exported"]]
    assert exported["metrics"] == manifest["metrics"]["fake_quantized"]
    assert (bundle.folder / "before_after.png").stat().st_size > 10_000
    assert f"| int8 | ONNX Runtime {rows['int8', 'ONNX Runtime']['version']} | {found:.4f} |" in report


def test_its_decoder_reads_its_network(bundle, tmp_path):
    images = np.load(bundle.calibration / "tensors/0000.npy")
    codes = OnnxNetwork(bundle.artifact("float"))(torch.from_numpy(images)).numpy()
    np.savez(tmp_path / "outputs.npz", codes=codes)
    command = [sys.executable, str(bundle.folder / "decode.py"), "outputs.npz", "depth.npy"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert np.array_equal(np.load(tmp_path / "depth.npy"), bundle.codec.decode(codes))


def test_pixels_in_logits_out(trained_checkpoint, tmp_path):
    assert export(trained_checkpoint, tmp_path / "b", "--uint8-input", "--logits", "--max-opset", "17") == 0
    found = load_bundle(tmp_path / "b")
    assert found.layout.names == ("logits",)
    assert np.load(found.calibration / "tensors/0000.npy").dtype == np.uint8
    rows = {row["artifact"]: row for row in found.manifest["metrics"]["rows"] if not row["runtime"].endswith("PTQ")}
    assert rows["float"]["ratio"] == pytest.approx(1, abs=1e-3)
    assert rows["int8"]["ratio"] == pytest.approx(1, abs=0.2)


def test_a_target_that_substitutes_the_sigmoid_gets_another_end(trained_checkpoint, tmp_path, capsys):
    assert export(trained_checkpoint, tmp_path / "b", "--target", "hard-sigmoid") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("head ")]
    assert len(lines) == 1
    found = load_bundle(tmp_path / "b")
    graph = onnx.load(found.artifact("float")).graph
    last = {node.op_type for node in graph.node for each in graph.output if each.name in node.output}
    assert "hard-sigmoid computes the last Sigmoid as hard_sigmoid, which puts depth off by" in lines[0]
    assert not last & {"Sigmoid", "HardSigmoid"}
    assert {next(iter(each)) for each in found.manifest["recipe"]["passes"]} & {"logits", "pair", "thermometer"}
    scores = {each["recipe"]: each["metrics"]["drift_mm"] for each in found.manifest["comparison"]["scores"]}
    assert scores["untouched"] > 1.2 * scores["fold + logits"]
    assert found.manifest["target"]["substitutions"] == {"Sigmoid": "hard_sigmoid"}
    assert "The target computes Sigmoid as" in (found.folder / "report.md").read_text()


@pytest.mark.parametrize(("opset", "int8"), [(11, 11), (9, 10)])
def test_files_for_an_old_tool_chain(opset, int8, trained_checkpoint, tmp_path, capsys):
    assert (
        export(trained_checkpoint, tmp_path / "b", "--max-opset", str(opset), "--high-precision-layers", "head.conv")
        == 0
    )
    found = load_bundle(tmp_path / "b")
    versions = {kind: onnx.load(found.artifact(kind)).opset_import[0].version for kind in found.artifacts}
    # This tool chain reads the float file; codes came with opset 10, and are for comparison.
    assert versions == {"float": opset, "int8": int8, "fp16": opset, "mixed": int8, "metric": opset}
    assert found.manifest["opsets"] == versions
    assert ("written with opset 10: " in capsys.readouterr().out) == (opset == 9)
    rows = found.manifest["metrics"]["rows"]
    assert [row["error"] for row in rows] == [None] * len(rows)
    ratios = {row["artifact"]: row["ratio"] for row in rows if not row["runtime"].endswith("PTQ")}
    assert (ratios["float"], ratios["metric"]) == pytest.approx((1, 1), abs=1e-3)
    assert ratios["int8"] == pytest.approx(1, abs=0.2)


def test_named_layers_are_in_half_precision_for_a_target_that_imports_scales(trained_checkpoint, tmp_path):
    profile = load_target("onnxruntime-cpu").source.read_text()
    target = tmp_path / "chip.yaml"
    target.write_text(
        profile.replace('int8: "yes"', "int8: unconfirmed").replace("operators: {", "operators: {max_opset: 18, ")
    )
    words = ["--target", str(target), "--high-precision-layers", "head.conv"]
    assert export(trained_checkpoint, tmp_path / "b", *words) == 0
    found = load_bundle(tmp_path / "b")
    assert found.manifest["opset"] == onnx.load(found.artifact("int8")).opset_import[0].version == 18
    # What was checked is the file that such a tool chain is given.
    assert "Q/DQ nodes with int8 codes: unconfirmed" in (found.folder / "report.md").read_text()
    rows = {row["artifact"]: row for row in found.manifest["metrics"]["rows"]}
    assert rows["mixed"]["error"] is None
    assert found.artifact("mixed").stat().st_size < found.artifact("fp16").stat().st_size


def test_an_interrupted_export_goes_on_and_leaves_the_old_bundle(trained_checkpoint, tmp_path, monkeypatch, capsys):
    out = tmp_path / "bundle"
    assert export(trained_checkpoint, out) == 0
    before = contents(out)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("depth_distill.export.bundle.pipeline.write_manifest", interrupt)
        assert export(trained_checkpoint, out) == 130
    assert contents(out) == before
    capsys.readouterr()
    assert export(trained_checkpoint, out) == 0
    text = capsys.readouterr().out
    for step in ("recipe: equalize", "calibrate", "write model.int8.onnx", "run int8 on onnxruntime"):
        assert f"{step}  kept from the last run" in text
    assert load_bundle(out)
    assert not (tmp_path / ".bundle.work").exists()


def test_formats_that_no_int8_file_holds_are_refused_before_anything_is_computed(trained_checkpoint, tmp_path, capsys):
    assert (
        main(
            [
                "export",
                "--checkpoint",
                str(trained_checkpoint),
                "--out",
                str(tmp_path / "b"),
                "--target",
                "weights-int4",
            ]
        )
        == 2
    )
    error = " ".join(capsys.readouterr().err.split())
    assert "target weights-int4: weights.dtype is int4, and an exported INT8 file holds int8 and uint8" in error
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("words", "again", "kept"),
    [
        (["--target", "symmetric-pow2"], "calibrate", "nothing"),
        (["--data.val.init_args.seed", "5"], "score the float network", "calibrate"),
        (["--calibration-images", "3"], "calibrate", "nothing"),
    ],
)
def test_what_depends_on_what_changed_is_done_again(
    words, again, kept, trained_checkpoint, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "bundle"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("depth_distill.export.bundle.pipeline.write_manifest", interrupt)
        assert export(trained_checkpoint, out) == 130
    capsys.readouterr()
    assert main(["export", "--checkpoint", str(trained_checkpoint), "--out", str(out), *SMALL, *words]) == 0
    text = capsys.readouterr().out
    assert f"{again}  kept" not in text
    assert kept == "nothing" or f"{kept}  kept" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "per-tensor-minmx"], "unknown target 'per-tensor-minmx'.*per-tensor-minmax"),
        (["--calibration-images", "0"], "--calibration-images must be a whole number of 1 or more, received '0'"),
        (["--data.image_std", "[0, 0, 0]"], "data.image_std: received .* expected positive numbers"),
        (["--data.image_mean", "[.nan, 0.4, 0.4]"], "step 'read calibration images': calibration image 0 has NaN"),
        (["--max-opset", "8"], "opset: received 8, expected 9 to"),
        (["--backends", "openvin"], "did you mean 'openvino'"),
        (["--high-precision-layers", "head.nothing", "--target", "onnxruntime-cpu"], "head.nothing"),
        (["--bake-ranges", "--recipe", "naive"], r"pass 2 \(bake_ranges\): this checkpoint has no activation ranges"),
        (["--bake-ranges"], "bake_ranges keeps ranges that were learned .* and equalize changes these"),
        (["--recipe", "robst"], "there is no recipe 'robst'; did you mean 'robust'"),
        (["--recipe", "[fold, eqalize]"], "there is no pass 'eqalize'; did you mean 'equalize'"),
        (
            ["--recipe", "[fold, {equalize: {iterations: 3}}]"],
            "did you mean 'max_iterations'[?] expected one of max_iterations",
        ),
        (["--head", "thermometer:5"], "--head must be single, pair, or thermometer:N with N 2, 4, 8 or 16"),
        (["--head", "pair", "--logits"], "pair returns integer and fractional .* and logits would change the same"),
        (["--head", "pair", "--separate-outputs"], "pair returns integer and fractional .* and separate_outputs would"),
        (["--head", "pair", "--no-separate-outputs"], "has the pass pair, whose two outputs cannot be one"),
        (["--head", "single", "--recipe", "[fold, pair]"], "has the pass pair, but the head single is requested"),
        (["--recipe", "[fold, bias_correct, pair]"], "pair changes the network behind it: put pair before"),
        (["--recipe", "[fold, uint8_input, uint8_input]"], "uint8_input stands there 2 times"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_the_old_bundle(words, message, trained_checkpoint, tmp_path, capsys):
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "manifest.json").write_text('{"schema_version": 1, "artifacts": {}, "files": {}}')
    assert export(trained_checkpoint, out, *words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert [path.name for path in out.iterdir()] == ["manifest.json"]


def test_a_truncated_checkpoint_and_one_of_another_network(trained_checkpoint, tmp_path, capsys):
    shutil.copytree(trained_checkpoint.parents[1], tmp_path / "run")
    broken = tmp_path / "run" / "checkpoints" / trained_checkpoint.name
    broken.write_bytes(broken.read_bytes()[:1000])
    assert export(broken, tmp_path / "bundle") == 2
    assert "is it truncated?" in capsys.readouterr().err
    encoder = "--model.init_args.network.init_args.encoder=test_resnet"
    assert export(trained_checkpoint, tmp_path / "bundle", encoder) == 2
    assert "another network than" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "bundle").exists()


def test_what_the_target_refuses_is_not_exported_unless_asked(trained_checkpoint, tmp_path, capsys):
    profile = load_target("per-tensor-minmax").source.read_text()
    (tmp_path / "strict.yaml").write_text(profile.replace("operators: {}", "operators: {forbidden: [Resize]}"))
    words = ["--target", str(tmp_path / "strict.yaml")]
    assert export(trained_checkpoint, tmp_path / "bundle", *words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "step 'check operators'" in error
    assert "Resize is not supported" in error
    assert export(trained_checkpoint, tmp_path / "bundle", *words, "--allow-violations") == 0
    assert "Resize is not supported" in (tmp_path / "bundle" / "report.md").read_text()


def test_a_folder_of_something_else_is_not_touched(trained_checkpoint, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert export(trained_checkpoint, tmp_path) == 2
    assert "is not a bundle" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_npu_runs_and_compares(bundle, tmp_path, capsys):
    words = ["npu-compare", "--bundle", str(bundle.folder), "--out", str(tmp_path)]
    assert main([*words, "--backend", "onnxruntime", "--images", "2"]) == 0
    assert "within tolerance" in capsys.readouterr().out
    assert json.loads((tmp_path / "test_npu.json").read_text())["outputs"]["codes"]["mean"] < 0.005
    quantize = ["--backend", "onnxruntime", "--artifact", "float", "--quantize", "--max-mean-drift", "1e-9"]
    assert main([*words, *quantize]) == 1
    assert "too far off: codes" in capsys.readouterr().out
    assert main([*words, "--backend", "onnxruntime", "--quantize"]) == 2


def test_a_device_that_drifts_is_told_where(bundle, tmp_path, capsys):
    words = ["npu-compare", "--bundle", str(bundle.folder), "--images", "2"]
    assert main([*words, "--dump-reference", str(tmp_path / "dumps")]) == 0
    assert main([*words, "--dumps", str(tmp_path / "dumps")]) == 0
    names = sorted(path.stem for path in (tmp_path / "dumps/0000").iterdir())
    first = next(name for name in names if name.startswith("decoder.blocks.1"))
    for index in range(2):
        path = tmp_path / f"dumps/000{index}/{first}.npy"
        np.save(path, np.load(path) + np.float32(10))
    capsys.readouterr()
    assert main([*words, "--dumps", str(tmp_path / "dumps"), "--out", str(tmp_path)]) == 1
    assert f"drift begins at {first}" in capsys.readouterr().out
    assert (tmp_path / "test_npu.png").is_file()
    (tmp_path / "dumps/9999").mkdir()
    assert main([*words, "--dumps", str(tmp_path / "dumps")]) == 2
    assert "9999 is of no image: the bundle has" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "dumps/9999").rmdir()
    (tmp_path / "dumps/0000/nothing.npy").write_bytes(b"")
    assert main([*words, "--dumps", str(tmp_path / "dumps")]) == 2
    assert "belongs to no layer of the file" in " ".join(capsys.readouterr().err.split())


def test_npu_info(bundle, trained_checkpoint, tmp_path, capsys):
    assert main(["npu-info", "--target", "aiware-apache6", "--supported-dtypes"]) == 0
    text = capsys.readouterr().out
    assert "unconfirmed" in text
    assert "operators" not in text
    assert main(["npu-info", "--target", "aiware-apache6"]) == 0
    assert "max_window: 17" in capsys.readouterr().out
    check = ["--check", str(bundle.artifact("float"))]
    assert main(["npu-info", "--target", "onnxruntime-cpu", *check]) == 0
    assert main(["npu-info", "--target", "aiware-apache6", *check, "--strict"]) == 1
    config = trained_checkpoint.parents[1] / "config.yaml"
    assert main(["npu-info", "--target", "onnxruntime-cpu", "--config", str(config)]) == 0
    assert main(["npu-info", "--target", "onnxruntime-cpu", "--check", str(tmp_path / "a.onnx")]) == 2


def test_runners_are_those_that_were_run(bundle):
    runners = {path.name: path for path in (bundle.folder / "runners").iterdir()}
    for backend in BACKENDS.values():
        assert runners[backend.runner.name].read_bytes() == backend.runner.read_bytes()


def test_dump_formats_of_the_help_are_those_that_are_read():
    assert get_args(DumpDtype) == DUMP_DTYPES
    assert get_args(DumpLayout) == DUMP_LAYOUTS
