"""Ray casting: the surface that each pixel sees, its exact depth, and whether the light reaches it.

Rays are ``origin + depth * direction`` with a direction of unit length *along the optical axis*, so that the ray
parameter is the depth itself. Directions are linear in the pixel coordinates; in the frame of a solid, scaled to half
extents of 1, each component is therefore the sum of a row term and a column term. Every solid is convex, so a ray
crosses it in one interval [near, far] of depths; boxes use the slab method (Kay and Kajiya, "Ray Tracing Complex
Scenes", 1986).
"""

from typing import NamedTuple

import numpy as np

from depth_distill.data.synthetic.scene import Camera, Kind, Scene

CURVED = 3
"""Value of ``Hits.axis`` on the curved side of a cylinder or ellipsoid."""
_CYLINDER, _ELLIPSOID = int(Kind.CYLINDER), int(Kind.ELLIPSOID)  # enum lookups are slow in the loops below
_NOT_ZERO = np.float32(1e-20)  # avoids 0 / 0 for rays along an axis, and changes no other float32
_CLOSEST_M = 0.05  # a point nearer to the camera plane cannot be projected safely


class Hits(NamedTuple):
    """The surface that each pixel sees; ``(H, W)`` arrays, directions ``(3, H, W)``."""

    depth_m: np.ndarray
    """float32 metres along the optical axis, at the pixel centre; ``inf`` for the sky."""
    solid: np.ndarray
    """Index into the solids, -1 for the shell."""
    axis: np.ndarray
    """0, 1, 2: the ray hit a face perpendicular to that axis of the solid (or shell); 3: a curved side."""
    directions: np.ndarray
    """float32 ray directions in the world, of length 1 along the optical axis."""


