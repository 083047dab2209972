"""Shade the visible surfaces into an image: surface patterns, light, haze and the sensor.

Each visible point is shaded once. Patterns are filtered by the width of a pixel on the surface (a box filter across
joints and cell edges; noise fades out), so they neither alias nor change their mean with distance.
"""

import numpy as np

from depth_distill.data.synthetic.render import CURVED, Hits, lit, pixel_grid
from depth_distill.data.synthetic.scene import Kind, Light, Scene, Sensor

_FARTHEST_M = np.float32(400)  # distance of the sky, for haze
_CORNER_M = 0.25  # reach of the darkening in corners
_CORNER_SHADE = 0.4  # ambient light lost in a corner of two faces
_TABLE_BITS = 6
_LATTICE = np.random.default_rng(20240229).uniform(-1, 1, 4096).astype(np.float32)  # 64 x 64, repeats after 64 cells
_WALLS, _FLOOR, _CEILING, _FIRST_SOLID = range(4)


def shade(scene: Scene, hits: Hits, noise: np.random.Generator) -> np.ndarray:
    """Render the image of a scene.

    Args:
        scene: the scene.
        hits: surfaces seen by the pixels, from ``cast``.
        noise: source of the sensor noise.

    Returns:
        ``(3, H, W)`` uint8 RGB.
    """
    shape = hits.depth_m.shape
    depth_m = np.minimum(hits.depth_m, _FARTHEST_M)
    origin = scene.camera.position.astype(np.float32)[:, None, None]
    points = hits.directions * depth_m
    points += origin
    surface_uv, normals = _surface(scene, hits, points)

    to_light = np.array(scene.light.position, np.float32)[:, None, None] - points
    squared = np.einsum("khw,khw->hw", to_light, to_light)
    facing = np.einsum("khw,khw->hw", normals, to_light)
    facing /= np.sqrt(squared)
    np.maximum(facing, 0, out=facing)
    facing *= lit(scene, hits, points, normals)
    facing /= 1 + squared / np.float32(scene.light.falloff_m**2)

    lengths = np.sqrt(np.einsum("khw,khw->hw", hits.directions, hits.directions))
    grazing = np.abs(np.einsum("khw,khw->hw", hits.directions, normals)) / lengths
    pixel_rad = 2 * scene.camera.tan_half_hfov / shape[1]
    # A pixel covers 1 / cos more along the slope than across it: use the geometric mean of both.
    pixel_m = depth_m * np.float32(pixel_rad) / np.sqrt(np.maximum(grazing, 0.02))
    color, glow = _albedo(scene, hits, surface_uv, pixel_m)

    ambient = _open_sky(scene, hits, points, normals)
    light = np.array(scene.light.ambient, np.float32)[:, None, None] * ambient
    light += np.array(scene.light.color, np.float32)[:, None, None] * facing
    light += glow
    color *= light
    _add_sky(color, scene.light, hits, depth_m, lengths)
    return _expose(color, scene, noise)


