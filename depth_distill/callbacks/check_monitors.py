"""The metrics that callbacks watch are compared before training with those that will be logged."""

import difflib
import re

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from typing_extensions import override

from depth_distill.callbacks.fake_quant import FakeQuant
from depth_distill.errors import ConfigError
from depth_distill.suggestions import did_you_mean
from depth_distill.tasks import MetricDepthTask

_IN_BRACES = re.compile(r"\{([^{}:]+)[^{}]*\}")
_OF_A_BAND = re.compile(r"_[\d.]+-[\d.]+m$")


def monitors(trainer: Trainer) -> list[tuple[str, str]]:
    """Each callback that watches a metric, by the name of its class, and that metric."""
    return [
        (type(each).__name__, each.monitor)
        for each in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(each, ModelCheckpoint | EarlyStopping) and each.monitor is not None
    ]


class CheckMonitors(Callback):
    """Find a misspelt ``checkpoint.monitor``, or that of ``EarlyStopping``, before training instead of after an epoch.

    Known are the metrics of the task, those of :class:`~depth_distill.callbacks.FakeQuant`, and what other callbacks
    list in an attribute ``logged_metrics``.

    Raises:
        ConfigError: nothing logs such a metric; the message has the nearest one, and all but those of depth bands. Or
            the run has no validation that would log it, or the name of checkpoints has another metric in braces.
    """

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, MetricDepthTask):
            return
        known = list(pl_module.logged_metrics())
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            known += getattr(callback, "logged_metrics", ())
            if isinstance(callback, FakeQuant):
                known += (f"vendor/{name}" for name in pl_module.val_metrics.names)
        why = _why_not_validated(trainer)
        for watcher, name in monitors(trainer):
            if why is not None and name.startswith(("val/", "vendor/")):
                raise ConfigError(
                    f"{watcher} monitors {name!r}, but this run never validates, because {why}: change that, or let it "
                    "monitor train/loss"
                )
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                shown = ", ".join(each for each in known if not _OF_A_BAND.search(each))
                raise ConfigError(
                    f"{watcher} monitors {name!r}, which nothing logs; did you mean {nearest!r}? There are {shown}, "
                    "and those of validation also by depth band"
                )
        for keeper in trainer.checkpoint_callbacks:
            for name in _IN_BRACES.findall(getattr(keeper, "filename", None) or ""):
                if name not in (*known, "epoch", "step"):
                    choices = did_you_mean(name, ["epoch", "step", *known])
                    raise ConfigError(f"checkpoint.filename has {{{name}}}, which nothing logs; {choices}")


def _why_not_validated(trainer: Trainer) -> str | None:
    """The option that keeps ``fit`` from validating even once; None if it does."""
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if trainer.limit_val_batches == 0:
        return "trainer.limit_val_batches is 0"
    if every is not None and epochs is not None and every > epochs > 0:
        return f"trainer.check_val_every_n_epoch is {every} and trainer.max_epochs {epochs}"
    return None
