"""Ray casting: which surface each pixel sees, at which exact depth, and whether the light reaches it.

Rays are written as ``origin + depth * direction`` with a direction of unit length *along the optical axis*, so that the
ray parameter is the depth itself. Directions are linear in the pixel coordinates; in the frame of a solid, scaled to
half extents of 1, each component is therefore the sum of a row and a column. Every solid is convex and crossed in one
interval [near, far] of depths; boxes by the slab method (Kay and Kajiya, "Ray Tracing Complex Scenes", 1986).
"""

from typing import NamedTuple

import numpy as np

from depth_distill.data.synthetic.scene import Camera, Kind, Scene

CURVED = 3
"""Value of ``Hits.axis`` on the curved side of a cylinder or ellipsoid."""
_CLOSEST_M = 0.05  # a point nearer to the camera plane cannot be projected safely


class Hits(NamedTuple):
    """What each pixel sees; ``(H, W)`` arrays, directions ``(3, H, W)``."""

    depth_m: np.ndarray
    """float32 metres along the optical axis, at the pixel centre; ``inf`` for the sky."""
    solid: np.ndarray
    """Index into the solids, -1 for the shell."""
    axis: np.ndarray
    """0, 1, 2: the face across that axis of the solid (or shell) was hit; 3: a curved side."""
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
    directions = np.stack([_ramp(camera.rotation[k], x, y) for k in range(3)])
    depth_m, axis = _shell_exit(scene, directions)
    solid = np.full((height, width), -1, np.int64)

    scaled_axes = solids.axes() / solids.half[:, :, None]  # (n, 3, 3): world to unit solid
    origins = np.einsum("nij,nj->ni", scaled_axes, camera.position - solids.center)
    ramps = scaled_axes @ camera.rotation
    windows = screen_windows(camera, solids.corners(), height, width)
    for index in np.flatnonzero((windows[:, 1] > windows[:, 0]) & (windows[:, 3] > windows[:, 2])):
        top, bottom, left, right = windows[index].tolist()
        window = (slice(top, bottom), slice(left, right))
        local = [_ramp(ramps[index, k], x[left:right], y[top:bottom]) for k in range(3)]
        near, far, face = _crossing(Kind(solids.kind[index]), origins[index].astype(np.float32), local)
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
        hits: what the pixels see.
        points: ``(3, H, W)`` float32 the points seen.
        normals: ``(3, H, W)`` float32 unit normals.
    """
    height, width = hits.depth_m.shape
    light, solids = np.array(scene.light.position), scene.solids
    lifted = points + normals * np.float32(0.01)  # 1 cm clear of the surface that touches the solid
    shadow = np.zeros((height, width), bool)
    corners = solids.corners()
    windows = screen_windows(scene.camera, _shadow_hull(scene, corners, light), height, width)
    scaled_axes = solids.axes() / solids.half[:, :, None]
    to_origin = np.einsum("nij,nj->ni", scaled_axes, solids.center)
    to_light = scaled_axes @ light
    for index in np.flatnonzero((windows[:, 1] > windows[:, 0]) & (windows[:, 3] > windows[:, 2])):
        top, bottom, left, right = windows[index].tolist()
        window = (slice(top, bottom), slice(left, right))
        local = [_dot(scaled_axes[index, k], lifted[(slice(None), *window)]) for k in range(3)]
        ends = [np.float32(to_light[index, k]) - local[k] for k in range(3)]
        starts = [local[k] - np.float32(to_origin[index, k]) for k in range(3)]
        near, far, _ = _crossing(Kind(solids.kind[index]), starts, ends)
        blocked = near < far
        blocked &= near < 1
        blocked &= far > 0
        blocked &= hits.solid[window] != index
        shadow[window] |= blocked
    return np.subtract(1, shadow, dtype=np.float32)


def screen_windows(camera: Camera, points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel windows ``(n, 4)`` (top, bottom, left, right; half open) that contain the hulls of ``(n, p, 3)`` points.

    Empty (bottom <= top or right <= left) for what lies behind the camera or outside the image.
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


def _shadow_hull(scene: Scene, corners: np.ndarray, light: np.ndarray) -> np.ndarray:
    """The solids' corners and where the light through them leaves the shell (at most 30 m on)."""
    away = corners - light
    with np.errstate(divide="ignore", invalid="ignore"):
        exits = np.fmax((scene.low - corners) / away, (scene.high - corners) / away).min(-1)
    longest = 30 / np.linalg.norm(away, axis=-1)
    reach = np.clip(exits, 0, longest)
    return np.concatenate([corners, corners + away * reach[..., None]], axis=1)