def _surface(scene: Scene, hits: Hits, points: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Surface coordinates in metres and unit normals (world) of the visible points."""
    solids = scene.solids
    # Row -1 (the last) is the shell: at the origin, not turned.
    frame = np.zeros((5, len(solids.yaw) + 1), np.float32)
    frame[:3, :-1], frame[3, :-1], frame[4, :-1] = solids.center.T, np.cos(solids.yaw), np.sin(solids.yaw)
    frame[3, -1] = 1
    cx, cy, cz, cos, sin = frame[:, hits.solid]
    px, py, pz = points[0] - cx, points[1] - cy, points[2] - cz
    lx, lz = cos * px - sin * pz, sin * px + cos * pz
    across_x, across_y, across_z = (hits.axis == k for k in range(3))
    u = np.where(across_x, lz, lx)
    v = np.where(across_y, lz, py)

    dx, dy, dz = hits.directions
    nx = np.where(across_x, -np.sign(cos * dx - sin * dz), np.float32(0))  # faces always face the camera
    ny = np.where(across_y, -np.sign(dy), np.float32(0))
    nz = np.where(across_z, -np.sign(sin * dx + cos * dz), np.float32(0))
    curved = np.nonzero(hits.axis == CURVED)
    if len(curved[0]):
        index = hits.solid[curved]
        half = solids.half.astype(np.float32)[index]
        local = np.stack([lx[curved], py[curved], lz[curved]], 1) / half
        u[curved] = np.arctan2(local[:, 0], local[:, 2]) * half[:, 0]
        local[:, 1] *= solids.kind[index] == Kind.ELLIPSOID
        local /= half
        local /= np.linalg.norm(local, axis=1, keepdims=True)
        nx[curved], ny[curved], nz[curved] = local.T
    return (u, v), np.stack([cos * nx + sin * nz, ny, cos * nz - sin * nx])


def _albedo(
    scene: Scene, hits: Hits, surface_uv: tuple[np.ndarray, np.ndarray], pixel_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colours ``(3, H, W)`` of the visible points, and the light that each emits."""
    material = hits.solid + _FIRST_SOLID
    on_shell = hits.solid < 0
    horizontal = on_shell & (hits.axis == 1)
    material[on_shell] = _WALLS
    material[horizontal] = np.where(hits.directions[1][horizontal] < 0, _FLOOR, _CEILING)
    values = np.take(scene.materials, material, axis=1)
    color, second = values[:3], values[3:6]
    cell_u, cell_v, row_shift, joint, joint_shade, checker, tint, noise, noise_m, glow = values[6:]

    u, v = surface_uv[0] / cell_u, surface_uv[1] / cell_v
    u += 0.5  # a cell is centred on the middle of its face
    v += 0.5
    row = np.floor(v)
    u += row * row_shift
    column = np.floor(u)
    v -= row
    u -= column
    # Distance to the nearest edge of the cell, in metres.
    edge = np.minimum((0.5 - np.abs(u - 0.5)) * cell_u, (0.5 - np.abs(v - 0.5)) * cell_v)
    inside = np.minimum(2 * edge / pixel_m, 1)  # box filter: at an edge, half of the pixel is the next cell
    key = column.astype(np.int32) * 37 + row.astype(np.int32) * 101 + (material * 53).astype(np.int32)
    shade = tint * inside
    shade *= _LATTICE[key & (len(_LATTICE) - 1)]
    shade += 1
    flicker = _value_noise(surface_uv, noise_m)
    flicker *= np.clip(1.5 - pixel_m / noise_m, 0, 1)
    flicker *= noise
    shade += flicker
    covered = (joint + pixel_m) * 0.5 - edge
    covered /= pixel_m
    np.clip(covered, 0, np.minimum(joint / pixel_m, 1), out=covered)
    covered *= joint_shade - 1
    covered += 1
    shade *= covered

    parity = ((column + row).astype(np.int32) & 1).astype(np.float32) - 0.5
    mix = (parity * inside + 0.5) * checker
    color += (second - color) * mix
    color *= np.maximum(shade, 0.05)
    return color, glow


def _value_noise(surface_uv: tuple[np.ndarray, np.ndarray], lattice_m: np.ndarray) -> np.ndarray:
    """Smoothly interpolated random numbers on a square lattice, in [-1, 1]."""
    u, v = surface_uv[0] / lattice_m, surface_uv[1] / lattice_m
    column, row = np.floor(u), np.floor(v)
    u -= column
    v -= row
    u *= u * (3 - 2 * u)
    v *= v * (3 - 2 * v)
    mask = (1 << _TABLE_BITS) - 1
    left, low = column.astype(np.int32), row.astype(np.int32)
    right, high = (left + 1) & mask, ((low + 1) & mask) << _TABLE_BITS
    left &= mask
    low = (low & mask) << _TABLE_BITS
    bottom = _LATTICE[low + left]
    bottom += (_LATTICE[low + right] - bottom) * u
    top = _LATTICE[high + left]
    top += (_LATTICE[high + right] - top) * u
    top -= bottom
    top *= v
    top += bottom
    return top


def _open_sky(scene: Scene, hits: Hits, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Share of the ambient light that reaches each point: less in corners and near the ground, more from above."""
    # Ambient light varies slightly with direction, so that the faces of a box differ even in shadow.
    ambient = 0.85 + 0.1 * normals[1] + 0.08 * normals[0] + 0.05 * normals[2]
    for k in range(3):
        sides = [side for side in (scene.low[k], scene.high[k]) if np.isfinite(side)]
        if not sides:
            continue
        distance = np.abs(points[k] - np.float32(sides[0]))
        if len(sides) > 1:
            np.minimum(distance, np.abs(points[k] - np.float32(sides[1])), out=distance)
        distance *= np.float32(1 / _CORNER_M)
        distance += 1
        shade = np.float32(_CORNER_SHADE) / (distance * distance)
        shade[(hits.axis == k) & (hits.solid < 0)] = 0  # a wall does not darken itself
        ambient *= 1 - shade
    return ambient


def _add_sky(color: np.ndarray, light: Light, hits: Hits, depth_m: np.ndarray, lengths: np.ndarray) -> None:
    """Add haze and the sky, which is bright at the horizon and has its own colour overhead; in place."""
    sky = np.array(light.sky, np.float32)[:, None, None]
    if np.isfinite(light.haze_m):
        haze = 1 - np.exp(depth_m * np.float32(-1 / light.haze_m))
        color += (sky - color) * haze
    open_side = np.nonzero(np.isinf(hits.depth_m))
    if len(open_side[0]):
        height = np.abs(hits.directions[1][open_side]) / lengths[open_side]
        whiteness = np.maximum(0.5 - height, 0)
        color[:, open_side[0], open_side[1]] = sky[:, :, 0] + (sky.max() * 1.1 - sky[:, :, 0]) * whiteness


def _expose(color: np.ndarray, scene: Scene, noise: np.random.Generator) -> np.ndarray:
    """Apply exposure, white balance, vignetting, a slight lens blur, gamma 2 and noise; convert to 8 bits."""
    sensor: Sensor = scene.sensor
    height, width = color.shape[1:]
    gain = sensor.exposure / max(float(color.mean()), 1e-3)
    color *= (np.array(sensor.white_balance, np.float32) * np.float32(gain))[:, None, None]
    x, y = pixel_grid(scene.camera, height, width)
    loss = sensor.vignette / (x[-1] ** 2 + y[0] ** 2)
    color *= np.add.outer((1 - loss * y * y).astype(np.float32), (-loss * x * x).astype(np.float32))
    np.clip(color, 0, 1, out=color)
    _blur(color)
    np.sqrt(color, out=color)
    color += noise.standard_normal(color.shape, dtype=np.float32) * np.float32(sensor.noise)
    color *= 255
    color += 0.5
    return np.clip(color, 0, 255, out=color).astype(np.uint8)


def _blur(image: np.ndarray) -> None:
    """A 1-6-1 blur along both axes, in place: softens edges, which are sampled only once per pixel."""
    for axis in (1, 2):
        rows = np.moveaxis(image, axis, 0)
        blurred = (rows[:-2] + rows[2:]) * np.float32(0.125) + rows[1:-1] * np.float32(0.75)
        rows[1:-1] = blurred
