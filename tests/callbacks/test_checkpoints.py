"""Checkpoints: the best and the last, nothing that passes for the best, nothing lost where writing fails."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from depth_distill.callbacks import AtomicCheckpointIO, ResumeInPlace, best_and_last
from depth_distill.errors import ConfigError
from tests.callbacks.small_run import FailAt, datamodule, task, trainer


def checkpoints(folder, **kwargs):
    return best_and_last(
        folder,
        filename="epoch{epoch:03d}-abs_rel{val/abs_rel:.4f}",
        **{"monitor": "val/abs_rel"} | kwargs,
        auto_insert_metric_name=False,
    )


@pytest.mark.parametrize(("step", "best"), [(2, []), (6, ["epoch000-abs_rel"])])
def test_a_run_that_is_cut_short_leaves_what_validation_chose_and_the_last(tmp_path, step, best):
    run = trainer(tmp_path, FailAt(step), *checkpoints(tmp_path), epochs=3, enable_checkpointing=True)
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
    keeper, last = checkpoints(tmp_path)
    run = trainer(tmp_path, keeper, last, epochs=3, enable_checkpointing=True)
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
    keeper, last = checkpoints(tmp_path, monitor="worse")
    trainer(tmp_path, Worse(), keeper, last, epochs=3, enable_checkpointing=True).fit(task(), datamodule())
    steps = {path: torch.load(path, weights_only=True)["global_step"] for path in tmp_path.glob("*.ckpt")}
    assert steps == {tmp_path / "last.ckpt": 12, Path(keeper.best_model_path): 4}


@pytest.mark.parametrize("step", [2, 5])
def test_the_last_can_be_written_more_often_than_once_per_epoch(tmp_path, step):
    keepers = checkpoints(tmp_path, every_n_train_steps=1)
    run = trainer(tmp_path, KillSaving(step), *keepers, epochs=3, enable_checkpointing=True)
    with pytest.raises(ValueError, match="no such file"):
        run.fit(task(), datamodule())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step - 1


class KillSaving(FailAt):
    """Raise before the checkpoints of that step, and let none be written on exceptions, as SIGKILL would."""

    def on_exception(self, trainer, pl_module, exception):
        for each in trainer.checkpoint_callbacks:
            each.save_on_exception = False


def test_all_are_kept_and_the_last_without_a_metric(tmp_path):
    keepers = best_and_last(tmp_path, save_top_k=-1)
    trainer(tmp_path, *keepers, epochs=2, enable_checkpointing=True).fit(task(), datamodule())
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [
        "epoch=0-step=4.ckpt",
        "epoch=1-step=8.ckpt",
        "last.ckpt",
    ]


def test_without_save_last_there_is_none(tmp_path):
    assert len(best_and_last(tmp_path, save_last=False)) == 1


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "copied"])
def test_a_copied_run_knows_its_best_checkpoint_here(tmp_path, moved):
    old, new = tmp_path / "old" / "checkpoints", tmp_path / "new" / "checkpoints"
    keeper, last = checkpoints(old, monitor="worse")
    trainer(old, Worse(), keeper, last, epochs=2, enable_checkpointing=True).fit(task(), datamodule())
    best = Path(keeper.best_model_path)
    (shutil.move if moved else shutil.copytree)(old, new)
    (new / ".last.123-partial.ckpt").touch()

    keeper, last = checkpoints(new, monitor="worse")
    again = trainer(new, Worse(), ResumeInPlace(), keeper, last, epochs=3, enable_checkpointing=True)
    again.fit(task(), datamodule(), ckpt_path=new / "last.ckpt", weights_only=True)
    assert keeper.best_model_path == str(new / best.name)
    assert keeper.best_model_score == 0  # of the first epoch; otherwise the third would pass for the best
    assert sorted(path.name for path in new.iterdir()) == [best.name, "last.ckpt"]
    assert torch.load(new / "last.ckpt", weights_only=True)["global_step"] == 12


def test_a_best_checkpoint_that_was_deleted_is_forgotten(tmp_path):
    keeper, last = checkpoints(tmp_path, monitor="worse")
    trainer(tmp_path, Worse(), keeper, last, epochs=1, enable_checkpointing=True).fit(task(), datamodule())
    Path(keeper.best_model_path).unlink()
    keeper, last = checkpoints(tmp_path, monitor="worse")
    again = trainer(tmp_path, Worse(), ResumeInPlace(), keeper, last, epochs=2, enable_checkpointing=True)
    again.fit(task(), datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert Path(keeper.best_model_path).is_file()


@pytest.fixture
def other_file_system(tmp_path):
    """A folder on another file system than that of $TMPDIR."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system in /dev/shm")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


