"""depth-distill: monocular metric depth from FP32 to a pure-INT8 NPU without losing its accuracy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depth_distill.evaluation import Evaluator
    from depth_distill.loading.trained import LoadedRun, load_run
    from depth_distill.quantization.target.target import NpuTarget, load_target

__version__ = "0.1.0"

# Where each name is, imported when it is first asked for: `import depth_distill` stays light.
_EXPORTS = {
    "Evaluator": "depth_distill.evaluation",
    "LoadedRun": "depth_distill.loading.trained",
    "NpuTarget": "depth_distill.quantization.target.target",
    "load_run": "depth_distill.loading.trained",
    "load_target": "depth_distill.quantization.target.target",
}

__all__ = ["Evaluator", "LoadedRun", "NpuTarget", "load_run", "load_target"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'depth_distill' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