def _ramp(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``weights . (x, y, 1)`` at every pixel of the window."""
    return np.add.outer((weights[1] * y + weights[2]).astype(np.float32), (weights[0] * x).astype(np.float32))


def _dot(weights: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    a, b, c = weights.astype(np.float32)
    total = a * vectors[0]
    if b:
        total += b * vectors[1]
    if c:
        total += c * vectors[2]
    return total


def _shell_exit(scene: Scene, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth at which each ray leaves the shell (``inf`` through an open side), and the axis it leaves across."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / directions
        below = (scene.low - scene.camera.position).astype(np.float32)[:, None, None]
        above = (scene.high - scene.camera.position).astype(np.float32)[:, None, None]
        exits = np.maximum(below * inverse, above * inverse)
    depth_m = np.minimum(exits[0], exits[1])
    axis = (exits[1] < exits[0]).astype(np.int64)
    np.copyto(axis, 2, where=exits[2] < depth_m)
    return np.minimum(depth_m, exits[2], out=depth_m), axis


def _crossing(
    kind: Kind, origin: np.ndarray | list[np.ndarray], direction: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | int]:
    """Ray parameters where a unit solid is entered and left (entered >= left: missed), and the axis of the entry."""
    if kind == Kind.ELLIPSOID:
        near, far = _round_interval(origin, direction)
        return near, far, CURVED
    near, far = _slab(origin[1], direction[1])
    if kind == Kind.CYLINDER:
        near_side, far_side = _round_interval(origin[::2], direction[::2])
        face = np.where(near_side > near, CURVED, 1)
        return np.maximum(near, near_side, out=near), np.minimum(far, far_side, out=far), face
    near_x, far_x = _slab(origin[0], direction[0])
    near_z, far_z = _slab(origin[2], direction[2])
    face = (near > near_x).astype(np.int64)
    np.maximum(near, near_x, out=near)
    np.copyto(face, 2, where=near_z > near)
    np.maximum(near, near_z, out=near)
    np.minimum(far, far_x, out=far)
    return near, np.minimum(far, far_z, out=far), face


def _slab(origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a ray is between -1 and 1 along one axis."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / direction
        middle = origin * inverse
        np.abs(inverse, out=inverse)
        far = inverse - middle
        middle += inverse
    return np.negative(middle, out=middle), far


def _round_interval(
    origin: np.ndarray | list[np.ndarray], direction: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Where a ray is inside the unit circle or sphere.

    The distance of the ray from the centre is taken at its closest point, which keeps float32 exact enough for small
    far solids (Haines et al., "Precision Improvements for Ray/Sphere Intersection", Ray Tracing Gems, 2019, ch. 7).
    """
    square = direction[0] * direction[0]
    along = origin[0] * direction[0]
    for o, d in zip(origin[1:], direction[1:], strict=True):
        square += d * d
        along += o * d
    closest = np.divide(along, square, out=along)
    np.negative(closest, out=closest)
    room = np.ones_like(square)
    for o, d in zip(origin, direction, strict=True):
        offset = closest * d
        offset += o
        offset *= offset
        room -= offset
    missed = room <= 0
    room[missed] = 0
    half = np.sqrt(np.divide(room, square, out=room), out=room)
    return closest - half, closest + half
