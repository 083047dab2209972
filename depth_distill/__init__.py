"""depth-distill: monocular metric depth from FP32 to a pure-INT8 NPU without losing its accuracy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depth_distill.api import evaluate, load_network, prepare
    from depth_distill.evaluation import Evaluator
    from depth_distill.export.bundle.bundle import Bundle, load_bundle
    from depth_distill.export.bundle.pipeline import export
    from depth_distill.loading.trained import LoadedRun
    from depth_distill.quantization.preparation import Prepared
    from depth_distill.quantization.recipe import Recipe, load_recipe
    from depth_distill.quantization.target.target import NpuTarget, load_target

__version__ = "0.2.0"

# Where each name is, imported when it is first asked for: `import depth_distill` stays light. `export` is the package
# of that name, which can be called.
_EXPORTS = {
    "Bundle": "depth_distill.export.bundle.bundle",
    "Evaluator": "depth_distill.evaluation",
    "LoadedRun": "depth_distill.loading.trained",
    "NpuTarget": "depth_distill.quantization.target.target",
    "Prepared": "depth_distill.quantization.preparation",
    "Recipe": "depth_distill.quantization.recipe",
    "evaluate": "depth_distill.api",
    "load_bundle": "depth_distill.export.bundle.bundle",
    "load_network": "depth_distill.api",
    "load_recipe": "depth_distill.quantization.recipe",
    "load_target": "depth_distill.quantization.target.target",
    "prepare": "depth_distill.api",
}

__all__ = [
    "Bundle", "Evaluator", "LoadedRun", "NpuTarget", "Prepared", "Recipe",
    "evaluate", "export", "load_bundle", "load_network", "load_recipe", "load_target", "prepare",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "export":
        return import_module("depth_distill.export")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'depth_distill' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
