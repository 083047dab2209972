"""What passes through each layer of a network in training: its range, its distribution, and what INT8 would clip."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from depth_distill import runs
from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.tracking.media import Histogram, log_histograms

_COLUMNS = ("epoch", "layer", "kind", "min", "max", "low", "high", "saturated")
_BINS = 64
_UNSEEN = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class LayerRange:
    """What one layer gave, or one quantizer was given, on some images.

    Attributes:
        kind: ``weight``, ``input``, ``activation`` or ``output`` of a quantizer; ``float`` of a layer without one.
        seen: distribution of the values.
        low: smallest value that the quantizer can represent; None without one, or before it has a range.
        high: largest value.
        saturated: share of the values beyond these two.
    """

    kind: str
    seen: Histogram
    low: float | None = None
    high: float | None = None
    saturated: float | None = None


class LayerRanges(Callback):
    """Record the ranges of all layers, and the share of values that saturate, every few epochs.

    Under :class:`~depth_distill.callbacks.FakeQuant` these are those of the tensors that are rounded, and else those of
    what each layer returns. They are measured on the first images of the validation split, always the same ones.
    ``layers.csv`` in the run folder has a row per layer and epoch; Weights & Biases and TensorBoard get a histogram per
    layer, ``layers/<name>``, and all loggers the largest share, ``layers/saturated_max``.

    Args:
        every_n_epochs: epochs of ``fit`` per measurement; the last epoch always has one. With 0 there is none.
        images: number of images.

    Raises:
        ConfigError: ``every_n_epochs`` is negative, or ``images`` not positive.
    """

    def __init__(self, every_n_epochs: int = 5, images: int = 4) -> None:
        for key, value, least in (("every_n_epochs", every_n_epochs, 0), ("images", images, 1)):
            if value < least:
                raise ConfigError(f"layers.{key}: received {value}, expected {least} or more")
        self.every_n_epochs = every_n_epochs
        self.images = images

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx or not self._is_due(trainer):
            return
        task: Any = pl_module
        found = layer_ranges(task, batch.image[: self.images])
        _write(Path(trainer.default_root_dir) / runs.LAYERS_LOG, trainer.current_epoch, found)
        shares = [each.saturated for each in found.values() if each.saturated is not None]
        histograms = {f"layers/{name}": each.seen for name, each in found.items()}
        log_histograms(trainer.loggers, histograms, trainer.global_step)
        if shares:
            share = {"layers/saturated_max": max(shares), "layers/saturated_mean": sum(shares) / len(shares)}
            for logger in trainer.loggers:
                logger.log_metrics(share, step=trainer.global_step)
            log_histograms(
                trainer.loggers, {"layers/saturated": Histogram.of(torch.tensor(shares))}, trainer.global_step
            )

    def _is_due(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return False
        if self.every_n_epochs == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        done = trainer.current_epoch + 1
        return done % self.every_n_epochs == 0 or done == trainer.max_epochs


def layer_ranges(task: Any, image: Tensor) -> dict[str, LayerRange]:
    """What passes through the layers of a task's network, in full precision.

    Args:
        task: a task in evaluation mode.
        image: normalized images ``(B, 3, H, W)``.
    """
    found: dict[str, LayerRange] = {}
    handles = []
    sites = quantizers(task.network)
    for name, quantizer in sites.items():

        def given(module: Any, args: tuple[Any, ...], name: str = name) -> None:
            if isinstance(args[0], Tensor) and args[0].numel():
                found[name] = _of_quantizer(module, args[0].detach())

        handles.append(quantizer.register_forward_pre_hook(given))
    for name, layer in [] if sites else list(_leaves(task.network)):

        def returned(module: Any, args: Any, result: Any, name: str = name) -> None:
            if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
                found[name] = LayerRange("float", Histogram.of(result.detach()))

        handles.append(layer.register_forward_hook(returned))
    try:
        with torch.no_grad():
            task.in_full_precision(image)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _leaves(network: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if name and not any(True for _ in module.children()) and not isinstance(module, _UNSEEN):
            yield name, module


def _of_quantizer(quantizer: Any, values: Tensor) -> LayerRange:
    seen = Histogram.of(values)
    if not quantizer.has_range:
        return LayerRange(quantizer.kind, seen)
    scale, zero_point = quantizer.constants()
    low = (quantizer.tensor_format.quant_min - zero_point) * scale
    high = (quantizer.tensor_format.quant_max - zero_point) * scale
    shape = [-1 if scale.ndim and dim == quantizer.channel_dim else 1 for dim in range(values.ndim)]
    # Values up to half a step beyond an end are rounded to it, and lose no more than any other value.
    slack = (scale / 2).reshape(shape)
    beyond = (values < low.reshape(shape) - slack) | (values > high.reshape(shape) + slack)
    return LayerRange(quantizer.kind, seen, float(low.min()), float(high.max()), float(beyond.float().mean()))


def _write(path: Path, epoch: int, found: dict[str, LayerRange]) -> None:
    """Add the rows of an epoch; those of it and of later ones, which a run left that now goes on, are replaced."""
    kept: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if row.get("epoch", "").isdigit() and int(row["epoch"]) < epoch]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        for name, each in found.items():
            numbers = (each.seen.low, each.seen.high, each.low, each.high, each.saturated)
            texts = ["" if number is None else f"{number:.6g}" for number in numbers]
            writer.writerow(dict(zip(_COLUMNS, (epoch, name, each.kind, *texts), strict=True)))
