"""One module per subcommand of ``depth-distill``, called after it: ``npu-info`` is in ``npu_info.py``.

A module has its help text (the docstring), ``EXAMPLE``, ``add_arguments(parser)`` and ``run(options, overrides)``. It
imports what is heavy (torch, timm, Lightning, ONNX, matplotlib) inside ``run``, or in a module that ``run`` imports, so
that help and the refusal of a mistyped option come at once. A new one is a module and a line here.
"""

import keyword
from collections.abc import Mapping
from importlib import import_module
from typing import Any

COMMANDS: Mapping[str, str] = {
    "fit": "train; evaluate the best checkpoint; print the table and what to do next",
    "import": "bring in a network of your own, or an ONNX file",
    "validate": "metrics of a checkpoint on the validation split",
    "test": "metrics of a checkpoint on the test split",
    "predict": "depth maps and panels of a checkpoint",
    "validate-data": "read every sample; report counts, ranges and bad files",
    "evaluate": "metrics of a checkpoint, an ONNX file, or a folder of predictions",
    "ptq-table": "FP32, naive PTQ, and what each pass gains, plain and stressed",
    "error-budget": "which kinds of tensors, and which stages, the error comes from",
    "sensitivity": "how much accuracy each layer loses in INT8",
    "mixed-precision": "the fewest FP16 layers that reach an accuracy",
    "roadmap": "the whole way from FP32 to INT8 as one table",
    "sweep": "try many settings of a command, side by side, and rank them",
    "report": "one HTML page about a run: verdict, curves, metrics, panels, ranges, config",
    "harden": "an ONNX file in, the same file back, robust against INT8",
    "diagnose": "what a device or tool chain did to a network, and what to do about it",
    "fit-decoder": "from what a device returned, a decode table that corrects it",
    "pick-calibration": "the images to calibrate on, for a tool chain that takes minimum and maximum",
    "export": "a bundle of ONNX files for an NPU, with a report",
    "npu-info": "what an NPU can do, and whether it takes a network",
    "npu-compare": "run a bundle on a tool chain, or compare what a device dumped",
    "list": "names of encoders, targets, backends, recipes, losses, datasets or heads",
}
"""The line of each subcommand in ``depth-distill --help``, in the order of the work."""


def command_module(name: str) -> Any:
    """The module of a subcommand."""
    module = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
    return import_module(f"depth_distill.commands.{module}")