def pixel_grid(camera: Camera, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Camera-frame coordinates at depth 1 of the pixel centres: x of each column, y of each row (float64)."""
    pixel = 2 * camera.tan_half_hfov / width
    return (np.arange(width) - (width - 1) / 2) * pixel, ((height - 1) / 2 - np.arange(height)) * pixel


def cast(scene: Scene, height: int, width: int) -> Hits:
    """Find the first surface along the ray of each pixel."""
    camera, solids = scene.camera, scene.solids
    x, y = pixel_grid(camera, height, width)
    directions = np.add(*_ramps(camera.rotation, x, y))
    depth_m, axis = _shell_exit(scene, directions)
    solid = np.full((height, width), -1, np.int64)

    scaled_axes = solids.scaled_axes()
    origins = np.einsum("nij,nj->ni", scaled_axes, camera.position - solids.center).astype(np.float32)
    rows, columns = _ramps(scaled_axes @ camera.rotation, x, y)
    windows = screen_windows(camera, solids.corners(), height, width)
    for index in np.flatnonzero((windows[:, 1] > windows[:, 0]) & (windows[:, 3] > windows[:, 2])):
        top, bottom, left, right = windows[index].tolist()
        window = (slice(top, bottom), slice(left, right))
        local = rows[index, :, top:bottom] + columns[index, :, :, left:right]
        kind = int(solids.kind[index])
        entries, far = _crossing(kind, origins[index, :, None, None], local)
        near, face = _latest(kind, entries)
        seen = near < far
        seen &= near > 0
        seen &= near < depth_m[window]
        np.copyto(depth_m[window], near, where=seen)
        np.copyto(axis[window], face, where=seen)
        np.copyto(solid[window], index, where=seen)
    return Hits(depth_m, solid, axis, directions)


def lit(scene: Scene, hits: Hits, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """``(H, W)`` float32: 1 where the light reaches the surface, 0 in a cast shadow.

    A solid does not shade itself here; its far side is dark because it faces away from the light.

    Args:
        scene: the scene.
        hits: surfaces seen by the pixels, from ``cast``.
        points: ``(3, H, W)`` float32, the visible points in metres.
        normals: ``(3, H, W)`` float32, their unit normals.
    """
    height, width = hits.depth_m.shape
    light, solids = np.array(scene.light.position), scene.solids
    lifted = points + normals * np.float32(0.01)  # 1 cm above the surface, so that solids touching it do not shadow it
    shadow = np.zeros((height, width), bool)
    windows = screen_windows(scene.camera, _shadow_hull(scene, light), height, width)
    scaled_axes = solids.scaled_axes()
    centers = np.einsum("nij,nj->ni", scaled_axes, solids.center).astype(np.float32)
    lights = (scaled_axes @ light).astype(np.float32) - centers
    scaled_axes = scaled_axes.astype(np.float32)
    in_view = (windows[:, 1] > windows[:, 0]) & (windows[:, 3] > windows[:, 2])
    for index in np.flatnonzero(in_view & solids.shadow):
        top, bottom, left, right = windows[index].tolist()
        window = (slice(top, bottom), slice(left, right))
        starts = scaled_axes[index] @ lifted[:, top:bottom, left:right].reshape(3, -1)
        starts -= centers[index, :, None]
        entries, far = _crossing(int(solids.kind[index]), starts, lights[index, :, None] - starts)
        near = entries.max(0)
        blocked = near < far
        blocked &= near < 1
        blocked &= far > 0
        blocked &= (hits.solid[window] != index).reshape(-1)
        shadow[window] |= blocked.reshape(bottom - top, right - left)
    return np.subtract(1, shadow, dtype=np.float32)


def screen_windows(camera: Camera, points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel windows ``(n, 4)`` (top, bottom, left, right; half open) that contain the hulls of ``(n, p, 3)`` points.

    Empty (bottom <= top or right <= left) for solids behind the camera or outside the image.
    """
    seen = (points - camera.position) @ camera.rotation
    depth = seen[..., 2]
    ahead = depth > _CLOSEST_M
    scale = width / (2 * camera.tan_half_hfov) / np.maximum(depth, _CLOSEST_M)
    column, row = seen[..., 0] * scale + (width - 1) / 2, (height - 1) / 2 - seen[..., 1] * scale
    windows = np.stack([row.min(1), row.max(1), column.min(1), column.max(1)], 1)
    limits = np.array([height, height, width, width], np.float64)
    windows = np.clip(np.floor(windows) + (0, 1, 0, 1), 0, limits)
    some, every = ahead.any(1), ahead.all(1)
    windows[some & ~every] = (0, height, 0, width)  # it reaches behind the camera plane: anything may be in view
    windows[~some] = 0
    return windows.astype(np.int64)


def _shadow_hull(scene: Scene, light: np.ndarray) -> np.ndarray:
    """Corners of the solids, and where light rays through them leave the shell (at most 30 m further on)."""
    corners = scene.solids.corners()
    away = corners - light
    with np.errstate(divide="ignore", invalid="ignore"):
        exits = np.fmax((scene.low - corners) / away, (scene.high - corners) / away).min(-1)
    reach = np.clip(exits, 0, 30 / np.linalg.norm(away, axis=-1))
    return np.concatenate([corners, corners + away * reach[..., None]], axis=1)


def _ramps(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``weights @ (x, y, 1)`` at every pixel as a sum of rows ``(..., 3, H, 1)`` and columns ``(..., 3, 1, W)``."""
    rows = weights[..., 1, None] * y + weights[..., 2, None]
    columns = weights[..., 0, None] * x
    return rows[..., None].astype(np.float32), columns[..., None, :].astype(np.float32)


def _shell_exit(scene: Scene, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth at which each ray leaves the shell (``inf`` through an open side), and the axis it leaves across."""
    below = (scene.low - scene.camera.position).astype(np.float32)[:, None, None]
    above = (scene.high - scene.camera.position).astype(np.float32)[:, None, None]
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / directions
        exits = np.maximum(below * inverse, above * inverse)
    depth_m = np.minimum(exits[0], exits[1])
    axis = (exits[1] < exits[0]).astype(np.int64)
    np.copyto(axis, 2, where=exits[2] < depth_m)
    return np.minimum(depth_m, exits[2], out=depth_m), axis


def _crossing(kind: int, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave a unit solid, which is an intersection of slabs or round intervals.

    Args:
        kind: shape of the solid, a ``Kind``.
        origin: ``(3, ...)`` in the frame of the solid, scaled to half extents of 1.
        direction: ``(3, ...)`` in the same frame.

    Returns:
        Ray parameters ``(k, ...)`` of the entries into the k intervals, and ``(...)`` of the first exit. The solid is
        hit where the last entry comes before the first exit.
    """
    if kind == _ELLIPSOID:
        near, far = _round_interval(origin, direction)
        return near[None], far
    if kind == _CYLINDER:
        entries, exits = _slabs(origin[1], direction[1])
        near, far = _round_interval(origin[::2], direction[::2])
        return np.stack([entries, near]), np.minimum(far, exits, out=far)
    entries, exits = _slabs(origin, direction)
    return entries, exits.min(0)


def _latest(kind: int, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray | int]:
    """The last of the entries from ``_crossing``, and the axis of its face."""
    if kind == _ELLIPSOID:
        return entries[0], CURVED
    near = np.maximum(entries[0], entries[1])
    if kind == _CYLINDER:
        return near, np.where(entries[1] > entries[0], CURVED, 1)
    face = (entries[1] > entries[0]).astype(np.int64)
    np.copyto(face, 2, where=entries[2] > near)
    return np.maximum(near, entries[2], out=near), face


def _slabs(origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval in which a ray lies between -1 and 1 along each axis."""
    inverse = 1 / (direction + _NOT_ZERO)
    middle = origin * inverse
    np.abs(inverse, out=inverse)
    exits = inverse - middle
    middle += inverse
    return np.negative(middle, out=middle), exits


def _round_interval(origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval in which a ray lies inside the unit circle or sphere.

    The distance of the ray from the centre is computed at its closest point, which keeps float32 accurate enough for
    small distant solids (Haines et al., "Precision Improvements for Ray/Sphere Intersection", Ray Tracing Gems, 2019,
    ch. 7).
    """
    square = (direction * direction).sum(0)
    square += _NOT_ZERO
    closest = (origin * direction).sum(0)
    closest /= square
    np.negative(closest, out=closest)
    offset = closest * direction
    offset += origin
    offset *= offset
    room = 1 - offset.sum(0)
    np.maximum(room, 0, out=room)  # a miss becomes an empty interval
    room /= square
    np.sqrt(room, out=room)
    return closest - room, closest + room
