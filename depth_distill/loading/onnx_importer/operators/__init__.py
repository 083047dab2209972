"""One module per family of operators; importing it registers all of them."""

from depth_distill.loading.onnx_importer.operators import (
    activations,
    arithmetic,
    convolutions,
    indexing,
    movement,
    normalization,
    pooling,
    reductions,
    resizing,
)

__all__ = [
    "activations",
    "arithmetic",
    "convolutions",
    "indexing",
    "movement",
    "normalization",
    "pooling",
    "reductions",
    "resizing",
]
