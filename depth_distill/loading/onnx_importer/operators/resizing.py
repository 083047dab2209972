"""Resize and Upsample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from depth_distill.loading.onnx_importer.builder import GraphBuilder, converts
from depth_distill.loading.onnx_importer.nodes import Node

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class _Resize:
    """Old and new size of each spatial dimension; ``scales`` where the file gives factors."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    scales: tuple[float, ...] | None

    def factors(self) -> tuple[float, ...] | None:
        """Factors that give ``after``, if the file gives them, or the sizes are multiples."""
        factors = self.scales
        if factors is None and all(new % old == 0 for old, new in zip(self.before, self.after, strict=True)):
            factors = tuple(new / old for old, new in zip(self.before, self.after, strict=True))
        if factors is None:
            return None
        fits = all(int(old * f) == new for old, f, new in zip(self.before, factors, self.after, strict=True))
        return factors if fits else None


@converts("Resize", "Upsample")
def resize(node: Node, build: GraphBuilder) -> fx.Node:
    """``F.interpolate`` in the mode of torch that gives the same values.

    Raises:
        ConfigError: torch has no such mode.
    """
    source = build.value(node)
    shape = build.shape(source)
    found = _sizes(node, build, shape)
    if found.before == found.after:
        return source
    mode = node.attributes.get("mode", "nearest")
    coordinates = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    if node.operator == "Upsample" or build.opset < 11:
        coordinates = "asymmetric"
    if mode == "nearest":
        rounding = node.attributes.get("nearest_mode", "round_prefer_floor")
        rounding = "floor" if node.operator == "Upsample" or build.opset < 11 else rounding
        for ours in ("nearest", "nearest-exact"):
            options = _options(found, ours)
            if options is not None and _same_pixels(found, ours, coordinates, rounding, build, node):
                return build.call(F.interpolate, source, **options)
        raise build.refusal(node, f"nearest with {coordinates} and {rounding} has no equal in torch")
    if mode not in ("linear", "cubic"):
        raise build.refusal(node, f"mode {mode!r}, expected nearest, linear or cubic")
    ours = _LINEAR[len(found.before)] if mode == "linear" else "bicubic"
    if mode == "cubic":
        if len(found.before) != 2:
            raise build.refusal(node, f"cubic with {len(found.before)} spatial dimensions, expected 2")
        coefficient = node.attributes.get("cubic_coeff_a", -0.75)
        is_antialiased = bool(node.attributes.get("antialias", 0))
        if bool(node.attributes.get("exclude_outside", 0)) != is_antialiased:
            raise build.refusal(node, "cubic with exclude_outside and without antialias has no equal in torch")
        if coefficient != (-0.5 if is_antialiased else -0.75):
            raise build.refusal(node, f"cubic with the coefficient {coefficient:g} has no equal in torch")
    if coordinates == "pytorch_half_pixel" and not any(
        new == 1 < old for old, new in zip(found.before, found.after, strict=True)
    ):
        coordinates = "half_pixel"
    if coordinates not in ("half_pixel", "align_corners"):
        raise build.refusal(node, f"{mode} with {coordinates} has no equal in torch")
    options = {**(_options(found, ours) or {}), "align_corners": coordinates == "align_corners"}
    if node.attributes.get("antialias", 0):
        if not node.attributes.get("exclude_outside", 0):
            raise build.refusal(node, "antialias without exclude_outside has no equal in torch")
        options["antialias"] = True
    return build.call(F.interpolate, source, **options)