# Saves a checkpoint, then dies where the next one is on its way to the place of the first: before it is renamed, or
# where Lightning would copy it from $TMPDIR, by shutil.move.
KILLED = """
import os, shutil, signal, sys
import torch
from depth_distill.callbacks import AtomicCheckpointIO

io, path = AtomicCheckpointIO(), sys.argv[1]
io.save_checkpoint({"step": torch.tensor(1)}, path)

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

os.fsync = shutil.copyfileobj = shutil._fastcopy_sendfile = die
io.save_checkpoint({"step": torch.tensor(2)}, path)
"""


def test_killed_while_it_writes_the_checkpoint_before_is_there(tmp_path, other_file_system):
    path = other_file_system / "last.ckpt"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(path, weights_only=True)["step"] == 1
    assert not any(each.is_file() for each in tmp_path.rglob("*"))  # nothing goes through $TMPDIR


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 300 kB."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_the_checkpoint_before_is_kept_and_the_message_is_one_line(full_disk):
    io, path = AtomicCheckpointIO(), full_disk / "last.ckpt"
    io.save_checkpoint({"weight": torch.zeros(50_000)}, path)
    with pytest.raises(ConfigError, match=r"last\.ckpt: cannot be written \(No space left on device\)"):
        io.save_checkpoint({"weight": torch.ones(50_000)}, path)
    assert torch.load(path, weights_only=True)["weight"].sum() == 0
    assert list(full_disk.iterdir()) == [path]


def test_checkpoints_of_a_run_go_through_it(tmp_path, other_file_system):
    keeper, last = checkpoints(other_file_system)
    run = trainer(tmp_path, keeper, last, enable_checkpointing=True, plugins=[AtomicCheckpointIO()])
    run.fit(task(), datamodule())
    again = trainer(tmp_path, epochs=2, plugins=[AtomicCheckpointIO()])
    again.fit(task(), datamodule(), ckpt_path=other_file_system / "last.ckpt", weights_only=True)
    assert again.global_step == 8


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {"state_dict": {}}, {"state_dict": [], "pytorch-lightning_version": "2"}]
)
def test_what_fit_did_not_write_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match=r"x\.ckpt is no checkpoint of a run"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("name", ["../../x", "/x/{epoch}"])
def test_the_best_lie_in_the_folder_of_checkpoints(tmp_path, name):
    with pytest.raises(ConfigError, match=r"checkpoint\.filename: .* expected a name below the folder of checkpoints"):
        best_and_last(tmp_path, filename=name)


def test_a_best_checkpoint_that_is_later_than_the_last_is_written_again(tmp_path):
    keeper, last = checkpoints(tmp_path, monitor="worse", mode="max")  # each epoch is better than the one before
    trainer(tmp_path, Worse(), keeper, last, epochs=1, enable_checkpointing=True).fit(task(), datamodule())
    before = shutil.copy(tmp_path / "last.ckpt", tmp_path / "before")
    keepers = checkpoints(tmp_path, monitor="worse", mode="max")
    again = trainer(tmp_path, Worse(), ResumeInPlace(), *keepers, epochs=2, enable_checkpointing=True)
    again.fit(task(), datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    orphan = Path(keepers[0].best_model_path)
    shutil.move(before, tmp_path / "last.ckpt")  # as if it had been killed between the two writes
    assert orphan.is_file()

    keepers = checkpoints(tmp_path, monitor="worse", mode="max")
    again = trainer(tmp_path, Worse(), ResumeInPlace(), *keepers, epochs=3, enable_checkpointing=True)
    again.fit(task(), datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    best = Path(keepers[0].best_model_path)
    assert best.name.startswith("epoch002")
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [best.name, "last.ckpt"]
