"""The checkpoints of a run: the best, the last, how they are written, and a run folder that was copied."""

from datetime import timedelta
from pathlib import Path, PurePath
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from typing_extensions import override

from depth_distill.atomic import atomic_path, remove_partial_files
from depth_distill.errors import ConfigError
from depth_distill.models.checkpoints import read_checkpoint
from depth_distill.runs import LAST_CHECKPOINT

_VERSION = "pytorch-lightning_version"  # is in every checkpoint of Lightning's


def best_and_last(
    dirpath: Path | None = None,
    save_last: bool = True,
    save_on_exception: bool = True,
    every_n_train_steps: int | None = None,
    train_time_interval: timedelta | None = None,
    **best: Any,
) -> list[ModelCheckpoint]:
    """Callbacks that keep the best checkpoints by a metric, and ``last.ckpt``; those of the best come first.

    A single ``ModelCheckpoint`` writes ``last.ckpt`` beside a new best one only, so that a run that is killed would go
    on from there, and on exceptions a file named like the best ones, after a metric that is not of these weights.

    Args:
        dirpath: folder of the checkpoints; ``checkpoints/`` of the run folder if not given.
        save_last: whether to write ``last.ckpt``, after every validation.
        save_on_exception: whether to write ``last.ckpt`` also when the run is interrupted or fails.
        every_n_train_steps: save both this often within an epoch, too.
        train_time_interval: save both this often within an epoch, too.
        best: the other arguments of ``ModelCheckpoint``, for the best.

    Raises:
        ConfigError: the name of the best is not below that folder.
    """
    name = PurePath(best.get("filename") or "")
    if name.is_absolute() or ".." in name.parts:
        raise ConfigError(f"checkpoint.filename: received {name}, expected a name below the folder of checkpoints")
    often: dict[str, Any] = {"every_n_train_steps": every_n_train_steps, "train_time_interval": train_time_interval}
    checkpoints = [ModelCheckpoint(dirpath, **often, **best)]
    if save_last:
        common: dict[str, Any] = {
            "filename": LAST_CHECKPOINT.removesuffix(ModelCheckpoint.FILE_EXTENSION),
            "enable_version_counter": False,
            # Without a monitored metric it means nothing, but it is part of the key that the state of the callback is
            # saved under, and that has to differ from the key of a best checkpoint without a metric.
            "mode": "max",
        }
        checkpoints.append(ModelCheckpoint(dirpath, save_on_exception=save_on_exception, **common))
        if every_n_train_steps or train_time_interval:
            checkpoints.append(ModelCheckpoint(dirpath, **often, **common))
    return checkpoints


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it, and read one without running code of it.

    See :func:`~depth_distill.atomic.atomic_path` and :func:`~depth_distill.models.checkpoints.read_checkpoint`.

    Lightning writes to ``$TMPDIR``, and copies where that is on another file system: a process that is killed
    meanwhile leaves an empty file in place of the checkpoint before.

    Raises:
        ConfigError: the file cannot be written, such as on a full disk; or it cannot be read, or is no checkpoint.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # Where the disk is full torch raises an error of its own while it handles that of the file.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise ConfigError(
                f"{path}: cannot be written ({cause.strerror}); make room there, and go on from the last checkpoint, "
                "which is left as it was"
            ) from error

    @override
    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        content = read_checkpoint(Path(path))
        if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict) or _VERSION not in content:
            raise ConfigError(f"{path} is no checkpoint of a run: expected one that fit wrote, such as last.ckpt")
        return content


class ResumeInPlace(Callback):
    """Let a run that resumes know its checkpoints where they are now.

    A checkpoint names the best one so far by its path at that time. In a copied or moved run folder these are those of
    the old place: a resumed run would forget which is the best here, and evaluate a file there. What a killed process
    left of a checkpoint is removed, and so is a best one that was written after the ``last.ckpt`` that the run resumes
    from: the process was killed between the two, and the run will write it again.
    """

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.ckpt_path is None:
            return
        here = Path(trainer.ckpt_path).resolve().parent
        every = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint) and each.dirpath]
        own = [each for each in every if Path(each.dirpath or "").resolve() == here]
        if own and trainer.is_global_zero:
            remove_partial_files(here)
            if Path(trainer.ckpt_path).name == LAST_CHECKPOINT:
                _remove_later_than(checkpoint["global_step"], here)
        for each in own:
            state = checkpoint["callbacks"].get(each.state_key)
            if state is not None:
                checkpoint["callbacks"][each.state_key] = _moved(state, Path(each.dirpath or ""))


def _remove_later_than(step: int, folder: Path) -> None:
    for path in folder.glob(f"*{ModelCheckpoint.FILE_EXTENSION}"):
        try:
            content = read_checkpoint(path, mmap=True)
        except ConfigError:  # not one of this run
            continue
        if isinstance(content, dict) and content.get("global_step", 0) > step:
            path.unlink()


def _moved(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state of a ``ModelCheckpoint`` with the paths of ``folder``; files that are not there are left out."""

    def moved(path: str) -> str:
        here = folder / Path(path).name
        return str(here) if path and here.is_file() else ""

    scores = {moved(path): score for path, score in state["best_k_models"].items() if moved(path)}
    paths = {key: moved(state[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
    return state | paths | {"best_k_models": scores, "dirpath": str(folder)}
