"""Scenes that are simple enough to be worked out by hand."""

import math

import numpy as np

from depth_distill.data.synthetic.scene import Camera, Light, Material, Part, Scene, Sensor, build_scene

GREY = Material((0.5, 0.5, 0.5))
OPEN = (math.inf, math.inf, math.inf)
LAMP = Light((0.0, 9.0, 0.0), (1.0, 1.0, 1.0), math.inf, (0.1, 0.1, 0.1), (0.5, 0.6, 0.7))


def level_camera(height_m: float = 1.5, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Camera:
    """A camera above the origin with a horizontal field of view of 90 degrees."""
    return Camera.aimed((0.0, height_m, 0.0), yaw, pitch, roll, 1.0)


def scene_of(
    parts: list[Part],
    camera: Camera | None = None,
    low: tuple[float, float, float] = (-math.inf, 0.0, -math.inf),
    high: tuple[float, float, float] = OPEN,
    light: Light = LAMP,
    shell: tuple[Material, Material, Material] = (GREY, GREY, GREY),
) -> Scene:
    """On open ground unless the bounds of a shell are given."""
    return build_scene(camera or level_camera(), low, high, shell, parts, light, Sensor())


def rays(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y at depth 1 of the pixel centres of ``level_camera``, each ``(H, W)``, in float64."""
    pixel = 2 / width
    y, x = np.mgrid[:height, :width]
    return (x - (width - 1) / 2) * pixel, ((height - 1) / 2 - y) * pixel
