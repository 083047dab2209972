"""A small roadmap: rows are trained, measured and stored once; rows that cannot run have a reason."""

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from depth_distill import roadmap
from depth_distill.codecs import DepthRange, HostPair, HostSingle
from depth_distill.errors import ConfigError
from depth_distill.models import DepthCodec
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.target.target import load_target
from depth_distill.roadmap import load_plan, measurements, run
from tests.quantization.small_case import SmallNet
from tests.trained_run import CONFIG

DISTILL = {
    "seed_everything": 0,
    "trainer": CONFIG["trainer"],
    "panels": {"every_n_epochs": 0},
    "checkpoint": {"monitor": "vendor/abs_rel", "filename": "epoch{epoch:03d}"},
    "data": CONFIG["data"] | {"calibration_size": 4, "seed": "${seed_everything}"},
    "model": {
        "class_path": "DistillationTask",
        "init_args": {
            "network": CONFIG["model"]["init_args"]["network"],
            "output": {"class_path": "CompositeLoss", "init_args": {"terms": {"l1": {"class_path": "LogL1Loss"}}}},
        },
    },
}
ROWS = [
    {"name": "FP32 teacher", "kind": "float"},
    {"name": "INT8 PTQ", "kind": "ptq", "recipe": "naive"},
    {"name": "+ equalization", "kind": "ptq", "recipe": "equalize"},
    {"name": "+ decode table", "kind": "ptq", "recipe": "naive", "decode_table": True, "planned": 0.06},
    {"name": "thermometer", "kind": "ptq", "recipe": ["fold", {"thermometer": {"num_codes": 8}}]},
    {"name": "+ distillation", "kind": "distill", "recipe": "naive", "seeds": [0, 1]},
    {
        "name": "another student",
        "kind": "distill",
        "recipe": "naive",
        "then": "equalize",
        "options": {
            "model.init_args.network.init_args.decoder_channels": [8, 8, 8, 8, 4],
            "model.init_args.teacher": "{teacher_network}",
            "model.init_args.student_init": "scratch",
        },
    },
    {
        "name": "+ features",
        "kind": "distill",
        "recipe": "naive",
        "options": {
            "model.init_args.features": [{"student": "encoder.blokcs", "loss": {"class_path": "FeatureMSE"}}],
        },
    },
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, trained_checkpoint):
    folder = tmp_path_factory.mktemp("roadmap")
    (folder / "distill.yaml").write_text(yaml.safe_dump(DISTILL))
    plan = {"teacher_config": "unused", "distill_config": str(folder / "distill.yaml"), "rows": ROWS}
    plan |= {"calibration_images": 4, "substituting": "hard-sigmoid", "planned_float": 0.03}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    from depth_distill.cli import main

    words = ["--config", str(folder / "plan.yaml"), "--out", str(folder / "out"), "--teacher", str(trained_checkpoint)]
    assert main(["roadmap", *words]) == 0
    return folder / "out", words


def rows(folder):
    return json.loads((folder / "roadmap.json").read_text())["networks"]["plain"]["rows"]


def test_every_row_is_measured_against_the_same_float_network(finished):
    found = rows(finished[0])
    assert list(found) == [row["name"] for row in ROWS]
    exact = found["FP32 teacher"]["0"]
    assert exact["drift_mm"] == 0
    for name in ("INT8 PTQ", "+ equalization", "thermometer", "+ distillation"):
        for result in found[name].values():
            assert result["drift_mm"] > 0
            assert result["abs_rel"] == pytest.approx(exact["abs_rel"], rel=0.5)
            # int8 weights and int32 biases instead of float32
            assert 0.25 * exact["megabytes"] < result["megabytes"] < 0.4 * exact["megabytes"]


