"""The parts of a scene: a camera, a shell (the room or the ground), solids inside it, materials and light.

World axes: x right, y up, z ahead, in metres; the ground is ``y = 0``. Camera axes: x right, y up, z along the optical
axis. A positive pitch looks down.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

Color = tuple[float, float, float]
Vector = tuple[float, float, float]


class Kind(IntEnum):
    """Shape of a solid, inscribed in the box given by its half extents (cylinders stand upright)."""

    BOX = 0
    CYLINDER = 1
    ELLIPSOID = 2


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels and the principal point in the image centre."""

    position: np.ndarray
    """``(3,)`` metres, world."""
    rotation: np.ndarray
    """``(3, 3)``: camera axes to world axes."""
    tan_half_hfov: float
    """Tangent of half the horizontal field of view."""

    @classmethod
    def aimed(cls, position: Vector, yaw: float, pitch: float, roll: float, tan_half_hfov: float) -> "Camera":
        """A camera turned by ``yaw`` to the right, then ``pitch`` down, then ``roll``, in radians."""
        (cy, cp, cr), (sy, sp, sr) = np.cos((yaw, pitch, roll)), np.sin((yaw, pitch, roll))
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        bank = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return cls(np.array(position, np.float64), turn @ tilt @ bank, tan_half_hfov)


@dataclass(frozen=True)
class Material:
    """A surface: a regular pattern of cells with joints between them, plus value noise; sizes in metres.

    Tiles, bricks, planks, checkers and stripes are the same pattern with different parameters.
    """

    color: Color
    """Linear RGB albedo."""
    second: Color = (0.5, 0.5, 0.5)
    """Albedo of every other cell, mixed in by ``checker``."""
    cell_u_m: float = 1e3
    cell_v_m: float = 1e3
    row_shift: float = 0.0
    """Shift of each row of cells against the previous one, in cells."""
    joint_m: float = 0.0
    """Width of the joints."""
    joint_shade: float = 1.0
    """Brightness of the joints, relative to the cells."""
    checker: float = 0.0
    """Share of ``second`` in every other cell, in [0, 1]."""
    tint: float = 0.0
    """Relative variation in brightness between cells."""
    noise: float = 0.0
    """Relative variation in brightness due to value noise."""
    noise_m: float = 0.2
    """Lattice constant of the noise."""
    glow: float = 0.0
    """Emitted light, multiplied by the albedo."""

    def row(self) -> list[float]:
        """All parameters as a flat list, in the order above."""
        return [
            *self.color,
            *self.second,
            self.cell_u_m,
            self.cell_v_m,
            self.row_shift,
            self.joint_m,
            self.joint_shade,
            self.checker,
            self.tint,
            self.noise,
            self.noise_m,
            self.glow,
        ]


@dataclass(frozen=True)
class Light:
    """One point light (a distant one for the sun), ambient light, sky and haze, in linear RGB."""

    position: Vector
    color: Color
    falloff_m: float
    """Distance at which the direct light has dropped to half; ``inf`` for the sun."""
    ambient: Color
    sky: Color
    haze_m: float = np.inf
    """Distance scale of the haze: the sky's colour is mixed in by ``1 - exp(-depth / haze_m)``."""


@dataclass(frozen=True)
class Sensor:
    """Exposure, white balance, vignetting and noise of the camera."""

    exposure: float = 0.2
    """Mean of the exposed linear image."""
    white_balance: Color = (1.0, 1.0, 1.0)
    vignette: float = 0.0
    """Fraction of light lost in the image corners."""
    noise: float = 0.0
    """Standard deviation of the noise in the final image, whose values are in [0, 1]."""


class Part(NamedTuple):
    """One solid of an object, relative to the object's foot."""

    kind: Kind
    center: Vector
    half: Vector
    material: Material
    yaw: float = 0.0
    shadow: bool = True
    """Whether it casts a shadow; not worth the time for solids that lie flat against another one."""


@dataclass(frozen=True)
class Solids:
    """All solids of a scene, as arrays."""

    kind: np.ndarray
    """``(n,)`` int, a ``Kind``."""
    center: np.ndarray
    """``(n, 3)`` metres."""
    half: np.ndarray
    """``(n, 3)`` half extents in metres, along the solid's own axes."""
    yaw: np.ndarray
    """``(n,)`` radians to the right, about the upright axis."""
    shadow: np.ndarray
    """``(n,)`` bool: casts a shadow."""

    def axes(self) -> np.ndarray:
        """``(n, 3, 3)``: the solids' own axes in world coordinates, as rows."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        axes = np.zeros((len(self.yaw), 3, 3))
        axes[:, 0, 0], axes[:, 0, 2] = cos, -sin
        axes[:, 1, 1] = 1
        axes[:, 2, 0], axes[:, 2, 2] = sin, cos
        return axes

    def scaled_axes(self) -> np.ndarray:
        """``(n, 3, 3)``: maps world directions to the frame of each solid, scaled to half extents of 1."""
        return self.axes() / self.half[:, :, None]

    def corners(self) -> np.ndarray:
        """``(n, 8, 3)``: the corners of the solids' bounding boxes in world coordinates."""
        signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
        return self.center[:, None] + (signs * self.half[:, None]) @ self.axes()


@dataclass(frozen=True)
class Scene:
    """Everything an image is rendered from."""

    camera: Camera
    low: np.ndarray
    """``(3,)`` lower bounds of the shell, the box that the camera is in; ``-inf`` where it is open."""
    high: np.ndarray
    """``(3,)`` upper bounds of the shell."""
    solids: Solids
    materials: np.ndarray
    """``(F, 3 + n)`` float32: walls, floor, ceiling, then one column per solid; rows as in ``Material.row``."""
    light: Light
    sensor: Sensor


def build_scene(
    camera: Camera,
    low: Vector,
    high: Vector,
    shell: tuple[Material, Material, Material],
    parts: list[Part],
    light: Light,
    sensor: Sensor,
) -> Scene:
    """Build a scene from parts in world coordinates and the materials of walls, floor and ceiling."""
    solids = Solids(
        np.array([part.kind for part in parts], np.int64),
        np.array([part.center for part in parts], np.float64).reshape(-1, 3),
        np.array([part.half for part in parts], np.float64).reshape(-1, 3),
        np.array([part.yaw for part in parts], np.float64),
        np.array([part.shadow for part in parts], bool),
    )
    rows = [material.row() for material in (*shell, *(part.material for part in parts))]
    materials = np.array(rows, np.float32).T.copy()
    return Scene(camera, np.array(low, np.float64), np.array(high, np.float64), solids, materials, light, sensor)


def placed(parts: list[Part], x: float, z: float, yaw: float) -> list[Part]:
    """Move an object to ``(x, z)`` on the ground and turn it by ``yaw`` radians to the right."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    moved = []
    for part in parts:
        px, py, pz = part.center
        center = (x + cos * px + sin * pz, py, z - sin * px + cos * pz)
        moved.append(part._replace(center=center, yaw=part.yaw + yaw))
    return moved
