"""RunSummary: what it counts is what was trained, over interruptions too, and the record says so."""

import json
import math
import time

import pytest
import torch

from depth_distill.callbacks import RunSummary, best_and_last
from tests.callbacks.small_run import FailAt, datamodule, task, trainer


def summary_file(folder):
    # Strict JSON: parse_constant would be called on NaN.
    return json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)


def test_the_record_of_a_run(tmp_path):
    summary, data = RunSummary(epoch_lines=False), datamodule(seed=7)
    run = trainer(tmp_path, summary, epochs=2)
    run.fit(task(), data)
    record = summary_file(tmp_path)
    assert (record["epochs"], record["steps"], record["seed"]) == (2, 8, 7)
    assert record["protocol"] == "per-image mean, depth 0.5-15 m"
    assert record["best_checkpoint"] is None  # nothing keeps checkpoints here
    assert record["metrics"]["val/abs_rel"] == pytest.approx(run.callback_metrics["val/abs_rel"].item(), abs=1e-6)
    assert record["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert 0 < summary.train_s < record["wall_s"] + 0.1  # wall time is rounded to 0.1 s
    assert summary.images_per_s * summary.train_s == pytest.approx(2 * 16)
    assert record["train_images_per_s"] == pytest.approx(summary.images_per_s, abs=0.01)


def test_it_is_written_after_every_epoch_and_names_the_best_checkpoint(tmp_path):
    records = []

    class Recorder(RunSummary):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            records.append(summary_file(tmp_path))

    checkpoints = best_and_last(tmp_path / "checkpoints", monitor="val/abs_rel")
    trainer(tmp_path, Recorder(epoch_lines=False), *checkpoints, epochs=2, enable_checkpointing=True).fit(
        task(), datamodule()
    )
    assert [record["epochs"] for record in records] == [1, 2]
    assert [record["steps"] for record in records] == [4, 8]
    assert records[0]["best_checkpoint"] is None  # checkpoints are kept after this callback
    assert records[1]["best_checkpoint"].endswith("epoch=0-step=4.ckpt")


@pytest.mark.parametrize("step", [4, 6], ids=["after an epoch", "in mid-epoch"])
def test_times_and_counts_go_on_after_a_resume(tmp_path, step):
    checkpoints = best_and_last(tmp_path)
    first = RunSummary(epoch_lines=False)
    with pytest.raises(ValueError, match="no such file"):
        trainer(tmp_path, first, FailAt(step), *checkpoints, epochs=3, enable_checkpointing=True).fit(
            task(), datamodule()
        )
    second = RunSummary(epoch_lines=False)
    run = trainer(tmp_path, second, epochs=3)
    started = time.monotonic()
    run.fit(task(), datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert first.train_s < second.train_s < first.train_s + time.monotonic() - started
    assert second.images_per_s * second.train_s == pytest.approx(3 * 16)
    assert summary_file(tmp_path)["epochs"] == 3
    assert summary_file(tmp_path)["wall_s"] >= round(first.train_s, 1)


def test_the_final_record_has_the_metrics_it_is_given(tmp_path):
    summary = RunSummary(epoch_lines=False)
    run = trainer(tmp_path, summary)
    run.fit(task(), datamodule())
    summary.write(run, {"val/rmse": 0.12345678, "val/abs_rel": 0.5, "val/abs_rel_5-15m": math.nan})
    metrics = summary_file(tmp_path)["metrics"]
    assert metrics == {"val/abs_rel": 0.5, "val/abs_rel_5-15m": None, "val/rmse": 0.123457}
    assert list(metrics) == sorted(metrics)


@pytest.mark.parametrize(("epoch_lines", "lines"), [(True, 2), (False, 0), (None, 2)])  # None: no terminal here
def test_one_line_an_epoch(tmp_path, capsys, epoch_lines, lines):
    run = trainer(tmp_path, RunSummary(epoch_lines), epochs=2)
    run.fit(task(), datamodule())
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(printed) == lines
    if lines:
        assert printed[1].startswith("epoch 2/2  train/loss ")
        assert f"val/abs_rel {run.callback_metrics['val/abs_rel']:.4f}" in printed[1]


def test_a_trial_of_one_batch_leaves_no_record(tmp_path):
    trainer(tmp_path, RunSummary(), fast_dev_run=True).fit(task(), datamodule())
    assert not (tmp_path / "summary.json").exists()