@pytest.mark.parametrize(("words", "root"), [([], "of_teacher"), (["--data.root=a", "--data.root", "b"], "b")])
def test_rows_may_name_the_root_of_the_data(tmp_path, words, root):
    checkpoint = tmp_path / "checkpoints" / "a.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    config = CONFIG | {"data": CONFIG["data"] | {"root": "of_teacher"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    known = run._placeholders(checkpoint, words)
    assert run._filled({"data.calibration": {"init_args": {"root": "{data_root}", "manifest": "x"}}}, known) == {
        "data.calibration": {"init_args": {"root": root, "manifest": "x"}}
    }


def test_a_student_is_scored_in_float_too_and_may_be_another_network(finished):
    found = rows(finished[0])
    exact = found["FP32 teacher"]["0"]
    same, other = found["+ distillation"]["0"], found["another student"]["0"]
    assert "abs_rel_in_float" not in exact
    assert same["abs_rel_in_float"] == pytest.approx(exact["abs_rel"], rel=0.5)
    assert other["megabytes"] != same["megabytes"]
    assert 0 < abs(other["abs_rel"] - other["abs_rel_in_float"]) < abs(other["abs_rel_in_float"] - exact["abs_rel"])
    assert "| x FP32 in float |" in (finished[0] / "roadmap.md").read_text()


def test_students_have_the_network_and_the_data_of_their_teacher():
    of_teacher = {
        "model.init_args.network.init_args.encoder": "resnet10t",
        "model.init_args.network.init_args.weights": "w.pth",
        "model.init_args.optimizer.init_args.lr": 0.1,
        "data.image_size": [64, 64],
    }
    assert roadmap.run._shared_with_students(of_teacher) == {
        "model.init_args.network.init_args.encoder": "resnet10t",
        "data.image_size": [64, 64],
    }


def test_a_target_that_no_tool_chain_here_has_is_simulated_and_the_protocol_says_so(
    finished, trained_checkpoint, tmp_path
):
    from depth_distill.cli import main

    plan = yaml.safe_load((finished[0].parent / "plan.yaml").read_text())
    plan |= {"rows": ROWS[:2], "target": "weights-int4", "substituting": None}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = ["--config", str(tmp_path / "plan.yaml"), "--teacher", str(trained_checkpoint)]
    assert main(["roadmap", *words, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "roadmap.json").read_text())
    assert (
        "by fake quantization, because ONNX Runtime cannot stand for weights-int4: its weights are int4"
        in (found["protocol"])
    )
    four, eight = (each["INT8 PTQ"]["0"]["drift_mm"] for each in (rows(tmp_path / "out"), rows(finished[0])))
    assert four > 1.05 * eight  # small layers: most of the error is of activations
    sizes = [each["INT8 PTQ"]["0"]["megabytes"] for each in (rows(tmp_path / "out"), rows(finished[0]))]
    assert sizes[0] < 0.8 * sizes[1]  # half the bytes of weights, the same of biases


def test_the_tool_chain_rounds_to_the_formats_of_the_target(finished, trained_checkpoint, tmp_path):
    from depth_distill.cli import main

    plan = yaml.safe_load((finished[0].parent / "plan.yaml").read_text())
    profile = load_target("per-tensor-minmax").source.read_text()
    profile = profile.replace("dtype: uint8, symmetric: false", "dtype: int8, symmetric: true")
    (tmp_path / "symmetric.yaml").write_text(profile)
    plan |= {"rows": ROWS[:2], "target": str(tmp_path / "symmetric.yaml"), "substituting": None}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = ["--config", str(tmp_path / "plan.yaml"), "--teacher", str(trained_checkpoint)]
    assert main(["roadmap", *words, "--out", str(tmp_path / "out")]) == 0
    symmetric, asymmetric = (each["INT8 PTQ"]["0"]["drift_mm"] for each in (rows(tmp_path / "out"), rows(finished[0])))
    assert symmetric > 1.2 * asymmetric  # half the codes of what is never negative


