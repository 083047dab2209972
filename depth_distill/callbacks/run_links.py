"""Names that do not change: ``latest`` beside the run folders of a config, ``best.ckpt`` beside its checkpoints."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_info
from typing_extensions import override

from depth_distill import runs


class RunLinks(Checkpoint):
    """Keep ``<runs_dir>/<config>/latest`` and ``checkpoints/best.ckpt`` of a training run.

    ``latest`` leads to the run that was started last and took a first step; evaluations never are it. A run in a
    folder of the user's choice (``--run_dir``) gets none, unless there is one beside it. ``best.ckpt`` leads to the
    best checkpoint so far by the monitored metric. Both are relative, so that a folder can be moved.

    It is a :class:`~pytorch_lightning.callbacks.Checkpoint` because Lightning calls those last: the checkpoints of this
    step are written then.

    Args:
        names_latest: whether to make ``latest``, also where there is none.
    """

    def __init__(self, names_latest: bool = True) -> None:
        self.names_latest = names_latest
        self._is_latest = False
        self._refused = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_latest = False
        link = self._best_link(trainer)
        if trainer.is_global_zero and link is not None and link.is_symlink() and not link.exists():
            link.unlink()
        self._link_best(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = Path(trainer.default_root_dir)
        latest = run.parent / runs.LATEST
        named = (self.names_latest or latest.is_symlink()) and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.is_global_zero and not self._is_latest and named:
            self._link(latest, run)
        self._is_latest = True
        self._link_best(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._link_best(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._link_best(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._link_best(trainer)

    def _link_best(self, trainer: Trainer) -> None:
        link = self._best_link(trainer)
        best = Path(getattr(trainer.checkpoint_callback, "best_model_path", "") or "")
        if not trainer.is_global_zero or link is None or not best.is_file():
            return
        if not best.is_relative_to(link.parent):
            return  # a copied run, whose best checkpoint is that of the original until there is a better one
        if not (link.is_file() and link.samefile(best)):
            self._link(link, best)

    def _best_link(self, trainer: Trainer) -> Path | None:
        """Where the link is; None where nothing is kept, or where the user calls the best checkpoint so."""
        keeper: Any = trainer.checkpoint_callback
        if trainer.state.fn != "fit":  # a checkpoint that is evaluated brings along which one was the best
            return None
        if getattr(keeper, "dirpath", None) is None or f"{keeper.filename}.ckpt" == runs.BEST_CHECKPOINT:
            return None  # this one is the only one that Lightning finds, where nothing is kept
        return Path(keeper.dirpath) / runs.BEST_CHECKPOINT

    def _link(self, path: Path, to: Path) -> None:
        if not runs.link(path, to) and not self._refused:
            self._refused = True  # once is enough
            rank_zero_info(f"{path} cannot be made: the file system has no links; give {to} in its place")
