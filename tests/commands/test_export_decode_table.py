"""depth-distill export with a decode table: of a tool chain that computes another sigmoid, of a device, or given."""

import contextlib
import importlib.util
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper
from rich.console import Console

from depth_distill.cli import main
from depth_distill.codecs import DepthRange, HostSingle, HostTable
from depth_distill.errors import ConfigError
from depth_distill.export.backends.backends import BACKENDS, RUNNERS, Backend, find_backend
from depth_distill.export.bundle import decode_table
from depth_distill.export.bundle.bundle import load_bundle
from depth_distill.export.bundle.decode_table import GivenTable, find_table, table_step
from depth_distill.export.interface.calibration_set import read_calibration_set
from depth_distill.quantization.interface import Interface


@dataclass(frozen=True)
class Substituting(Backend):
    """ONNX Runtime on a file whose sigmoids it takes for hard ones, as some tool chains do by default."""

    @property
    def runner(self):
        return RUNNERS / "run_onnxruntime.py"

    def run(self, model, inputs, calibration=None, options=None, repeats=20):
        with tempfile.TemporaryDirectory() as folder:
            changed = onnx.load(model)
            for node in changed.graph.node:
                if node.op_type == "Sigmoid":
                    node.op_type = "HardSigmoid"
                    node.attribute.append(helper.make_attribute("alpha", 0.1))
            onnx.save(changed, Path(folder, model.name))
            return super().run(Path(folder, model.name), inputs, calibration, options, repeats)


HARD = Substituting("hard", "Hard chain", "onnxruntime", None, frozenset({"float", "int8"}), quantizes=True)


@pytest.fixture(scope="module", autouse=True)
def hard():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKENDS, "hard", HARD)
        yield


def export(checkpoint, out, *words, backends=("hard",)):
    few = ["--calibration-images", "6", "--backends", *backends]
    return main(["export", "--checkpoint", str(checkpoint), "--out", str(out), *few, *words])


@pytest.fixture(scope="module")
def printed():
    return []


@pytest.fixture(scope="module")
def bundle(trained_checkpoint, tmp_path_factory, printed):
    out, said = tmp_path_factory.mktemp("tables") / "bundle", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert export(trained_checkpoint, out, "--fit-decoder", "hard", backends=("hard", "onnxruntime")) == 0
    printed.extend(said.getvalue().splitlines())
    return load_bundle(out)


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(bundle):
    return {(row["artifact"], row["runtime"]): row for row in bundle.manifest["metrics"]["rows"]}


def test_the_table_brings_the_chain_back_to_the_float_network(bundle, printed):
    row = rows_of(bundle)["float", "Hard chain PTQ"]
    assert row["drift_mm"] > 80
    assert row["with_table"]["drift_mm"] < 0.25 * row["drift_mm"]
    assert row["with_table"]["ratio"] == pytest.approx(1, abs=0.02)
    assert rows_of(bundle)["float", "ONNX Runtime"]["with_table"] is None  # never for float
    entry = bundle.manifest["decode_table"]
    assert entry["source"] == "Hard chain PTQ"
    assert entry["fit"]["helps"]
    assert (bundle.folder / "decode_table.png").stat().st_size > 10_000
    (line,) = [line for line in printed if "On the validation images" in line]
    after = row["with_table"]
    assert f"{row['drift_mm']:.1f} mm ({100 * row['drift_rel']:.2f} %) -> {after['drift_mm']:.1f} mm" in line
    assert f"abs_rel {row['abs_rel']:.4f} ({row['ratio']:.3f} x FP32) -> {after['abs_rel']:.4f}" in line
    report = (bundle.folder / "report.md").read_text()
    assert line.split(": ", 1)[1][:30] in report.replace("\\", "")
    assert "![decode_table.png](decode_table.png)" in report


def test_decoders_and_the_bundle_decode_with_it_and_float_files_without(bundle):
    images = read_calibration_set(bundle.calibration)
    ran = HARD.run(bundle.artifact("float"), images, bundle.calibration, repeats=0).outputs
    exact = find_backend("onnxruntime").run(bundle.artifact("float"), images, repeats=0).outputs
    true_m = bundle.codec.decode(exact["codes"])
    assert np.array_equal(bundle.decode(exact, "float"), true_m)
    depth_m = bundle.decode(ran)
    assert np.abs(depth_m / true_m - 1).mean() < 0.2 * np.abs(bundle.decode(ran, "float") / true_m - 1).mean()
    through, plain = (module_of(bundle.folder / name) for name in ("decode.py", "decode_float.py"))
    assert np.array_equal(through.decode(through.codes_of(ran)), depth_m)
    assert np.array_equal(plain.decode(plain.codes_of(exact)), true_m)
    assert "Hard chain PTQ" in (bundle.folder / "decode.h").read_text()