@converts("GridSample")
def grid_sample(node: Node, build: GraphBuilder) -> fx.Node:
    """Sampling at given places."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.attributes.get("mode", "bilinear"))
    mode = mode or node.attributes.get("mode", "bilinear")
    padding = node.attributes.get("padding_mode", "zeros")
    corners = bool(node.attributes.get("align_corners", 0))
    return build.call(F.grid_sample, build.value(node), build.value(node, 1), mode, padding, corners)


def _sizes(node: Node, build: GraphBuilder, shape: Sequence[int]) -> _Resize:
    position = 1 if node.operator == "Upsample" or build.opset < 11 else 2
    scales = build.setting(node, position, "scales")
    sizes = build.constant(node, 3, "sizes") if build.has(node, 3) else None
    axes = [axis % len(shape) for axis in node.attributes.get("axes", range(len(shape)))]
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise build.refusal(node, f"keep_aspect_ratio_policy {node.attributes['keep_aspect_ratio_policy']!r}")
    factors, after = [1.0] * len(shape), list(shape)
    is_scaled = scales is not None and scales.size > 0
    for place, axis in enumerate(axes):
        if is_scaled and scales is not None:
            factors[axis] = float(scales[place])
            after[axis] = int(np.floor(np.float32(shape[axis]) * np.float32(scales[place])))
        elif sizes is not None:
            after[axis] = int(sizes[place])
    if list(after[:2]) != list(shape[:2]):
        raise build.refusal(node, f"it resizes {tuple(shape)} to {tuple(after)}, expected spatial dimensions only")
    if len(shape) not in (3, 4, 5):
        raise build.refusal(node, f"its input has {len(shape)} dimensions, expected 3 to 5")
    return _Resize(tuple(shape[2:]), tuple(after[2:]), tuple(factors[2:]) if is_scaled else None)


def _options(found: _Resize, mode: str) -> dict[str, object] | None:
    """Arguments of ``F.interpolate``: factors where the file has them, so that other sizes work as well."""
    factors = found.factors()
    if factors is not None:
        return {"scale_factor": factors[0] if len(set(factors)) == 1 else factors, "mode": mode}
    return {"size": found.after, "mode": mode}


def _same_pixels(found: _Resize, mode: str, coordinates: str, rounding: str, build: GraphBuilder, node: Node) -> bool:
    """Whether torch reads the same pixel for every new one, dimension by dimension."""
    factors = found.factors()
    for axis, (old, new) in enumerate(zip(found.before, found.after, strict=True)):
        line = torch.arange(old, dtype=torch.float32).view(1, 1, -1)
        ours = (
            F.interpolate(line, size=new, mode=mode)
            if factors is None
            else F.interpolate(line, scale_factor=factors[axis], mode=mode)
        )
        scale = np.float32(new / old if found.scales is None else found.scales[axis])
        theirs = _pixels(old, new, scale, coordinates, rounding)
        if theirs is None:
            raise build.refusal(node, f"nearest with {coordinates} and {rounding} is unknown")
        if not np.array_equal(ours.flatten().numpy(), theirs):
            return False
    return True


def _pixels(old: int, new: int, scale: np.float32, coordinates: str, rounding: str) -> np.ndarray | None:
    """The pixel that ONNX reads for each new one; None for a convention that is not known."""
    place: np.ndarray = np.arange(new, dtype=np.float32)
    original: np.ndarray
    if coordinates == "asymmetric":
        original = place / scale
    elif coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and new > 1):
        original = (place + np.float32(0.5)) / scale - np.float32(0.5)
    elif coordinates == "pytorch_half_pixel":
        original = place * 0
    elif coordinates == "half_pixel_symmetric":
        adjustment = new / (scale * old)
        original = old / 2 * (1 - adjustment) + (place + 0.5) / scale - 0.5
    elif coordinates == "align_corners":
        original = place * (old - 1) / (new - 1) if new > 1 else place * 0
    elif coordinates == "tf_half_pixel_for_nn":
        original = (place + np.float32(0.5)) / scale
    else:
        return None
    if rounding == "floor":
        chosen = np.floor(original)
    elif rounding == "ceil":
        chosen = np.ceil(original)
    elif rounding == "round_prefer_floor":
        chosen = np.ceil(original - 0.5)
    elif rounding == "round_prefer_ceil":
        chosen = np.floor(original + 0.5)
    else:
        return None
    return np.clip(chosen, 0, old - 1)
