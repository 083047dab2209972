"""What all tasks share: checks of the data, evaluation in metres, the optimizer. Each task adds what is minimized."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.core.mixins import HyperparametersMixin
from torch import Tensor
from torch.optim import AdamW
from typing_extensions import override

from depth_distill.device import full_precision
from depth_distill.errors import ConfigError, DataError, building, one_line
from depth_distill.metrics import BANDS_M, DepthMetrics
from depth_distill.models import CodeNetwork
from depth_distill.models.checkpoints import CODEC, codec_description, require_finite, require_same_codec
from depth_distill.models.foreign_checkpoint import difference
from depth_distill.tasks.finite import diverged, first_non_finite
from depth_distill.tasks.schedules import LRSchedulerFactory, built_scheduler
from depth_distill.types import DepthBatch

_STATE_OF_A_RUN = {"loops", "callbacks", "optimizer_states", "lr_schedulers"}


class MetricDepthTask(LightningModule):
    """Evaluate a :class:`~depth_distill.models.CodeNetwork` and optimize it; subclasses say what is learned.

    Validation, test and prediction run in float32 also where training uses mixed precision.

    Logs every metric of :class:`~depth_distill.metrics.DepthMetrics` as ``val/<metric>`` or ``test/<metric>``, and
    ``val/loss`` where the subclass has a loss for it.

    Args:
        network: image to codes; its codec defines the depth range of the metrics.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer and the total number of steps; stepped once per optimizer step.
        bands_m: depth bands for which the metrics are computed as well.
        decay_norm_and_bias: whether weight decay also applies to biases and normalization parameters.
        channels_last: whether weights and images are in channels-last memory, in which convolutions are faster.

    Raises:
        ConfigError: at set-up, where the network and the data disagree on depth range or image size.
        DataError: at set-up, where a split that needs ground truth has none.
        DivergedError: where a predicted depth is not finite.
    """

    def __init__(
        self,
        network: CodeNetwork,
        optimizer: OptimizerCallable = AdamW,
        lr_scheduler: LRSchedulerFactory | None = None,
        bands_m: Sequence[tuple[float, float]] = BANDS_M,
        decay_norm_and_bias: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        # From the command line the hyperparameters are the config: plain data, from which load_from_checkpoint rebuilds
        # the task. Elsewhere they would be the modules themselves, which a checkpoint must not hold.
        if _built_from_plain_data():
            self.save_hyperparameters(logger=False)
        self.network: CodeNetwork = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.decay_norm_and_bias = decay_norm_and_bias
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)
        self.val_metrics = DepthMetrics(network.depth_range, bands_m, network.alignment)
        self.test_metrics = DepthMetrics(network.depth_range, bands_m, network.alignment)
        self.stage: str | None = None

    @property
    def learns_from_ground_truth(self) -> bool:
        """Whether the training split has to have depth."""
        return True

    def logged_metrics(self) -> Iterable[str]:
        """Names of all that is logged during ``fit``, which callbacks can monitor."""
        if type(self).validation_loss is not MetricDepthTask.validation_loss:
            yield "val/loss"
        yield from (f"val/{name}" for name in self.val_metrics.names)

    def validation_loss(self, depth_m: Tensor, batch: DepthBatch) -> Tensor | None:
        """The value for ``val/loss``, from depth predicted in full precision; None where the task has none."""
        return None

    @override
    def setup(self, stage: str) -> None:
        """Check that the data fits the network, and that the splits of this stage have the ground truth it needs."""
        self.stage = stage
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            return
        self.network.check_image_size(*datamodule.image_size)
        self.network.check_normalization(datamodule.normalize.mean, datamodule.normalize.std)
        if datamodule.depth_range != self.network.depth_range:
            raise ConfigError(
                f"data.depth_range is {datamodule.depth_range} but the network's is {self.network.depth_range}; "
                "give the network ${data.depth_range.min_m} and ${data.depth_range.max_m}, as the shipped configs do"
            )
        for split in self._splits_with_ground_truth(stage):
            if not getattr(datamodule, split).has_depth:
                raise DataError(
                    f"data.{split} has no ground truth, without which there is nothing to "
                    f"{'learn from' if split == 'train' else 'measure'}: give it depth maps (for an RgbdFolder, a "
                    "column 'depth' in its .csv)"
                )

    @override
    def teardown(self, stage: str) -> None:
        self.stage = None

    @override
    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres of a normalized image ``(B, 3, H, W)``."""
        self.network.check_image_size(*image.shape[-2:])
        return self.network.codec.decode(self.codes(image))

    def codes(self, image: Tensor) -> Tensor:
        """Output of the network, ``(B, C, H, W)`` float32."""
        codes: Tensor = self.network(image.contiguous(memory_format=self.memory_format))
        return codes.float()

    @override
    def validation_step(self, batch: DepthBatch, batch_idx: int) -> Tensor:
        """Predicted depth in metres, for callbacks that draw it."""
        depth_m = self.in_full_precision(batch.image)
        loss = self.validation_loss(depth_m, batch)
        if loss is not None:
            self.log("val/loss", loss, batch_size=len(batch.image), sync_dist=True)
        self.val_metrics.update(depth_m, batch.depth_m, batch.valid, batch.sample_index)
        return depth_m

    @override
    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole split."""
        self._log_metrics("val", self.val_metrics)

    @override
    def test_step(self, batch: DepthBatch, batch_idx: int) -> Tensor:
        """Predicted depth in metres, for callbacks that draw it."""
        depth_m = self.in_full_precision(batch.image)
        self.test_metrics.update(depth_m, batch.depth_m, batch.valid, batch.sample_index)
        return depth_m

    @override
    def on_test_epoch_end(self) -> None:
        """Log the metrics of the whole split."""
        self._log_metrics("test", self.test_metrics)

    @override
    def predict_step(self, batch: DepthBatch, batch_idx: int) -> Tensor:
        """Predicted depth in metres."""
        return self.in_full_precision(batch.image)

    @override
    def configure_optimizers(self) -> Any:
        """The injected optimizer, and its scheduler if there is one."""
        with building("the optimizer"):
            optimizer = self.optimizer(self._parameter_groups())
        for group in optimizer.param_groups:
            if not 0 < float(group["lr"]) < math.inf:
                raise ConfigError(f"the optimizer's lr: received {group['lr']}, expected a positive number")
        if self.trainer.gradient_clip_val and hasattr(optimizer, "_step_supports_amp_scaling"):
            # A fused optimizer would unscale gradients itself, behind their clipping, so Lightning refuses the two
            # together, also under bf16-mixed, which scales nothing. Without this mark it unscales them before.
            optimizer._step_supports_amp_scaling = False
        if self.lr_scheduler is None:
            return optimizer
        scheduler = built_scheduler(self.lr_scheduler, optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the codes mean."""
        checkpoint[CODEC] = codec_description(self.network)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another codec, and to resume from one that holds weights alone."""
        require_same_codec(self._checkpoint_path, checkpoint.get(CODEC), self.network, "the config")
        is_run = checkpoint.keys() >= _STATE_OF_A_RUN and (self.lr_scheduler is None or checkpoint["lr_schedulers"])
        if self.stage == "fit" and not is_run:
            raise ConfigError(
                f"{self._checkpoint_path} holds weights but no state of a run (optimizer, schedule, progress), so "
                "nothing can be resumed from it: give a last.ckpt"
            )

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the weights.

        Raises:
            ConfigError: they are of another network or not finite.
        """
        try:
            found = super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            raise self._other_network(state_dict, str(error)) from error
        require_finite(self._checkpoint_path, self.network)
        return found

    def _other_network(self, state_dict: Mapping[str, Any], found: str) -> ConfigError:
        """The error of weights that do not fit; ``found`` is said where the network itself fits."""
        prefix = "network."
        tensors = {name.removeprefix(prefix): each for name, each in state_dict.items() if name.startswith(prefix)}
        wrong = difference(tensors, self.network) or one_line(found)
        return ConfigError(f"{self._checkpoint_path} is of another network than the config describes: {wrong}")

    @property
    def _checkpoint_path(self) -> str:
        return str((self._trainer and self._trainer.ckpt_path) or "the checkpoint")

    def in_full_precision(self, image: Tensor) -> Tensor:
        """Depth in metres, in float32 whatever the training precision: it is the baseline of all comparisons.

        Raises:
            DivergedError: it is not finite.
        """
        with full_precision(self.device):
            depth_m: Tensor = self(image)
            if not bool(depth_m.isfinite().all()):
                raise diverged(self, "predicted depth is not finite", first_non_finite(self.network, image))
        return depth_m

    def __deepcopy__(self, memo: dict[int, Any]) -> "MetricDepthTask":
        """A copy that shares the factories: those of the command line hold its parser, which has a lock.

        Weight averaging copies a task.
        """
        memo |= {id(factory): factory for factory in (self.optimizer, self.lr_scheduler)}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def _splits_with_ground_truth(self, stage: str) -> Iterable[str]:
        if stage == "fit" and self.learns_from_ground_truth:
            yield "train"
        if stage in ("fit", "validate") and self.trainer.limit_val_batches:
            yield "val"
        if stage == "test":
            yield "test"

    def _parameter_groups(self) -> list[dict[str, Any]]:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if self.decay_norm_and_bias:
            return [{"params": parameters}]
        # Norm scales and all biases are vectors; decaying them shrinks the function, not its complexity.
        return [
            {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
            {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
        ]

    def _log_metrics(self, stage: str, metrics: DepthMetrics) -> None:
        values = metrics.compute()
        metrics.reset()
        for name, value in values.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "abs_rel")


class _Hyperparameters(HyperparametersMixin):
    """Holds what it is built from, if LightningCLI or ``load_from_checkpoint`` is building something."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)


def _built_from_plain_data() -> bool:
    return bool(_Hyperparameters().hparams)
