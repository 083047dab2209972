"""Options of an export."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from depth_distill.export.backends.backends import Backend
from depth_distill.export.bundle.decode_table import TableSource
from depth_distill.quantization.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from depth_distill.quantization.target.target import CalibratorName


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        checkpoint: checkpoint of a ``fit``.
        out: folder of the bundle; an old bundle there is replaced at the end.
        config: config of the checkpoint; the one in its run folder unless given.
        overrides: command-line options that change data or network, such as ``--data.root DIR``.
        recipe: passes that prepare the network.
        separate_outputs: whether there is one output per code; by default only for integer and fraction.
        calibration_images: number of calibration images, from the training split unless the config names others.
        device: where recipe, calibration and the float network are computed; files are written on the CPU.
        calibrator: how activation ranges are measured; the target's own calibrator unless given.
        opset: opset of the files; by default the newest one that this package writes and the target reads.
        high_precision_layers: layers of ``model.mixed.onnx`` in FP16, or a file from ``depth-distill mixed-precision``;
            by default the fewest that reach ``target_abs_rel``.
        target_abs_rel: abs_rel of the mixed network to reach; 1.02 times that of the float network unless given.
        search_images: approximate number of images for the search of these layers.
        images: approximate number of validation images for verification; all unless given.
        backends: tool chains to verify the files on.
        decode_table: a tool chain to fit a decode table on, outputs of a device for the calibration images, or a table
            that was fitted before; there is none unless given.
        refuse: whether an operator that the target refuses is an error; otherwise it is a warning in the report.
        keep_head: whether the network ends as it does even where the target computes another function there; see
            :func:`~depth_distill.quantization.head_choice.choose_head`.
        keep_recipe: whether the recipe is exported even where INT8 is better without it, see
            :func:`~depth_distill.export.bundle.before_after.compare`.
        command: command line, for the manifest.
    """

    checkpoint: Path
    out: Path
    config: Path | None = None
    overrides: Sequence[str] = ()
    recipe: Recipe = field(default_factory=lambda: load_recipe(DEFAULT_RECIPE))
    separate_outputs: bool | None = None
    calibration_images: int = 64
    device: str = "cpu"
    calibrator: CalibratorName | None = None
    opset: int | None = None
    high_precision_layers: Path | Sequence[str] | None = None
    target_abs_rel: float | None = None
    search_images: int = 100
    images: int | None = None
    backends: Sequence[Backend] = ()
    decode_table: TableSource | None = None
    refuse: bool = True
    keep_head: bool = False
    keep_recipe: bool = False
    command: str = ""
