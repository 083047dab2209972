"""DistillationTask: a student learns from a frozen teacher, with or without ground truth."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import AdamW
from typing_extensions import override

from depth_distill.errors import ConfigError
from depth_distill.losses import CompositeLoss
from depth_distill.losses.feature_terms import AttentionTransfer
from depth_distill.losses.loss_weighting import FixedWeights
from depth_distill.metrics import BANDS_M
from depth_distill.models import CodeNetwork
from depth_distill.models.checkpoints import load_weights
from depth_distill.models.foreign_checkpoint import first_names
from depth_distill.quantization.simulate.calibrate import weights_hash
from depth_distill.tasks.layer_pairs import FindLayers, LayerPair, ResolvedPair, check_maps, resolve
from depth_distill.tasks.metric_depth import MetricDepthTask
from depth_distill.tasks.schedules import LRSchedulerFactory
from depth_distill.types import DepthBatch

BalanceFactory = Callable[[dict[str, float]], nn.Module]
"""Builds the module that reduces the terms (``output``, ``feature``, ...) to one number, from their weights."""

_NOT_SAVED = "teacher."
_TEACHER_HASH = "teacher_sha256"  # key of a checkpoint
_TRAINING_ONLY = ("adapters.", "balance.")


class Tap(Protocol):
    """Hooked layers of a network."""

    def recording(self) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Collect features while the block runs."""

    def close(self) -> None:
        """Remove the hooks."""


class TeacherOutputs(Protocol):
    """Where the teacher's outputs come from: the teacher itself, or a cache of them."""

    def __call__(self, batch: DepthBatch) -> dict[str, Tensor]:
        """The teacher's depth in metres, as ``depth_m``, and its features by layer."""


