"""What a pass is: a frozen, serializable step from one float graph to the next, with conditions around it.

Modelled on onnx/ir-py's ``passes/_pass_infra.py`` (``PassResult``, ``requires``, ``ensures``) and NNCF's ``Pipeline``.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich.table import Table
from torch import Tensor, fx

from depth_distill.errors import ConfigError
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import CalibratorName, NpuTarget
from depth_distill.quantization.target.validated import ValidatedDataclass
from depth_distill.streaming import Mapped


class PassError(ConfigError):
    """A pass cannot run, or did something that it must not; the message names the pass."""


@dataclass(frozen=True)
class PassReport:
    """What a pass did.

    Attributes:
        summary: the outcome in a few words.
        values: numbers for the record, as JSON.
        table: details for the terminal.
        seconds: time that the pass took; set by the runner.
    """

    summary: str
    values: Mapping[str, Any] = field(default_factory=dict)
    table: Table | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Context:
    """What a pass knows besides the graph.

    Attributes:
        target: the NPU that the network is prepared for.
        images: batches of normalized calibration images ``(B, 3, H, W)``, on the device of the graph; none where only
            the structure of a prepared network is wanted.
        interface: what the graph takes and returns at this point.
        calibrator: how activation ranges are measured; the target's own calibrator unless given.
        learned_ranges: (lowest, highest) by site that a student was trained with.
        reference: the graph behind the last pass that kept the function of what it was given, with the channel scales
            of the graph; rounding is judged against it.
        progress: whether long passes show a progress bar.
    """

    target: NpuTarget
    images: Sequence[Tensor]
    interface: Interface
    calibrator: CalibratorName | None = None
    learned_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reference: fx.GraphModule | None = None
    progress: bool = False

    @property
    def chosen_calibrator(self) -> CalibratorName:
        """How activation ranges are measured."""
        return self.calibrator or self.target.calibrator

    @property
    def batches(self) -> Sequence[Tensor]:
        """The calibration images as the graph takes them."""
        return Mapped(self.interface.feed, self.images)

    def first_batches(self, count: int) -> Sequence[Tensor]:
        """Whole batches with about ``count`` images, as the graph takes them."""
        return self.batches[: max(1, count // len(self.batches[0]))] if self.batches else []

    def quantize(self, graph: fx.GraphModule) -> fx.GraphModule:
        """The graph as the target computes it after its own calibration."""
        return quantize_post_training(
            graph, self.target, self.batches, self.progress, self.calibrator, self.interface.inputs.range
        )


@dataclass(frozen=True)
class PassResult:
    """The outcome of a pass.

    Attributes:
        graph: a new graph; the one that was given is untouched.
        report: what was done.
        interface: what the new graph takes and returns; as before if None.
    """

    graph: fx.GraphModule
    report: PassReport
    interface: Interface | None = None


@dataclass(frozen=True)
class Pass(ValidatedDataclass, ABC):
    """One step of a recipe; its fields are the arguments of its entry in a recipe file.

    Class attributes:
        name: name of the entry.
        changes_function: whether the network may compute something else afterwards. Where it must not, the runner
            checks that it does not, on the calibration images.
        values_only: whether only the values of weights and biases change, so that a checkpoint of the result fits
            the structure of the input.
        measures: whether calibration images determine values of a pass that changes the structure, too. Without images
            it returns the same structure, with values for a checkpoint to fill in.
        needs_training: whether a changed function is meant to be repaired by training; the report says so.
        for_int8: whether it serves nothing but accuracy in INT8, so that an export may leave it out where it does not.
    """

    name: ClassVar[str]
    changes_function: ClassVar[bool] = False
    values_only: ClassVar[bool] = False
    measures: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False
    for_int8: ClassVar[bool] = False

    def requires(self, graph: fx.GraphModule, context: Context) -> None:
        """Refuse a graph or a context that the pass cannot work on.

        Raises:
            ConfigError: what is missing, and what to do.
        """

    @abstractmethod
    def __call__(self, graph: fx.GraphModule, context: Context) -> PassResult:
        """Run the pass.

        Raises:
            ConfigError: see the function that the pass wraps.
        """

    def shaped(self, graph: fx.GraphModule) -> fx.GraphModule:
        """A graph with the structure of the result, values aside; for passes with ``values_only``."""
        return graph

    def to_dict(self) -> dict[str, Any]:
        """The entry of a recipe file, with every argument."""
        return {self.name: dataclasses.asdict(self)}

    def __str__(self) -> str:
        changed = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if getattr(self, each.name) != each.default
        }
        return self.name + (f"({', '.join(f'{name}={value}' for name, value in changed.items())})" if changed else "")
