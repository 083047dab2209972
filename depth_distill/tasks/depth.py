"""DepthTask: supervised training of a metric-depth network, such as the teacher of a later distillation."""

from collections.abc import Iterable, Sequence

from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW
from typing_extensions import override

from depth_distill.losses import CompositeLoss
from depth_distill.metrics import BANDS_M
from depth_distill.models import CodeNetwork
from depth_distill.tasks.metric_depth import MetricDepthTask
from depth_distill.tasks.schedules import LRSchedulerFactory
from depth_distill.types import DepthBatch


class DepthTask(MetricDepthTask):
    """Fit a :class:`~depth_distill.models.CodeNetwork` to ground truth.

    Logs ``train/loss``, ``train/<term>`` for each term of the losses, ``val/loss``, and the metrics.

    Args:
        network: see :class:`~depth_distill.tasks.metric_depth.MetricDepthTask`, also for all other arguments.
        loss: named, weighted terms on depth in metres.
        code_loss: further terms, on codes; called with the predicted codes, the codes of the ground truth and the valid
            mask. For heads whose codes mean something by themselves.
    """

    def __init__(
        self,
        network: CodeNetwork,
        loss: CompositeLoss,
        code_loss: CompositeLoss | None = None,
        optimizer: OptimizerCallable = AdamW,
        lr_scheduler: LRSchedulerFactory | None = None,
        bands_m: Sequence[tuple[float, float]] = BANDS_M,
        decay_norm_and_bias: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__(network, optimizer, lr_scheduler, bands_m, decay_norm_and_bias, channels_last)
        self.loss = loss
        self.code_loss = code_loss

    @override
    def logged_metrics(self) -> Iterable[str]:
        """Names of all that is logged during ``fit``."""
        yield "train/loss"
        for loss in (self.loss, self.code_loss):
            if loss is not None:
                yield from (f"train/{name}" for name in loss.terms)
        yield from super().logged_metrics()

    @override
    def training_step(self, batch: DepthBatch, batch_idx: int) -> Tensor:
        """The weighted sum of the loss terms."""
        codec = self.network.codec
        codes = self.codes(batch.image)
        terms = self.loss(codec.decode(codes), batch.depth_m, batch.valid)
        total: Tensor = terms.pop("total")
        if self.code_loss is not None:
            code_terms = self.code_loss(codes, codec.encode(batch.depth_m), batch.valid)
            total = total + code_terms.pop("total")
            terms |= code_terms
        self.log("train/loss", total, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return total

    @override
    def validation_loss(self, depth_m: Tensor, batch: DepthBatch) -> Tensor:
        """The loss on depth; terms on codes are not part of it."""
        return self.loss(depth_m, batch.depth_m, batch.valid)["total"]
