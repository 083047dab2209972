"""What a run leaves with its trackers: its config, the best value and checkpoint, and what it was made from."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from depth_distill.hashes import sha256
from depth_distill.tracking.identity import Identity

_STEP = "trainer/global_step"  # the axis that Lightning's logger defines
_MODEL_FILE = "model.ckpt"  # as in the artifacts of Lightning's logger


def log_config(loggers: Iterable[Logger], config: Mapping[str, Any], run_folder: Path) -> None:
    """Log the resolved config, and write down under which id the run is known.

    Args:
        loggers: of the run.
        config: nested plain values.
        run_folder: folder of the run.
    """
    identity = Identity(run_folder)
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            continue  # config.yaml is beside its log
        logger.log_hyperparams(dict(config))
        if isinstance(logger, WandbLogger) and isinstance(logger.experiment.id, str):
            identity.keep("wandb", logger.experiment.id)
        elif isinstance(logger, MLFlowLogger) and logger.run_id:
            identity.keep("mlflow", logger.run_id)


def prefer_best(loggers: Iterable[Logger], metric: str, mode: str) -> None:
    """Let the summary of a metric be its best value, ``min`` or ``max``, and not the last."""
    best: Literal["min", "max"] = "max" if mode == "max" else "min"
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.define_metric(metric, summary=best, step_metric=_STEP)


def log_best(loggers: Iterable[Logger], checkpoint: Path, metrics: Mapping[str, float], monitor: str | None) -> None:
    """Log what the best checkpoint scores, and the checkpoint itself.

    In Weights & Biases its metrics become the summary of the run, under their own names, and the file an artifact
    ``model-<run id>`` with the alias ``best``. MLflow and TensorBoard get the metrics as ``best/<metric>``.

    Args:
        loggers: of the run.
        checkpoint: the best one.
        metrics: of its evaluation.
        monitor: the metric that it is the best by.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            values = {name: float(value) for name, value in metrics.items()}
            logger.experiment.summary.update(values | {"best_checkpoint": checkpoint.name})
            score = metrics.get(monitor or "")
            artifact = _checkpoint_artifact(
                f"model-{logger.experiment.id}",
                checkpoint,
                {"monitor": monitor, "score": None if score is None else float(score), "file": checkpoint.name},
            )
            logger.experiment.log_artifact(artifact, aliases=["best", "latest"])
        elif isinstance(logger, MLFlowLogger | TensorBoardLogger):
            logger.log_metrics({f"best/{name}": float(value) for name, value in metrics.items()})


def log_teacher(loggers: Iterable[Logger], checkpoint: Path) -> None:
    """Say in Weights & Biases that a run learns from a checkpoint.

    The artifact is called as the teacher's own run calls it, where that was logged, and has the same content, so that
    the two runs are linked there once both are uploaded.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and checkpoint.is_file():
            use_checkpoint(logger.experiment, checkpoint)


def use_checkpoint(run: Any, checkpoint: Path) -> None:
    """Say that a run of Weights & Biases is made from a checkpoint."""
    path = checkpoint.resolve()
    known = Identity(path.parent.parent).get("wandb")
    name = f"model-{known}" if known else f"checkpoint-{sha256(path)[:12]}"
    artifact = _checkpoint_artifact(name, path, {"file": path.name})
    run.config.update({"made_from": name}, allow_val_change=True)
    if not run.offline:
        run.use_artifact(artifact)
    elif hasattr(run, "_log_artifact"):
        # What use_artifact does with a new artifact; by its own name it refuses to, offline, although the upload can.
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _checkpoint_artifact(name: str, path: Path, metadata: Mapping[str, Any]) -> Any:
    import wandb

    artifact = wandb.Artifact(name, type="model", metadata=dict(metadata))
    # Not copied: checkpoints are never changed in place. Offline, the file has to be there when the run is uploaded.
    artifact.add_file(str(path), name=_MODEL_FILE, policy="immutable", skip_cache=True)
    return artifact


def _current_run() -> Any:
    """The run of Weights & Biases in this process, without importing it for that."""
    return getattr(sys.modules.get("wandb"), "run", None)


@contextmanager
def finishing_trackers() -> Iterator[None]:
    """End the run of Weights & Biases with the block, as failed where that raises, and not with the interpreter."""
    before, code = _current_run(), 1
    try:
        yield
        code = 0
    finally:
        if before is None and _current_run() is not None:  # a run that was there is the caller's
            sys.modules["wandb"].finish(exit_code=code)