def test_what_a_substituting_tool_chain_does_is_undone_by_a_decode_table_and_does_not_reach_clips(finished):
    found = {name: results["0"] for name, results in rows(finished[0]).items()}
    plain, table, clips = (found[name] for name in ("INT8 PTQ", "+ decode table", "thermometer"))
    assert plain["substituted_drift_mm"] > 3 * plain["drift_mm"]
    assert table["substituted_drift_mm"] < 0.6 * plain["substituted_drift_mm"]
    assert table["drift_mm"] < 1.3 * plain["drift_mm"]
    # Not exactly: this encoder has SiLU and squeeze-and-excitation, whose sigmoids are substituted, too.
    assert clips["substituted_abs_rel"] == pytest.approx(clips["abs_rel"], rel=1e-3)
    header = (finished[0] / "roadmap.csv").read_text().splitlines()[0]
    assert header.endswith("s,x FP32 in float,x FP32 substituted,drift mm substituted,planned x FP32")
    line = next(each for each in (finished[0] / "roadmap.md").read_text().splitlines() if "decode table" in each)
    assert line.endswith("| 2.00 |")


def test_several_teachers_are_networks_of_their_own(finished, trained_checkpoint, tmp_path, capsys):
    from depth_distill.cli import main

    plan = yaml.safe_load((finished[0].parent / "plan.yaml").read_text())
    plan |= {"rows": ROWS[:2], "teachers": {"one": {}, "two": {}}, "substituting": None}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = ["roadmap", "--config", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")]
    assert main([*words, "--teacher", f"one={trained_checkpoint}", f"two={trained_checkpoint}"]) == 0
    found = json.loads((tmp_path / "out" / "roadmap.json").read_text())
    assert list(found["networks"]) == ["one", "two"]
    assert list(found["made_with"]["teacher_checkpoint"]) == ["one", "two"]
    measured = [network["rows"]["INT8 PTQ"]["0"]["abs_rel"] for network in found["networks"].values()]
    assert measured[0] == measured[1] == rows(finished[0])["INT8 PTQ"]["0"]["abs_rel"]
    assert main([*words, "--teacher", "three=x.ckpt"]) == 2
    assert "--teacher three=x.ckpt: expected NAME=CKPT with one of one, two" in capsys.readouterr().err


def test_what_the_target_itself_substitutes_is_in_both_columns(monkeypatch):
    made = []

    def after_vendor(self, prepared, substitutions, decode_table):
        made.append(dict(substitutions))
        return {"abs_rel": 0.1, "drift_mm": 1.0}

    measuring = object.__new__(measurements.Measurements)
    gated = dataclasses.replace(load_target("hard-sigmoid"), substitutions={"Sigmoid": "hard_sigmoid", "Swish": "no"})
    other = dataclasses.replace(gated, substitutions={"Elu": "relu", "Swish": "unconfirmed"})
    measuring.target, measuring.substituting = gated, measurements._both(gated, other)
    monkeypatch.setattr(measurements.Measurements, "_after_vendor", after_vendor)
    row = measuring._vendor_row(SimpleNamespace(graph=trace(SmallNet().eval())), 0.0)
    assert made == [gated.substitutions, {"Sigmoid": "hard_sigmoid", "Swish": "no", "Elu": "relu"}]
    assert row["abs_rel"] == row["substituted_abs_rel"] == 0.1


@pytest.fixture
def fitted_codes(monkeypatch):
    """The codes that ``_behind_table`` fits a table to, for a network that returns its image and has this codec."""

    def of(codec, device, codec_behind=None):
        fitted = []
        monkeypatch.setattr(
            measurements, "fit_table", lambda codec, *codes: fitted.append(codes) or SimpleNamespace(helps=False)
        )
        interface = Interface.of_codes(InputLayout(4, 4, (0.0,) * 3, (1.0,) * 3), codec_behind or codec)
        images = list(torch.rand(2, 1, 1, 4, 4))
        prepared = SimpleNamespace(
            interface=interface,
            context=SimpleNamespace(interface=interface, images=images),
            batches=images,
            reference=lambda image: image,
            graph=lambda image: image / 2,  # behind passes that lost something
        )
        measuring = object.__new__(measurements.Measurements)
        measuring.evaluator = SimpleNamespace(codec=DepthCodec(codec))
        assert measuring._behind_table(prepared, device) is interface.codec
        return torch.cat(images).numpy(), *fitted[0]

    return of


def test_a_decode_table_is_fitted_to_the_trained_network(fitted_codes):
    images, device, expected = fitted_codes(HostSingle(DepthRange(0.5, 15.0), "log"), lambda image: 0.9 * image)
    assert (device == 0.9 * images).all()
    assert (expected == images).all()


def test_behind_a_head_of_another_kind_it_is_fitted_to_the_codes_of_that_head(fitted_codes):
    single, pair = HostSingle(DepthRange(0.5, 15.0), "log"), HostPair(DepthRange(0.5, 15.0), "log")
    images, _, expected = fitted_codes(single, lambda image: image.repeat(1, 2, 1, 1), pair)
    assert expected.shape == (2, 2, 4, 4)
    np.testing.assert_allclose(pair.decode(expected), single.decode(images), rtol=1e-5)


def test_a_teacher_of_other_options_is_not_taken(tmp_path, monkeypatch):
    def interrupted(self, name, options):
        raise RuntimeError("interrupted")

    monkeypatch.setattr(roadmap.Roadmap, "_train_teacher", interrupted)
    plan = roadmap.Plan("a.yaml", "b.yaml", [], teachers={"one": {"seed_everything": 1}})
    with pytest.raises(RuntimeError, match="interrupted"):
        roadmap.Roadmap(plan, tmp_path, [], Console(quiet=True)).run()
    plan.teachers["one"] = {"seed_everything": 2}
    with pytest.raises(ConfigError, match="teacher one was made with seed_everything 1, but now seed_everything is 2"):
        roadmap.Roadmap(plan, tmp_path, [], Console(quiet=True)).run()


def test_seeds_train_students_of_their_own(finished):
    found = rows(finished[0])["+ distillation"]
    assert found["0"]["abs_rel"] != found["1"]["abs_rel"]


def test_a_row_that_cannot_run_has_the_reason(finished):
    reason = rows(finished[0])["+ features"]["0"]["why_not"]
    assert "'encoder.blokcs'" in reason
    assert "encoder.blocks" in reason
    assert "cannot run" in (finished[0] / "roadmap.md").read_text()


def test_what_is_there_is_not_done_again(finished, monkeypatch):
    folder, words = finished
    before = rows(folder)
    monkeypatch.setattr(measurements, "vendor_network", None)  # would be called if anything were measured again
    plan = load_plan(folder.parent / "plan.yaml")
    (folder.parent / "fewer.yaml").write_text(
        yaml.safe_dump(
            {
                "teacher_config": "unused",
                "distill_config": plan.distill_config,
                "rows": ROWS[:6],
                "calibration_images": 4,
                "substituting": "hard-sigmoid",
                "planned_float": 0.03,
            }
        )
    )
    from depth_distill.cli import main

    assert main(["roadmap", "--config", str(folder.parent / "fewer.yaml"), *words[2:]]) == 0
    after = rows(folder)
    assert after == {name: before[name] for name in after}


def test_results_of_other_settings_are_not_mixed_in(finished, capsys):
    folder, words = finished
    from depth_distill.cli import main

    plan = yaml.safe_load((folder.parent / "plan.yaml").read_text())
    (folder.parent / "other.yaml").write_text(yaml.safe_dump(plan | {"calibration_images": 6}))
    assert main(["roadmap", "--config", str(folder.parent / "other.yaml"), *words[2:]]) == 2
    assert "calibration_images 4, but now calibration_images is 6" in capsys.readouterr().err.replace("\n", " ")
    changed = [row | {"recipe": "equalize"} if row["name"] == "INT8 PTQ" else row for row in ROWS]
    (folder.parent / "other.yaml").write_text(yaml.safe_dump(plan | {"rows": changed}))
    assert main(["roadmap", "--config", str(folder.parent / "other.yaml"), *words[2:]]) == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert re.search(r"INT8 PTQ was made with recipe 'naive, \w{8}', but now recipe is 'equalize, \w{8}'", error)
