"""A distillation logged to Weights & Biases offline, read back from the file that would be uploaded."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from depth_distill.cli import main
from tests import distilled_run, trained_run
from tests.offline_wandb import read

KEY = "0123456789abcdef0123456789abcdef01234567"


def file_of(run):
    return sorted(run.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A teacher and a student, both logged, and the student resumed; no key, then a key and WANDB_MODE=offline."""
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder))
        teacher, student = folder / "runs" / "teacher", folder / "runs" / "student"
        (folder / "teacher.yaml").write_text(yaml.safe_dump(trained_run.CONFIG | {"wandb": True}))
        assert main(["fit", "--config", str(folder / "teacher.yaml"), "--run_dir", str(teacher)]) == 0
        values = distilled_run.config(teacher / "checkpoints" / "best.ckpt")
        values |= {"wandb": True, "panels": {"every_n_epochs": 1}, "layers": {"every_n_epochs": 1}}
        values["trainer"] |= {"max_epochs": 2, "log_every_n_steps": 1}
        (folder / "student.yaml").write_text(yaml.safe_dump(values))
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_PROJECT", "kitchen")
        patch.setenv("WANDB_ENTITY", "cooks")
        assert main(["fit", "--config", str(folder / "student.yaml"), "--run_dir", str(student)]) == 0
        first = [*file_of(student)]
        last = student / "checkpoints" / "last.ckpt"
        words = ["fit", "--config", str(student / "config.yaml"), "--ckpt_path", str(last)]
        assert main([*words, "--trainer.max_epochs", "3"]) == 0
        (second,) = set(file_of(student)) - set(first)
    return teacher, student, first[0], second


def test_the_file_has_config_curves_ranges_and_pictures(tracked):
    _, student, file, _ = tracked
    found = read(file)
    assert found.config["seed_everything"] == 0
    assert found.config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e-3
    assert found.config["trainer"]["callbacks"][0]["init_args"]["recipe"] == "naive"
    keys = {key.removesuffix("._type") for key in found.keys}
    assert {"train/loss", "train/output/log_l1", "train/feature", "train/hint"} <= keys
    assert {"train/lr", "train/grad_norm", "val/abs_rel", "vendor/abs_rel", "val/panel"} <= keys
    assert {"layers/saturated", "layers/saturated_max", "layers/saturated_mean", "trainer/global_step"} <= keys
    histograms = [key for key in keys if key.startswith("layers/") and f"{key}.bins" in found.keys]
    assert len(histograms) > 50
    rows = (student / "layers.csv").read_text().splitlines()
    layers = {row.split(",")[1] for row in rows[1:]}
    assert {f"layers/{name}" for name in layers} <= set(histograms)
    assert {row.split(",")[0] for row in rows[1:]} == {"0", "1", "2"}
    pictures = [row for row in found.history if "val/panel.filenames" in row]
    assert len(pictures) == 2  # one an epoch


def test_the_project_of_the_environment_is_taken(tracked):
    teacher, _, file, _ = tracked
    run = read(file).run
    assert (run.project, run.entity, run.job_type) == ("kitchen", "cooks", "fit")
    assert run.display_name == "runs/student"
    (without,) = file_of(teacher)
    assert read(without).run.project == "depth-distill"


def test_the_summary_has_the_best_value_and_not_the_last(tracked):
    _, student, _, file = tracked
    found = read(file)
    best = json.loads((student / "summary.json").read_text())
    assert found.summary["vendor/abs_rel"] == pytest.approx(best["metrics"]["vendor/abs_rel"], abs=1e-6)
    assert found.summary["best_checkpoint"] == Path(best["best_checkpoint"]).name
    (metric,) = [each for each in found.metrics if each.name == "vendor/abs_rel"]
    assert metric.summary.min
    assert not metric.summary.max


def test_a_run_that_goes_on_is_the_same_run(tracked):
    _, student, first, second = tracked
    assert read(first).run.run_id == read(second).run.run_id
    assert json.loads((student / "tracking.json").read_text())["wandb"] == read(first).run.run_id


def test_the_checkpoint_is_an_artifact_and_the_teacher_is_what_it_was_made_from(tracked):
    teacher, _, file, _ = tracked
    found, of_teacher = read(file), read(file_of(teacher)[0])
    (made,) = found.artifacts
    assert (made.name, made.type, sorted(made.aliases)) == (f"model-{found.run.run_id}", "model", ["best", "latest"])
    (used,) = found.used
    (original,) = of_teacher.artifacts
    assert used.name == original.name == f"model-{of_teacher.run.run_id}"
    assert used.digest == original.digest  # so that they are one artifact where both are uploaded


def test_the_config_names_the_file_of_the_teacher_and_not_the_link_that_led_there(tracked):
    teacher, student, _, _ = tracked
    named = Path(yaml.safe_load((student / "config.yaml").read_text())["model"]["init_args"]["teacher_checkpoint"])
    assert named == (teacher / "checkpoints" / "best.ckpt").resolve()
    assert named.name != "best.ckpt"


def test_no_key_is_written_anywhere(tracked):
    _, student, _, _ = tracked
    for path in student.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_a_copy_of_a_run_is_another_run(tracked, tmp_path):
    from depth_distill.tracking.identity import Identity

    _, student, _, _ = tracked
    copy = shutil.copytree(student, tmp_path / "copy")
    assert Identity(student).get("wandb")
    assert Identity(copy).get("wandb") is None
    shutil.rmtree(copy / "wandb")
    moved = Path(shutil.move(copy, tmp_path / "moved"))
    record = json.loads((moved / "tracking.json").read_text())
    (moved / "tracking.json").write_text(json.dumps(record | {"folder": str(copy)}))  # as if it had been made there
    assert Identity(moved).get("wandb") == record["wandb"]
