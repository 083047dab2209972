"""Pictures of depth: panels with image, ground truth, prediction and error side by side, in metres."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from depth_distill.atomic import atomic_path

DEPTH_COLORS = "turbo_r"  # near is warm, far is cold
ERROR_COLORS = "magma"
NO_DEPTH_GREY = 0.6
_TITLE_LENGTH = 40  # characters of 9 points that fit above a cell of 3 inches
_SPARSE_SHARE = 0.25  # a depth map with fewer valid pixels than this is drawn with thicker points


class PanelRow(NamedTuple):
    """Content of one row of a panel."""

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
    """A figure with one row per image: image, ground truth, prediction, absolute error, with colour bars in metres.

    Ground truth and prediction of a row share one logarithmic colour scale. Pixels without ground truth are grey, and
    so are predictions that are not finite, of which the title has the share; points of a sparse map, such as a LiDAR
    scan, are drawn up to 5 pixels wide.
    """
    columns = 4 if any(row.depth_m is not None for row in rows) else 2
    height, width = rows[0].image.shape[-2:]
    cell = 3.0  # inches
    figure = Figure(figsize=(columns * (cell + 0.55), len(rows) * (cell * height / width + 0.35)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, row_axes in zip(rows, axes, strict=True):
        _draw_row(row, list(row_axes))
    return figure


class ComparedRow(NamedTuple):
    """One image and its depth from several networks."""

    image: Tensor
    """``(3, H, W)`` float RGB in [0, 1]."""
    reference_m: Tensor
    """``(1, H, W)`` metres, of the network that the others are compared with."""
    others_m: Mapping[str, Tensor]
    """``(1, H, W)`` metres, by the name of the network."""
    depth_m: Tensor
    """``(1, H, W)`` metres, the ground truth."""
    valid: Tensor
    """``(1, H, W)`` bool."""


def compared_panel(rows: Sequence[ComparedRow], reference: str = "FP32") -> Figure:
    """One row per image: image, ground truth, depth of each network, and how far the others are from the first.

    All depth of a row has one colour scale, and so have all distances.

    Args:
        rows: images, with the same networks in each.
        reference: name of the first network.
    """
    height, width = rows[0].image.shape[-2:]
    columns = 3 + 2 * len(rows[0].others_m)
    figure = Figure(figsize=(columns * 2.75, len(rows) * (2.2 * height / width + 0.35)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, row_axes in zip(rows, axes, strict=True):
        for ax in row_axes:
            ax.set_axis_off()
        row_axes[0].imshow(_array(row.image).transpose(1, 2, 0))
        depth_m = np.where(_array(row.valid)[0] > 0, _array(row.depth_m)[0], np.nan)
        exact = _array(row.reference_m)[0]
        scale = _depth_scale(depth_m if np.isfinite(depth_m).any() else exact)
        _draw_map(row_axes[1], _thickened(depth_m), scale, "ground truth [m]")
        _draw_map(row_axes[2], exact, scale, f"{reference} [m]", complete=True)
        depths = {name: _array(each)[0] for name, each in row.others_m.items()}
        apart_mm = {name: 1000 * np.abs(each - exact) for name, each in depths.items()}
        worst = Normalize(0.0, max(1.0, *(_percentile(each, 99, 0.0) for each in apart_mm.values())))
        for place, (name, each) in enumerate(depths.items(), 3):
            _draw_map(row_axes[place], each, scale, f"{name} [m]", complete=True)
        for place, (name, each) in enumerate(apart_mm.items(), 3 + len(depths)):
            _draw_map(row_axes[place], each, worst, f"{name}: off by {each.mean():.1f} mm")
    return figure


def error_map(rows: Sequence[tuple[Tensor, Tensor, Tensor]], names: tuple[str, str] = ("FP32", "INT8")) -> Figure:
    """A figure with one row per image: image, depth of two networks, and their absolute difference.

    Args:
        rows: image ``(3, H, W)`` RGB in [0, 1], and depth ``(1, H, W)`` in metres of both networks.
        names: names of the networks.
    """
    height, width = rows[0][0].shape[-2:]
    figure = Figure(figsize=(4 * 3.55, len(rows) * (3.0 * height / width + 0.35)), layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for (image, float_m, other_m), row_axes in zip(rows, axes, strict=True):
        for ax in row_axes:
            ax.set_axis_off()
        row_axes[0].imshow(_array(image).transpose(1, 2, 0))
        scale = _depth_scale(_array(float_m)[0])
        _draw_map(row_axes[1], _array(float_m)[0], scale, f"{names[0]} [m]", complete=True)
        _draw_map(row_axes[2], _array(other_m)[0], scale, f"{names[1]} [m]", complete=True)
        error_mm = 1000 * np.abs(_array(other_m)[0] - _array(float_m)[0])
        worst = max(_percentile(error_mm, 99, 0.0), 1.0)
        _draw_map(
            row_axes[3], error_mm, Normalize(0.0, worst), f"|{names[1]} - {names[0]}| [mm], mean {error_mm.mean():.1f}"
        )
    return figure


def size_curve_with_pictures(
    counts: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    band: tuple[Sequence[float], Sequence[float]],
    line: tuple[str, float],
    axis: str,
    pictures: Sequence[tuple[str, np.ndarray]],
) -> Figure:
    """Numbers against how many images they were had with, and pictures beside them.

    Args:
        counts: numbers of images, rising.
        curves: values by name, one for each count; the band belongs to the last curve.
        band: lowest and highest value for each count.
        line: name and value of a horizontal line.
        axis: label of the values.
        pictures: title, and ``(3, H, W)`` uint8 RGB.
    """
    columns = 4
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(12 if pictures else 5.5, max(3.6, 1.25 * rows)), layout="constrained")
    halves = list(figure.subfigures(1, 2, width_ratios=(1, 1.2), squeeze=False)[0]) if pictures else []
    ax = (halves[0] if halves else figure).subplots()
    for (name, values), color in zip(curves.items(), ("#2f6f9f", "#d08c2f"), strict=False):
        ax.plot(counts, values, marker="o", markersize=4, color=color, label=name)
    ax.fill_between(counts, *band, color="#d08c2f", alpha=0.25, label="random, lowest to highest")
    ax.axhline(line[1], color="#3a923a", linestyle="--", label=line[0])
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [str(each) for each in counts])
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.set_xlabel("calibration images")
    ax.set_ylabel(axis)
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)
    if not halves:
        return figure
    cells = halves[1].subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.set_axis_off()
    for cell, (title, picture) in zip(cells, pictures, strict=False):
        cell.imshow(picture.transpose(1, 2, 0))
        cell.set_title(title if len(title) <= 22 else f"...{title[-19:]}", fontsize=7, parse_math=False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, in the format that the suffix says."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)


def save_depth_png(depth_m: Tensor, path: Path, depth_scale: float = 1000.0) -> None:
    """Write ``(1, H, W)`` metres as a 16-bit PNG with ``depth_scale`` units per metre; 0 means "no depth", as for NaN.

    Depths beyond the largest value (65.535 m at 1000 units per metre) are clamped to it.
    """
    units = np.round(np.nan_to_num(depth_m.squeeze(0).float().cpu().numpy()) * depth_scale)
    with atomic_path(path) as temporary:
        Image.fromarray(np.clip(units, 0, np.iinfo(np.uint16).max).astype(np.uint16)).save(temporary)


def _draw_row(row: PanelRow, axes: list[Axes]) -> None:
    image, prediction_m = _array(row.image).transpose(1, 2, 0), _array(row.prediction_m)[0]
    axes[0].imshow(image)
    axes[0].set_title(_shortened(row.title), fontsize=9, parse_math=False)
    for ax in axes:
        ax.set_axis_off()
    if row.depth_m is None or row.valid is None or not bool(row.valid.any()):
        last = axes[-1] if len(axes) == 2 else axes[2]
        _draw_map(last, prediction_m, _depth_scale(prediction_m), "prediction [m]", complete=True)
        return
    valid = _array(row.valid)[0] > 0
    depth_m = np.where(valid, _array(row.depth_m)[0], np.nan)
    error_m = np.abs(prediction_m - depth_m)
    abs_rel = (error_m / depth_m)[valid].mean()
    _draw_map(axes[1], _thickened(depth_m), _depth_scale(depth_m), "ground truth [m]")
    _draw_map(axes[2], prediction_m, _depth_scale(depth_m), "prediction [m]", complete=True)
    worst = max(_percentile(error_m, 99, 0.0), 1e-3)
    _draw_map(axes[3], _thickened(error_m), Normalize(0.0, worst), f"error [m], abs_rel {abs_rel:.3f}")


def _depth_scale(depth_m: np.ndarray) -> LogNorm:
    positive = np.where(depth_m > 0, depth_m, np.nan)
    near, far = _percentile(positive, 1, 1.0), _percentile(positive, 99, 1.0)
    return LogNorm(near, max(far, 1.05 * near))  # a constant depth still needs a nonempty colour scale


def _percentile(values: np.ndarray, percent: float, otherwise: float) -> float:
    """Percentile of the finite values, where there are any."""
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, percent)) if finite.size else otherwise


def _draw_map(ax: Axes, values: np.ndarray, scale: Normalize, title: str, complete: bool = False) -> None:
    """Draw a map; values that are not finite are grey, and named in the title of one that should be complete."""
    is_depth = isinstance(scale, LogNorm)
    finite = np.isfinite(values)
    if complete and not finite.all():
        title = f"{title}, {1 - finite.mean():.0%} not finite"
    values = np.where(finite, values, np.nan)
    colormap = colormaps[DEPTH_COLORS if is_depth else ERROR_COLORS].with_extremes(bad=(NO_DEPTH_GREY,) * 3)
    drawn = ax.imshow(values, cmap=colormap, norm=scale, interpolation="nearest")
    ax.set_title(title, fontsize=9)
    if ax.figure is not None:
        # A logarithmic axis would only label powers of ten; between 2 m and 8 m there are none.
        ticks = scale.inverse(np.linspace(0, 1, 5)) if is_depth else None
        bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.035, pad=0.02, ticks=ticks, format="%.3g")
        bar.ax.tick_params(labelsize=7)
        bar.minorticks_off()


def _thickened(values: np.ndarray) -> np.ndarray:
    """Spread values to NaN neighbours, at most twice, while the map is sparse."""
    height, width = values.shape
    for _ in range(2):
        if np.isfinite(values).mean() >= _SPARSE_SHARE:
            break
        padded = np.pad(values, 1, constant_values=np.nan)
        for y, x in product(range(3), repeat=2):
            values = np.where(np.isnan(values), padded[y : y + height, x : x + width], values)
    return values


def _shortened(title: str) -> str:
    return title if len(title) <= _TITLE_LENGTH else f"...{title[3 - _TITLE_LENGTH :]}"


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()