class DistillationTask(MetricDepthTask):
    r"""Train a student to match a teacher's outputs (Hinton et al. 2015) and features (Romero et al. 2015).

    With the callback :class:`~depth_distill.callbacks.FakeQuant` it does so under fake quantization.

    The loss is ``output + alpha feature + beta hint + gamma supervised``, unless ``balance`` weighs otherwise:

    * ``output`` compares the student's depth with the teacher's, everywhere or where the teacher can be trusted;
    * ``feature`` is the mean over ``features``, ``hint`` the mean over ``hints``, of each pair's own loss;
    * ``supervised`` compares with ground truth, where there is any.

    Logs ``train/loss``, ``train/output``, ``train/feature``, ``train/hint``, ``train/supervised``, each of the terms
    that they consist of (``train/output/l1``, ``train/feature/encoder.layer4``), and the metrics.

    With ``supervised`` alone it is quantization-aware training that starts from a teacher and does not listen to it.

    Features and hints need the callback :class:`~depth_distill.callbacks.FeatureHooks`, which ``fit`` on the command
    line always has. The teacher is not saved in checkpoints, and neither teacher nor adapters are needed to validate,
    test or predict.

    Args:
        network: the student.
        teacher_checkpoint: weights of the teacher, from a run. Without it the teacher stays as constructed.
        teacher: any module that maps normalized images ``(B, 3, H, W)`` to depth ``(B, 1, H, W)`` in metres, or a
            :class:`~depth_distill.models.CodeNetwork`; a copy of the student as constructed if not given.
        student_init: what the student starts from: the weights of the ``teacher``, those that it is constructed with
            (``scratch``), or a checkpoint, by its path.
        output: terms of ``output``, called with the student's output, the teacher's output and a valid mask.
        output_space: whether ``output`` compares ``metres`` or ``codes``; the teacher's codes are its depth encoded by
            the student's codec, so the heads may differ.
        features: pairs of layers of the ``feature`` term.
        hints: pairs of layers of the ``hint`` term. Where the two layers of a pair differ in channels, a 1 x 1
            convolution maps the student's channels to the teacher's; it is used in training only.
        supervised: terms of ``supervised``.
        alpha: weight of ``feature``.
        beta: weight of ``hint``.
        gamma: weight of ``supervised``.
        balance: how the weighted terms become one number.
        confidence: largest relative error of the teacher at which a pixel with ground truth is learnt from it; pixels
            without ground truth always are.
        regularizers: penalties called with the student, by name.
        regularizer_weights: weight of each regularizer; 1 unless given.

    The other arguments are those of :class:`~depth_distill.tasks.MetricDepthTask`.

    Raises:
        ConfigError: ``gamma`` without terms under ``supervised``, or nothing to learn from. From ``fit``: a teacher
            whose checkpoint does not exist or is of another architecture, or layers that do not exist or do not return
            maps.
    """

    def __init__(
        self,
        network: CodeNetwork,
        teacher_checkpoint: Path | None = None,
        teacher: nn.Module | None = None,
        student_init: Literal["teacher", "scratch"] | Path = "teacher",
        output: CompositeLoss | None = None,
        output_space: Literal["metres", "codes"] = "metres",
        features: Sequence[LayerPair] = (),
        hints: Sequence[LayerPair] = (),
        supervised: CompositeLoss | None = None,
        alpha: float = 0.5,
        beta: float = 0.3,
        gamma: float = 0.0,
        balance: BalanceFactory = FixedWeights,
        confidence: float | None = None,
        regularizers: dict[str, nn.Module] | None = None,
        regularizer_weights: Mapping[str, float] | None = None,
        optimizer: OptimizerCallable = AdamW,
        lr_scheduler: LRSchedulerFactory | None = None,
        bands_m: Sequence[tuple[float, float]] = BANDS_M,
        decay_norm_and_bias: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__(network, optimizer, lr_scheduler, bands_m, decay_norm_and_bias, channels_last)
        if gamma and supervised is None:
            raise ConfigError(f"gamma is {gamma}, but the config has no terms under supervised for it to weigh")
        if output is None and not features and not hints and not gamma:
            raise ConfigError("nothing to learn from: give output, features or hints of the teacher, or ground truth")
        self.teacher_checkpoint = teacher_checkpoint
        self._teacher_is_copy = teacher is None
        self.teacher = copy.deepcopy(network) if teacher is None else teacher
        self.teacher.requires_grad_(False).eval().to(memory_format=self.memory_format)
        self.student_init = student_init
        self.output = output
        self.output_space = output_space
        self.features = features
        self.hints = hints
        self.pair_losses = nn.ModuleList(pair.loss for pair in (*features, *hints))  # they may have parameters
        self.supervised = supervised
        weights = {"output": 1.0, "feature": alpha, "hint": beta, "supervised": gamma}
        used = {"output": output, "feature": features, "hint": hints, "supervised": supervised}
        self.weights = {name: weight for name, weight in weights.items() if used[name] and weight}
        self.balance = balance(self.weights)
        self.confidence = confidence
        self.regularizers = (
            CompositeLoss(regularizers or {}, regularizer_weights) if regularizers or regularizer_weights else None
        )
        self.adapters = nn.ModuleDict()
        self.feature_pairs: list[ResolvedPair] = []
        self.hint_pairs: list[ResolvedPair] = []
        self.student_tap: Tap | None = None
        self.teacher_tap: Tap | None = None
        self.teacher_outputs: TeacherOutputs = self.teacher_forward
        self._started = False
        self._teacher_hash: str | None = None

    def start(self) -> None:
        """Load the weights of the teacher, and those that the student starts from; a second call does nothing.

        Callbacks whose set-up comes before that of the task call it.

        Raises:
            ConfigError: a checkpoint does not exist or does not fit.
        """
        if self._started:
            return
        if self.teacher_checkpoint is None and self._teacher_is_copy:
            rank_zero_warn("neither teacher nor teacher_checkpoint is given: the teacher is the student as constructed")
        if self.teacher_checkpoint is not None:
            load_weights(self.teacher, self.teacher_checkpoint, "model.teacher (a copy of model.network if not given)")
            self._teacher_hash = weights_hash(self.teacher)
        if self.student_init == "teacher":
            # Codec, depth range and head, which a state dict does not show.
            student, teacher = ((x.extra_repr(), str(getattr(x, "head", None))) for x in (self.network, self.teacher))
            if student != teacher:
                raise ConfigError(
                    "student_init: teacher needs a student of the teacher's architecture, head, codec and depth "
                    "range; start from 'scratch' weights or from a checkpoint of the student"
                )
            try:
                self.network.load_state_dict(self.teacher.state_dict())
            except RuntimeError as error:
                raise ConfigError(
                    "student_init: teacher needs a student of the teacher's architecture; start from 'scratch' weights "
                    f"or from a checkpoint of the student ({str(error).splitlines()[1].strip()})"
                ) from error
        elif self.student_init != "scratch":
            load_weights(self.network, Path(self.student_init), "model.network")
        self._started = True

    @override
    def setup(self, stage: str) -> None:
        """Check the data, and load what ``fit`` starts from."""
        super().setup(stage)
        if stage == "fit":
            self.start()

    def resolve_pairs(self, find_layers: FindLayers) -> list[ResolvedPair]:
        """Look up the layers of features and hints; returns all pairs.

        Raises:
            ConfigError: see :func:`~depth_distill.tasks.layer_pairs.resolve`.
        """
        self.feature_pairs = resolve(self.features, self.network, self.teacher, find_layers)
        self.hint_pairs = resolve(self.hints, self.network, self.teacher, find_layers)
        return [*self.feature_pairs, *self.hint_pairs]

    @property
    @override
    def learns_from_ground_truth(self) -> bool:
        """Only where there is nothing else: without it, a student learns from the teacher alone."""
        return self.output is None and not self.features and not self.hints

    @override
    def logged_metrics(self) -> Iterable[str]:
        """Names of all that is logged during ``fit``; of features and hints once their layers are resolved."""
        losses = {"output": self.output, "supervised": self.supervised, "regularizer": self.regularizers}
        names = {kind: list(loss.terms) for kind, loss in losses.items() if loss is not None}
        names["feature"] = [pair.name for pair in self.feature_pairs]
        names["hint"] = [pair.name for pair in self.hint_pairs]
        yield "train/loss"
        for kind, terms in names.items():
            if terms and kind != "regularizer":
                yield f"train/{kind}"
            yield from (f"train/{kind}/{term}" for term in terms)
        yield from super().logged_metrics()

    def match_features(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
        """Give an adapter to pairs of layers with different numbers of channels.

        Args:
            student: features of one image, by layer.
            teacher: features of the same image, by layer.

        Raises:
            ConfigError: see :func:`~depth_distill.tasks.layer_pairs.check_maps`.
        """
        for kind, pairs in (("feature", self.feature_pairs), ("hint", self.hint_pairs)):
            for pair in pairs:
                of_student, of_teacher = check_maps(pair, student, teacher)
                if of_student == of_teacher or isinstance(pair.loss, AttentionTransfer):
                    continue
                pair.adapter = f"{kind}/{pair.name}/{pair.teacher}".replace(".", "_")
                if pair.adapter not in self.adapters:
                    self.adapters[pair.adapter] = nn.Conv2d(of_student, of_teacher, 1, device=self.device)

    @override
    def training_step(self, batch: DepthBatch, batch_idx: int) -> Tensor:
        """The balanced sum of the terms."""
        pairs = [*self.feature_pairs, *self.hint_pairs]
        if (self.features or self.hints) and self.student_tap is None:
            raise ConfigError("features and hints need the callback FeatureHooks: add it to the trainer's callbacks")
        with self.student_tap.recording() if self.student_tap else nullcontext({}) as features:
            codes = self.codes(batch.image)
        depth_m = self.network.codec.decode(codes)
        teacher = self.teacher_outputs(batch) if self.output is not None or pairs else {}
        logged: dict[str, Tensor] = {}
        terms: dict[str, Tensor] = {}
        if self.output is not None:
            terms["output"] = self._output(codes, depth_m, teacher["depth_m"], batch, logged)
        if pairs and not all(features[pair.student].requires_grad for pair in pairs):
            raise ConfigError(
                "features carry no gradient: activation checkpointing needs use_reentrant=False to be hooked"
            )
        for kind, chosen in (("feature", self.feature_pairs), ("hint", self.hint_pairs)):
            values = []
            for pair in chosen:
                feature = features[pair.student]
                if pair.adapter is not None:
                    feature = self.adapters[pair.adapter](feature)
                values.append(pair.loss(feature, teacher[pair.teacher]))
                logged[f"{kind}/{pair.name}"] = values[-1].detach()
            if values:
                terms[kind] = torch.stack(values).mean()
        if self.supervised is not None:
            supervised = self.supervised(depth_m, batch.depth_m, batch.valid)
            terms["supervised"] = supervised.pop("total")
            logged |= {f"supervised/{name}": value.detach() for name, value in supervised.items()}
        total: Tensor = self.balance({name: value for name, value in terms.items() if name in self.weights})
        if self.regularizers is not None:
            penalties = self.regularizers(self.network)
            total = total + penalties.pop("total")
            logged |= {f"regularizer/{name}": value.detach() for name, value in penalties.items()}
        self.log("train/loss", total, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in (terms | logged).items()})
        return total

    @torch.no_grad()
    def teacher_forward(self, batch: DepthBatch) -> dict[str, Tensor]:
        """The teacher's depth ``(B, 1, H, W)`` in metres, as ``depth_m``, and its features by layer name."""
        image = batch.image.contiguous(memory_format=self.memory_format)
        with self.teacher_tap.recording() if self.teacher_tap else nullcontext({}) as features:
            teacher: Any = self.teacher
            depth_m = teacher.predict_depth(image) if isinstance(teacher, CodeNetwork) else teacher(image)
        return {"depth_m": depth_m.float(), **features}

    def _output(
        self, codes: Tensor, depth_m: Tensor, teacher_m: Tensor, batch: DepthBatch, logged: dict[str, Tensor]
    ) -> Tensor:
        assert self.output is not None
        trusted = torch.ones_like(batch.valid)
        if self.confidence is not None:
            error = (teacher_m - batch.depth_m).abs() / batch.depth_m.clamp(min=self.network.depth_range.min_m)
            trusted = ~batch.valid | (error <= self.confidence)
        if self.output_space == "metres":
            values = self.output(depth_m, teacher_m, trusted)
        else:
            values = self.output(codes, self.network.codec.encode(teacher_m), trusted.expand_as(codes))
        total: Tensor = values.pop("total")
        logged |= {f"output/{name}": value.detach() for name, value in values.items()}
        return total

    @override
    def train(self, mode: bool = True) -> "DistillationTask":
        """The teacher always stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @override
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Everything but the teacher."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")  # averaged weights have one
        for key in [key for key in state if key.startswith(prefix + _NOT_SAVED)]:
            del state[key]
        return state

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the codes mean, and whom the student learns from."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_TEACHER_HASH] = self._teacher_hash

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume with another teacher as well; outside of ``fit`` there is none."""
        super().on_load_checkpoint(checkpoint)
        recorded = checkpoint.get(_TEACHER_HASH)
        if recorded is not None and self._teacher_hash not in (None, recorded):
            raise ConfigError(
                f"teacher_checkpoint: {self.teacher_checkpoint} has other weights than the teacher that this student "
                "began with: resume with the config.yaml of its run, which names that one, or start a new run"
            )

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Only keys of the teacher may be missing; adapters and balance may be left over outside of ``fit``."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in found.missing_keys if not key.startswith(_NOT_SAVED)]
        unexpected = [key for key in found.unexpected_keys if self.stage == "fit" or not key.startswith(_TRAINING_ONLY)]
        if strict and (missing or unexpected):
            parts = [f"{len(missing)} keys are missing ({first_names(missing)})"] if missing else []
            parts += [f"{len(unexpected)} are unexpected ({first_names(unexpected)})"] if unexpected else []
            raise self._other_network(state_dict, "; ".join(parts))
        return found