def test_the_int8_network_with_the_table_inside_returns_the_same_metres(bundle):
    images = read_calibration_set(bundle.calibration)
    run = find_backend("onnxruntime").run
    codes = run(bundle.artifact("int8"), images, repeats=0).outputs
    metres = run(bundle.artifact("metric_int8"), images, repeats=0).outputs["depth_m"]
    assert metres == pytest.approx(bundle.decode(codes), rel=1e-5)
    assert rows_of(bundle)["metric_int8", "Hard chain"]["ratio"] == pytest.approx(1, abs=0.05)


def test_where_nothing_is_wrong_a_table_does_no_harm_or_there_is_none(trained_checkpoint, tmp_path, capsys):
    assert export(trained_checkpoint, tmp_path / "bundle", "--fit-decoder", backends=("onnxruntime",)) == 0
    bundle = load_bundle(tmp_path / "bundle")
    row = rows_of(bundle)["float", "ONNX Runtime PTQ"]
    if bundle.table is None:
        assert "no table lowers that" in bundle.manifest["decode_table_refused"]
        assert "no table lowers that" in capsys.readouterr().out
        assert not (bundle.folder / "decode_float.py").exists()
    else:
        assert row["with_table"]["abs_rel"] <= 1.002 * row["abs_rel"]
        assert row["with_table"]["drift_mm"] <= row["drift_mm"]


def test_outputs_of_a_device_are_fitted_in_place_of_a_tool_chains(bundle, trained_checkpoint, tmp_path):
    """The network ends before its sigmoid: what the device returns are logits."""
    out, device = tmp_path / "bundle", tmp_path / "npu"
    codes = codes_of(bundle)
    exact = np.log(codes / (1 - codes))
    device.mkdir()
    for index, values in enumerate(exact):
        np.save(device / f"{index:04d}.npy", values * 0.7 + 0.1)
    words = ["--logits", "--device-outputs", str(device)]
    assert export(trained_checkpoint, out, *words, backends=()) == 0
    found = load_bundle(out)
    assert found.table_source == "the device of npu"
    wrong = {"logits": np.stack([np.load(path) for path in sorted(device.iterdir())])}
    before, after = (
        np.abs(found.decode(wrong, kind) - bundle.codec.decode(codes)).mean() for kind in ("float", "int8")
    )
    assert after < 0.2 * before
    through = module_of(out / "decode.py")
    assert np.array_equal(through.decode(through.codes_of(wrong)), found.decode(wrong))


def codes_of(bundle):
    images = read_calibration_set(bundle.calibration)
    return find_backend("onnxruntime").run(bundle.artifact("float"), images, repeats=0).outputs["codes"]


def test_a_bundle_is_given_a_table_code_by_code_and_uses_it_from_then_on(trained_checkpoint, tmp_path, capsys):
    out, device = tmp_path / "bundle", tmp_path / "npu"
    recipe = "[fold, {thermometer: {num_codes: 4}}]"
    assert export(trained_checkpoint, out, "--recipe", recipe, backends=()) == 0
    first = load_bundle(out)
    codes = codes_of(first)
    device.mkdir()
    for index, values in enumerate(codes**2):
        np.save(device / f"{index:04d}.npy", values)
    compare = ["npu-compare", "--bundle", str(out), "--device-outputs", str(device), "--json", str(tmp_path / "c.json")]
    assert main(compare) == 1
    assert main(["fit-decoder", str(out), "--device-outputs", str(device), "--update-bundle"]) == 0
    found = load_bundle(out)
    assert len(found.table.tables) == 4
    assert {*found.artifacts} == {*first.artifacts, "metric_int8"}
    true_m = first.codec.decode(codes)
    before, after = (np.abs(found.decode({"codes": codes**2}, kind) - true_m).mean() for kind in ("float", "int8"))
    assert after < 0.2 * before
    assert "Newer than this report: decode table for the device of npu" in (out / "report.html").read_text()
    assert not list(tmp_path.glob(".bundle*"))
    capsys.readouterr()
    assert main(compare) == 0
    assert "through the table for the device of npu" in capsys.readouterr().out
    compared = json.loads((tmp_path / "c.json").read_text())["decode_table"]
    assert compared["before"]["mean_mm"] == pytest.approx(1000 * before, rel=1e-3)
    assert compared["after"]["mean_mm"] == pytest.approx(1000 * after, rel=1e-3)
    # Another fit replaces it, and its line in the report; one that does not help changes nothing.
    for index, values in enumerate(codes**1.5):
        np.save(device / f"{index:04d}.npy", values)
    assert main(["fit-decoder", str(out), "--device-outputs", str(device), "--update-bundle"]) == 0
    assert (out / "report.md").read_text().count("Newer than this report") == 1
    assert load_bundle(out).table.tables != found.table.tables
    for index, values in enumerate(codes):
        np.save(device / f"{index:04d}.npy", values)
    manifest = (out / "manifest.json").read_bytes()
    assert main(["fit-decoder", str(out), "--device-outputs", str(device), "--update-bundle"]) == 1
    assert (out / "manifest.json").read_bytes() == manifest


