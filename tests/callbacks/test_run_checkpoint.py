"""RunCheckpoint: the best, the last, and nothing that passes for the best when a run is cut short."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from depth_distill.callbacks import RunCheckpoint
from tests.callbacks.small_run import FailAt, datamodule, task, trainer


def checkpoints(folder, **kwargs):
    return RunCheckpoint(
        folder,
        filename="epoch{epoch:03d}-abs_rel{val/abs_rel:.4f}",
        **{"monitor": "val/abs_rel"} | kwargs,
        auto_insert_metric_name=False,
        save_last=True,
        save_on_exception=True,
    )


@pytest.mark.parametrize(("step", "best"), [(2, []), (6, ["epoch000-abs_rel"])])
def test_a_run_that_is_cut_short_leaves_what_validation_chose_and_the_last(tmp_path, step, best):
    run = trainer(tmp_path, FailAt(step), checkpoints(tmp_path), epochs=3, enable_checkpointing=True)
    with pytest.raises(ValueError, match="no such file"):
        run.fit(task(), datamodule())
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert [name[: len("epoch000-abs_rel")] for name in names[:-1]] == best
    assert names[-1] == "last.ckpt"
    assert not any("0.0000" in name for name in names)
    resumed = trainer(tmp_path, epochs=3)
    resumed.fit(task(), datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resumed.global_step == 12


def test_a_finished_run_keeps_the_best_and_the_last(tmp_path):
    keeper = checkpoints(tmp_path)
    run = trainer(tmp_path, keeper, epochs=3, enable_checkpointing=True)
    run.fit(task(), datamodule())
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [
        keeper.best_model_path.rsplit("/")[-1],
        "last.ckpt",
    ]
    assert f"abs_rel{keeper.best_model_score:.4f}.ckpt" in keeper.best_model_path


class Worse(Callback):
    """Every epoch is worse than the one before."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("worse", float(trainer.current_epoch))


def test_the_last_is_of_the_last_epoch_also_where_the_best_is_older(tmp_path):
    keeper = checkpoints(tmp_path, monitor="worse")
    trainer(tmp_path, Worse(), keeper, epochs=3, enable_checkpointing=True).fit(task(), datamodule())
    steps = {path: torch.load(path, weights_only=True)["global_step"] for path in tmp_path.glob("*.ckpt")}
    assert steps == {tmp_path / "last.ckpt": 12, Path(keeper.best_model_path): 4}
