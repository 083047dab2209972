"""Rewrites of Resize, down to the Upsample of opset 9."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from depth_distill.export.onnx_io.onnx_graph import attributes
from depth_distill.export.onnx_io.opsets.rewriting import (
    InexpressibleError,
    Parts,
    Rewriting,
    changed,
    input_or_none,
    only,
)

_PASS = "put the pass nearest_upsampling into the recipe, or resize by whole factors"
_COORDINATES: dict[str, Callable[[np.ndarray, float, int], np.ndarray]] = {
    # Position in the input of each position in the output, by the factor and the size before.
    "half_pixel": lambda i, factor, size: (i + 0.5) / factor - 0.5,
    "half_pixel_symmetric": lambda i, factor, size: (i + 0.5) / factor - 0.5,
    "pytorch_half_pixel": lambda i, factor, size: (i + 0.5) / factor - 0.5 if len(i) > 1 else i * 0.0,
    "asymmetric": lambda i, factor, size: i / factor,
    "align_corners": lambda i, factor, size: i * (size - 1) / max(len(i) - 1, 1),
}
_ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def without_symmetric_centres(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """half_pixel_symmetric is half_pixel where the factor gives a whole size."""
    if _attribute(node, "coordinate_transformation_mode", "half_pixel") != "half_pixel_symmetric":
        return [node]
    scales = input_or_none(node, 2)
    if scales is not None:
        before, after, axes = at.shape(node.input[0]), at.shape(node.output[0]), attributes(node).get("axes")
        exact = np.array([before[axis] for axis in axes] if axes else before) * at.constant(scales)
        if not np.array_equal(exact, [after[axis] for axis in axes] if axes else after):
            raise InexpressibleError("coordinate_transformation_mode is half_pixel_symmetric", "use half_pixel")
    return changed(node, coordinate_transformation_mode="half_pixel")


def of_all_axes(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Resize had no antialiasing, and took scales or sizes of all axes."""
    only(node, "antialias", 0, "resize without antialiasing")
    only(node, "keep_aspect_ratio_policy", "stretch", "give the size that results")
    axes = attributes(node).get("axes")
    (node,) = changed(node, drop=["antialias", "keep_aspect_ratio_policy", "axes"])
    if axes is None:
        return [node]
    shape = at.shape(node.input[0])
    inputs = list(node.input)
    for position, defaults in ((2, np.ones(len(shape), np.float32)), (3, np.array(shape, np.int64))):
        name = input_or_none(node, position)
        if name is not None:
            defaults[list(axes)] = at.constant(name)
            inputs[position] = at.store(node, "scales" if position == 2 else "sizes", defaults)
    return changed(node, inputs=inputs)


def with_all_inputs(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Region and scales had to be given, as empty tensors where they say nothing."""
    x, roi, scales, sizes = (input_or_none(node, position) for position in range(4))
    empty = np.empty(0, np.float32)
    inputs = [x or "", roi or at.store(node, "roi", empty), scales or at.store(node, "scales", empty), sizes or ""]
    return changed(node, inputs=inputs)


def of_scales(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Resize took scales only, and counted pixels from the corner: asymmetric, rounded down.

    Bilinear upsampling by whole factors with half-pixel centres is the nearest one, filtered by the mean over one
    input pixel, at edges that repeat.
    """
    before, after = at.shape(node.input[0]), at.shape(node.output[0])
    mode = _attribute(node, "mode", "nearest")
    coordinates = _attribute(node, "coordinate_transformation_mode", "half_pixel")
    if mode == "cubic" or coordinates not in _COORDINATES:
        raise InexpressibleError(f"it is {mode} with {coordinates} coordinates", _PASS)
    changing = [axis for axis in range(len(before)) if before[axis] != after[axis]]
    scales = _scales(node, at, before, after)
    at_corner, wanted = (
        [_COORDINATES[name](np.arange(after[axis]), float(scales[axis]), before[axis]) for axis in changing]
        for name in ("asymmetric", coordinates)
    )
    if mode == "nearest":
        rounded = _ROUNDING[_attribute(node, "nearest_mode", "round_prefer_floor")]
        pairs = zip(at_corner, wanted, changing, strict=True)
        if not all(_same_pixels(corner, rounded(given), before[axis]) for corner, given, axis in pairs):
            raise InexpressibleError(f"it picks other pixels than asymmetric ones (it is {coordinates})", _PASS)
        return _simple(node, at, scales, "nearest")
    if all(np.allclose(corner, given) for corner, given in zip(at_corner, wanted, strict=True)):
        return _simple(node, at, scales, "linear")
    factors = [float(each) for each in scales[2:]] if len(before) == 4 else []
    if not (set(changing) <= {2, 3} and all(each.is_integer() for each in factors)) or "half" not in coordinates:
        raise InexpressibleError(f"it is bilinear with {coordinates} coordinates", _PASS)
    return _filtered(node, at, scales)


def as_upsample(node: onnx.NodeProto, at: Rewriting) -> Sequence[onnx.NodeProto]:
    """Resize was called Upsample, and made nothing smaller."""
    if (at.constant(node.input[1]) < 1).any():
        raise InexpressibleError("it makes a map smaller", "use a strided convolution or a pooling")
    return changed(node, op="Upsample")


def _attribute(node: onnx.NodeProto, name: str, default: str) -> str:
    value = attributes(node).get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _same_pixels(corner: np.ndarray, wanted: np.ndarray, size: int) -> bool:
    # Runtimes disagree on what a nearest pixel is when a map becomes smaller, unless the positions are whole.
    is_smaller = len(corner) < size
    if is_smaller and not np.array_equal(corner, np.floor(corner)):
        return False
    return np.array_equal(np.floor(corner), np.clip(wanted, 0, size - 1))


def _scales(node: onnx.NodeProto, at: Rewriting, before: Sequence[int], after: Sequence[int]) -> np.ndarray:
    name = input_or_none(node, 2)
    if name is not None and at.constant(name).size:
        return at.constant(name).astype(np.float32)
    scales = np.array(after, np.float32) / np.array(before, np.float32)
    # Sizes are rounded down: a scale that is a little too small would lose a pixel.
    short = np.floor(np.array(before, np.float32) * scales) < np.array(after)
    return np.where(short, np.nextafter(scales, np.float32(np.inf)), scales).astype(np.float32)


def _simple(node: onnx.NodeProto, at: Rewriting, scales: np.ndarray, mode: str) -> list[onnx.NodeProto]:
    return Parts(node, at).result("Resize", node.input[0], at.store(node, "scales", scales), mode=mode)


def _filtered(node: onnx.NodeProto, at: Rewriting, scales: np.ndarray) -> list[onnx.NodeProto]:
    parts, (x, *_) = Parts(node, at), node.input
    channels, (height, width) = at.shape(x)[1], (int(each) for each in scales[2:])
    nearest = parts.apply("Resize", x, at.store(node, "scales", scales), mode="nearest")
    padded = parts.apply("Pad", nearest, mode="edge", pads=[0, 0, height // 2, width // 2] * 2)
    mean = np.outer(_mean_of(height), _mean_of(width))
    weight = at.store(node, "weight", np.broadcast_to(mean, (channels, 1, *mean.shape)).astype(at.dtype(x)))
    return parts.result("Conv", padded, weight, group=channels, kernel_shape=mean.shape)


def _mean_of(factor: int) -> np.ndarray:
    """Weights of the mean over ``factor`` pixels around a pixel; of an even number, the outer two count half."""
    weights = np.ones(factor // 2 * 2 + 1)
    if factor % 2 == 0:
        weights[[0, -1]] = 0.5
    return weights / factor