def test_what_runs_later_goes_through_the_table_of_its_bundle(bundle, trained_checkpoint, tmp_path, capsys):
    words = ["--checkpoint", str(trained_checkpoint), "--json", str(tmp_path / "m.json")]
    assert main(["evaluate", "--onnx", str(bundle.artifact("int8")), *words]) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    row = rows_of(bundle)["int8", "ONNX Runtime"]
    assert found["metrics"]["abs_rel"] == pytest.approx(row["with_table"]["abs_rel"], rel=1e-6)
    assert found["metrics_without_table"]["abs_rel"] == pytest.approx(row["abs_rel"], rel=1e-6)
    assert "through the decode table for Hard chain PTQ (this ran on ONNX Runtime): abs_rel" in capsys.readouterr().out
    assert main(["evaluate", "--onnx", str(bundle.artifact("float")), *words]) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["metrics"]["abs_rel"] == pytest.approx(rows_of(bundle)["float", "ONNX Runtime"]["abs_rel"], rel=1e-6)
    assert "metrics_without_table" not in found
    words = ["--bundle", str(bundle.folder), "--json", str(tmp_path / "c.json"), "--images", "6"]
    assert main(["npu-compare", "--backend", "hard", "--artifact", "float", "--quantize", *words]) == 0
    compared = json.loads((tmp_path / "c.json").read_text())["decode_table"]
    assert compared["after"]["mean_mm"] < 0.25 * compared["before"]["mean_mm"]
    capsys.readouterr()
    assert main(["npu-compare", "--backend", "hard", "--artifact", "float", *words]) == 1  # floats have no table
    assert "through" not in capsys.readouterr().out


def test_a_table_that_was_fitted_before_is_taken_if_it_is_of_this_codec(bundle):
    prepared = SimpleNamespace(interface=Interface(bundle.input, bundle.layout, bundle.codec))
    given = find_table(GivenTable("t.json", bundle.table), prepared, np.zeros((1, 1, 2, 2)), bundle.folder, {})
    assert given.codec(bundle.codec).tables == bundle.table.tables
    assert given.to_manifest(bundle.codec)["decode_table"]["source"] == "t.json"
    other = HostTable(HostSingle(DepthRange(1, 9)), bundle.table.tables)
    with pytest.raises(ConfigError, match=r"t.json was fitted to the codec single, log of 1-9 m, not to"):
        find_table(GivenTable("t.json", other), prepared, np.zeros((1, 1, 2, 2)), bundle.folder, {})


def test_a_table_that_is_given_leaves_no_picture_of_another(bundle, tmp_path, monkeypatch):
    (tmp_path / "decode_table.png").write_text("of an earlier fit")
    prepared = SimpleNamespace(interface=Interface(bundle.input, bundle.layout, bundle.codec))
    steps = SimpleNamespace(console=Console(quiet=True), run=lambda title, on, work, **_: work())
    monkeypatch.setattr(decode_table, "expected_codes", lambda *_: np.zeros((1, 1, 2, 2)))
    found = table_step(GivenTable("t.json", bundle.table), prepared, bundle.codec, tmp_path, {}, steps)
    assert found.tables == bundle.table.tables
    assert not (tmp_path / "decode_table.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fit-decoder", "iree"], "iree cannot: fit the decode table on one that can"),
        (["--fit-decoder", "hrad"], "there is no backend 'hrad'; did you mean"),
        (["--fit-decoder", "hard", "--decode-table", "t.json"], "not allowed with argument"),
        (["--decode-table", "t.json"], "t.json does not exist: depth-distill fit-decoder writes it"),
        (["--device-outputs", "nowhere"], "nowhere does not exist: expected a folder"),
    ],
)
def test_what_cannot_be_fitted_is_refused(trained_checkpoint, tmp_path, words, message, capsys):
    assert export(trained_checkpoint, tmp_path / "bundle", *words, backends=("onnxruntime",)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
