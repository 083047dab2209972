"""Pictures of depth: panels that put image, ground truth, prediction and error side by side, in metres."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from depth_distill.atomic import atomic_path

DEPTH_COLORS = "turbo_r"  # near is warm, far is cold
ERROR_COLORS = "magma"
NO_DEPTH_GREY = 0.35


class PanelRow(NamedTuple):
    """What one row of a panel shows."""

    title: str
    image: Tensor
    """``(3, H, W)`` float RGB in [0, 1]."""
    prediction_m: Tensor
    """``(1, H, W)`` metres."""
    depth_m: Tensor | None = None
    """``(1, H, W)`` metres, or None for an image without ground truth."""
    valid: Tensor | None = None
    """``(1, H, W)`` bool."""


def depth_panel(rows: Sequence[PanelRow]) -> Figure:
    """A figure with one row an image: image, ground truth, prediction, absolute error, each with a bar in metres.

    Ground truth and prediction of a row share one colour scale. Pixels without ground truth are grey.
    """
    columns = 4 if any(row.depth_m is not None for row in rows) else 2
    height, width = rows[0].image.shape[-2:]
    cell = 3.0  # inches
    figure = Figure(figsize=(columns * (cell + 0.55), len(rows) * (cell * height / width + 0.35)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, row_axes in zip(rows, axes, strict=True):
        _draw_row(row, list(row_axes))
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)


def save_depth_png(depth_m: Tensor, path: Path, depth_scale: float = 1000.0) -> None:
    """Write ``(1, H, W)`` metres as 16-bit PNG of ``depth_scale`` units a metre; 0 means "no depth".

    Depths beyond the largest code (65.535 m at 1000 units a metre) are clamped to it.
    """
    codes = np.round(depth_m.squeeze(0).float().cpu().numpy() * depth_scale)
    with atomic_path(path) as temporary:
        Image.fromarray(np.clip(codes, 0, np.iinfo(np.uint16).max).astype(np.uint16)).save(temporary)


def _draw_row(row: PanelRow, axes: list[Axes]) -> None:
    image, prediction_m = _array(row.image).transpose(1, 2, 0), _array(row.prediction_m)[0]
    axes[0].imshow(image)
    axes[0].set_title(row.title, fontsize=9)
    for ax in axes:
        ax.set_axis_off()
    if row.depth_m is None or row.valid is None or not bool(row.valid.any()):
        near, far = np.percentile(prediction_m, (1, 99))
        _draw_map(axes[-1] if len(axes) == 2 else axes[2], prediction_m, (near, far), DEPTH_COLORS, "prediction [m]")
        return
    depth_m = np.where(_array(row.valid)[0], _array(row.depth_m)[0], np.nan)
    error_m = np.abs(prediction_m - depth_m)
    near, far = np.nanpercentile(depth_m, (1, 99))
    abs_rel = np.nanmean(error_m / depth_m)
    _draw_map(axes[1], depth_m, (near, far), DEPTH_COLORS, "ground truth [m]")
    _draw_map(axes[2], prediction_m, (near, far), DEPTH_COLORS, "prediction [m]")
    worst = max(float(np.nanpercentile(error_m, 99)), 1e-3)
    _draw_map(axes[3], error_m, (0.0, worst), ERROR_COLORS, f"error [m], abs_rel {abs_rel:.3f}")


def _draw_map(ax: Axes, values: np.ndarray, limits: tuple[float, float], colors: str, title: str) -> None:
    colormap = colormaps[colors].with_extremes(bad=(NO_DEPTH_GREY,) * 3)
    drawn = ax.imshow(values, cmap=colormap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    ax.set_title(title, fontsize=9)
    if ax.figure is not None:
        ax.figure.colorbar(drawn, ax=ax, fraction=0.035, pad=0.02).ax.tick_params(labelsize=7)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()
