"""Fake quantization of a student in training, and its metrics after the tool chain's own calibration."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, fx
from typing_extensions import override

from depth_distill.errors import ConfigError
from depth_distill.metrics import DepthMetrics
from depth_distill.models import CodeNetwork, DepthCodec, GraphNetwork
from depth_distill.quantization.analysis.mixed_precision import (
    HighPrecisionFormat,
    check_high_precision_format,
    chosen_layers,
    set_precision,
)
from depth_distill.quantization.conditions import ensure_codes
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Prepared, Preparer, exact_only, run_pass, structure_only
from depth_distill.quantization.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from depth_distill.quantization.simulate.calibrate import activation_quantizers, calibrate
from depth_distill.quantization.simulate.fake_quant import SiteKind
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers, set_enabled
from depth_distill.quantization.simulate.ptq import reset_weight_ranges, vendor_ranges
from depth_distill.quantization.target.target import load_target
from depth_distill.types import DepthBatch

RangeSource = Literal["batches", "calibration"]
_OF_EXPORT = (
    "uint8_input",
    "pair",
    "logits",
    "separate_outputs",
    "bake_ranges",
    "split_channels",
    "split_weights",
    "clip_ranges",
)


class FakeQuant(Callback):
    """Train the task's network as the NPU will compute it.

    At set-up, the network is traced, prepared by the recipe, and fake-quantized for the target, so that optimizer,
    resume, test and predict all use the same graph. Then:

    * before ``start_epoch``, the network is float;
    * at ``start_epoch``, activation ranges are measured on the calibration images; afterwards they follow the training
      batches, or are measured again at every epoch, until ``freeze_epoch``. Weight ranges always follow the weights,
      because the tool chain also measures the final weights.

    Each validation also computes the metrics *after vendor PTQ*: those of the current weights after calibration by the
    tool chain, with the target's calibrator on the calibration images. They are logged as ``vendor/<metric>``; monitor
    ``vendor/abs_rel`` to keep the checkpoint that is best on the NPU.

    A recipe may rescale channels. If the student starts from its teacher, the teacher is rescaled in the same way, so
    that features can be compared; its output does not change. Checkpoints record the recipe, and a run can only be
    resumed with the same one.

    Put it before ``FeatureHooks`` (the command line does). Validation and test also need the calibration images.
    Several processes have the ranges that one would have with all their samples.

    Args:
        target: name of an NPU profile, or its .yaml file.
        recipe: passes that prepare the network before training: name of a recipe, its .yaml file, or a list of passes.
            Passes that change the input or output of the network belong to the export, except ``thermometer``.
        start_epoch: first epoch with fake quantization.
        freeze_epoch: first epoch with fixed activation ranges (learned ones included); never unless given.
        ranges: whether activation ranges follow the training ``batches``, or are measured at the start of each epoch on
            the ``calibration`` images, as the tool chain does.
        learnable: kinds of quantizers whose range is learned (LSQ).
        high_precision_layers: layers that stay in the high-precision format, or a file from ``depth-distill
            mixed-precision`` that lists them.
        high_precision: high-precision format.

    Raises:
        ConfigError: at set-up, if the target does not support the format; the network cannot be quantized, returns
            something else than codes in [0, 1], or computes something else than its graph; weights are averaged before
            there are ranges; or weights are trained in a format that holds no rounded value, as ``bf16-true``.
    """

    def __init__(
        self,
        target: str = "per-tensor-minmax",
        recipe: str | list[Any] = DEFAULT_RECIPE,
        start_epoch: int = 0,
        freeze_epoch: int | None = None,
        ranges: RangeSource = "batches",
        learnable: Sequence[SiteKind] = (),
        high_precision_layers: Path | Sequence[str] = (),
        high_precision: HighPrecisionFormat = "fp16",
    ) -> None:
        if start_epoch < 0:
            raise ConfigError(f"start_epoch is {start_epoch}, expected 0 or more")
        if freeze_epoch is not None and freeze_epoch <= start_epoch:
            raise ConfigError(
                f"freeze_epoch is {freeze_epoch}, but ranges are first measured at start_epoch {start_epoch}: "
                "freeze later"
            )
        self.target = load_target(target)
        self.recipe = load_recipe(recipe)
        for each in self.recipe.passes:
            if each.name == "auto":
                raise ConfigError(
                    f"recipe {self.recipe}: auto chooses passes for weights as they are, and training changes these: "
                    "name the passes, such as the recipe equalize"
                )
            if each.name in _OF_EXPORT:
                raise ConfigError(f"recipe {self.recipe}: {each.name} belongs to the export, not to training")
        self.start_epoch = start_epoch
        self.freeze_epoch = freeze_epoch
        self.ranges = ranges
        self.learnable = tuple(learnable)
        self.high_precision_layers = high_precision_layers
        self.high_precision: HighPrecisionFormat = high_precision
        self._images: list[Tensor] | None = None
        self._vendor: dict[str, tuple[float, float]] = {}
        self._metrics: DepthMetrics | None = None

    def prepare(
        self,
        task: Any,
        calibration: Sequence[Tensor] | None = None,
        resumed: bool = False,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        """Replace the task's network by a fake-quantized graph with quantizers off, unless it is one already.

        Args:
            task: task whose ``network`` is replaced, and whose ``teacher`` is if both are rescaled.
            calibration: images for passes that measure. If None, only the structure is prepared, and the weights come
                from a checkpoint.
            resumed: whether the student's weights come from a checkpoint later, so that only the teacher needs values.
            image_size: (height, width) of images; surgery may depend on it. If not given, that of the calibration
                images, or else the smallest that the network takes.
        """
        if isinstance(task.network, GraphNetwork):
            return
        if getattr(task, "student_tap", None) is not None:
            raise ConfigError("FakeQuant comes after FeatureHooks, whose hooks would be lost: put it before")
        prepared = self._run_recipe(task.network, calibration, resumed, image_size)
        codec = DepthCodec(prepared.interface.codec)
        quantized = fake_quantize(prepared.graph, self.target, self.learnable)
        set_enabled(quantized, False)
        rescaled = calibration is not None and any(each.values_only for each in self.recipe.passes)
        if rescaled and getattr(task, "student_init", None) == "teacher":
            # The same channel scales as the student, so that features correspond. Its quantizers stay off, and allow
            # hooks on the results of additions.
            exact = dataclasses.replace(self.target, substitutions={})  # a teacher says what is right
            teacher = fake_quantize(prepared.trained, exact, self.learnable)
            set_enabled(teacher, False)
            task.teacher = GraphNetwork(teacher, task.network, codec).requires_grad_(False).eval()
            task.teacher.to(memory_format=task.memory_format)
        layers = (
            chosen_layers(self.high_precision_layers)
            if isinstance(self.high_precision_layers, Path)
            else self.high_precision_layers
        )
        if layers:
            check_high_precision_format(self.target, self.high_precision)
            quantized = set_precision(quantized, layers, self.high_precision)
        network = GraphNetwork(quantized, task.network, codec)
        network.to(memory_format=task.memory_format)
        network.train(task.network.training)  # a trace is in evaluation mode, where ranges would not follow batches
        task.network = network

    def _run_recipe(
        self,
        network: CodeNetwork,
        calibration: Sequence[Tensor] | None,
        resumed: bool,
        image_size: tuple[int, int] | None,
    ) -> Prepared:
        images = () if calibration is None else calibration
        # Passes that need the normalization of images are refused above.
        height, width = image_size or (images[0].shape[-2:] if images else (network.stride,) * 2)
        inputs = InputLayout(height, width, (0.0,) * 3, (1.0,) * 3)
        context = Context(self.target, images, Interface.of_codes(inputs, network.codec.host), progress=True)
        ensure_codes(network, context)
        execute = structure_only if calibration is None else exact_only if resumed else run_pass
        prepared = Preparer(network, context, execute)(self.recipe)
        if images and not resumed:
            for each, report in zip(self.recipe.passes, prepared.reports, strict=True):
                if each.needs_training:
                    rank_zero_info(f"{each.name}: {report.summary}")
        return prepared

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"recipe": self.recipe.to_dict(), "target": self.target.name}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        recorded = state_dict.get("recipe")
        if recorded is not None and recorded["sha256"] != self.recipe.sha256:
            before = Recipe.from_entries(recorded["passes"])
            raise ConfigError(
                f"the checkpoint was trained behind the recipe {before}, but FakeQuant is given {self.recipe} "
                f"({Recipe(self.recipe.passes)}): resume with the same recipe, or start a new run"
            )

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        task: Any = pl_module
        self._images = None
        if trainer.precision in ("bf16-true", "16-true"):
            raise ConfigError(
                f"trainer.precision is {trainer.precision}, which holds no value that FakeQuant rounds to 8 bits: give "
                f"{trainer.precision.replace('true', 'mixed')} or 32-true"
            )
        kinds = [isinstance(each, WeightAveraging) for each in trainer.callbacks]  # type: ignore[attr-defined]
        if any(kinds[: trainer.callbacks.index(self)]):  # type: ignore[attr-defined]
            raise ConfigError("weight averaging comes after FakeQuant, whose graph it has to average: put it behind")
        image_size = getattr(getattr(trainer, "datamodule", None), "image_size", None)
        if stage == "fit":
            if hasattr(task, "start"):
                task.start()
            self.prepare(task, self._calibration_images(trainer), trainer.ckpt_path is not None, image_size)
        else:
            self.prepare(task, image_size=image_size)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._require_ranges_to_average(trainer)
        # A run that is resumed within an epoch does not start that epoch again.
        self._switch(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: DepthBatch, batch_idx: int
    ) -> None:
        # Not on_train_epoch_start: Lightning skips it after a resume from the last step of the previous epoch.
        if batch_idx:
            return
        graph = _graph(pl_module)
        on, frozen = self._state(trainer)
        measured = all(quantizer.has_range for quantizer in activation_quantizers(graph).values())
        again = trainer.current_epoch == self.start_epoch or (self.ranges == "calibration" and not frozen)
        if on and (again or not measured):
            for site, (low, high) in self._measure(trainer, graph).items():
                quantizer = quantizers(graph)[site]
                if not (quantizer.learnable and quantizer.has_range):
                    quantizer.set_range(low, high)
            if trainer.current_epoch == self.start_epoch:
                reset_weight_ranges(graph)
        self._switch(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_vendor(trainer, pl_module)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: DepthBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._update_vendor(trainer, pl_module, batch)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_vendor(trainer, pl_module)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_vendor(trainer, pl_module)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: DepthBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._update_vendor(trainer, pl_module, batch)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_vendor(trainer, pl_module)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        set_enabled(_graph(pl_module), _has_ranges(_graph(pl_module)))

    def _require_ranges_to_average(self, trainer: Trainer) -> None:
        """Refuse weight averaging that begins before ranges are measured: an average with NaN stays NaN."""
        if not self.start_epoch:
            return
        steps = self.start_epoch * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if not isinstance(each, WeightAveraging):
                continue
            if each.should_update(step_idx=steps - 1) or each.should_update(epoch_idx=self.start_epoch - 1):
                raise ConfigError(
                    f"{type(each).__name__} averages from before start_epoch {self.start_epoch} of FakeQuant, when "
                    f"there are no ranges yet: set update_starting_at_step to {steps} or more, or start_epoch to 0"
                )

    def _state(self, trainer: Trainer) -> tuple[bool, bool]:
        """Whether quantizers are on, and whether their ranges are frozen."""
        epoch = trainer.current_epoch
        return epoch >= self.start_epoch, self.freeze_epoch is not None and epoch >= self.freeze_epoch

    def _switch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        graph = _graph(pl_module)
        on, frozen = self._state(trainer)
        set_enabled(graph, on)
        task: Any = pl_module
        task.network.shortened = not on
        for quantizer in quantizers(graph).values():
            if quantizer.learnable:
                quantizer.requires_grad_(not frozen)
            elif quantizer.kind != "weight":
                quantizer.tracking = self.ranges == "batches" and not frozen

    def _measure(self, trainer: Trainer, graph: fx.GraphModule) -> Mapping[str, tuple[float, float]]:
        return calibrate(graph, self._calibration_images(trainer), self.target.calibrator, progress=False).ranges

    def _calibration_images(self, trainer: Trainer) -> list[Tensor]:
        """The calibration images, which are read once, because they are few and needed at every epoch."""
        if self._images is None:
            datamodule = getattr(trainer, "datamodule", None)
            if datamodule is None:
                raise ConfigError("FakeQuant needs a DepthDataModule: it calibrates on its calibration images")
            self._images = [batch.image for batch in datamodule.calibration_dataloader()]
        return self._images

    def _start_vendor(self, trainer: Trainer, pl_module: LightningModule) -> None:
        graph = _graph(pl_module)
        if trainer.state.fn != "fit":
            set_enabled(graph, _has_ranges(graph))
        if trainer.sanity_checking:
            return
        self._vendor = dict(self._measure(trainer, graph))
        task: Any = pl_module
        self._metrics = DepthMetrics(task.network.depth_range, task.val_metrics.bands_m, task.network.alignment).to(
            pl_module.device
        )

    def _update_vendor(self, trainer: Trainer, pl_module: LightningModule, batch: DepthBatch) -> None:
        if self._metrics is None:
            return
        task: Any = pl_module
        with vendor_ranges(_graph(pl_module), self._vendor):
            depth_m = task.in_full_precision(batch.image)
        self._metrics.update(depth_m, batch.depth_m, batch.valid, batch.sample_index)

    def _log_vendor(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._metrics is None:
            return
        values = self._metrics.compute()
        self._metrics = None
        for name, value in values.items():
            pl_module.log(f"vendor/{name}", value, prog_bar=name == "abs_rel")


def _graph(pl_module: LightningModule) -> fx.GraphModule:
    graph: fx.GraphModule = pl_module.network.graph  # type: ignore[union-attr, assignment]
    return graph


def _has_ranges(graph: fx.GraphModule) -> bool:
    return all(quantizer.has_range for quantizer in quantizers(graph).values())
