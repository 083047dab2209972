"""Random scenes: rooms, halls, corridors and yards, seen by a camera held at chest height."""

import math

import numpy as np

from depth_distill.data.synthetic import furniture as f
from depth_distill.data.synthetic import materials as m
from depth_distill.data.synthetic.scene import Camera, Light, Material, Part, Scene, Sensor, build_scene, placed

_CLEAR_M = 0.75  # distance of objects from the camera's upright axis: 0.75 m * cos(38 deg off axis) = 0.59 m deep
_LOWEST_DEPTH_M = 0.55  # the ground is at least this deep at the lower image edge
_TRIES = 4


class _Layout:
    """A scene under construction; the camera stands at x = z = 0 and looks along +z, turned by ``yaw``."""

    def __init__(self, rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float]) -> None:
        self.rng = rng
        self.low, self.high = low, high
        self.yaw = 0.0
        self.parts: list[Part] = []
        self.taken: list[tuple[float, float, float]] = [(0.0, 0.0, _CLEAR_M)]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def add(self, parts: list[Part], x: float, z: float, yaw: float) -> bool:
        """Place an object unless it would touch another one or the camera; returns whether it was placed."""
        radius = max(math.hypot(p.center[0], p.center[2]) + 0.8 * max(p.half[0], p.half[2]) for p in parts)
        if any(math.hypot(x - ox, z - oz) < radius + other for ox, oz, other in self.taken):
            return False
        self.taken.append((x, z, radius))
        self.parts += placed(parts, x, z, yaw)
        return True

    def scatter(self, makers: tuple[f.Maker, ...], count: int, near: float, far: float) -> None:
        """Place objects in view, at log-uniform distances between ``near`` and ``far``."""
        for _ in range(count):
            parts = makers[self.rng.integers(len(makers))](self.rng)
            for _ in range(_TRIES):
                distance = near * (far / near) ** self.between(0, 1)
                heading = self.yaw + self.between(-0.6, 0.6)
                x, z = distance * math.sin(heading), distance * math.cos(heading)
                inside = self.low[0] + 0.3 < x < self.high[0] - 0.3 and self.low[1] + 0.3 < z < self.high[1] - 0.3
                if inside and self.add(parts, x, z, self.between(0, 2 * math.pi)):
                    break

    def line_walls(self, makers: tuple[f.Maker, ...], count: int) -> None:
        """Place furniture with its back to a wall, facing the room."""
        for _ in range(count):
            parts = makers[self.rng.integers(len(makers))](self.rng)
            depth = max(p.center[2] + max(p.half[2], p.half[0] * (p.yaw != 0)) for p in parts) + 0.02
            for _ in range(_TRIES):
                x, z, yaw = self.wall_spot(depth, 0.8)
                if self.add(parts, x, z, yaw):
                    break

    def wall_spot(self, depth: float, margin: float) -> tuple[float, float, float]:
        """A position on a random wall that is not behind the camera, and the yaw that faces away from that wall."""
        side = self.rng.integers(4)
        x = self.between(self.low[0] + margin, self.high[0] - margin)
        z = self.between(max(self.low[1], -1.0) + margin, min(self.high[1], 14.0) - margin)
        if side == 0:
            return self.low[0] + depth, z, -math.pi / 2
        if side == 1:
            return self.high[0] - depth, z, math.pi / 2
        return x, self.high[1] - depth, 0.0

    def decorate(self, count: int) -> None:
        """Add doors, windows and pictures: thin boxes on the walls."""
        hung: list[tuple[float, float]] = []
        for _ in range(count):
            x, z, yaw = self.wall_spot(0.0, 0.7)
            if any(math.hypot(x - ox, z - oz) < 1.4 for ox, oz in hung):
                continue
            hung.append((x, z))
            choice, thick = self.rng.integers(3), 0.03
            if choice == 0:
                base = m.furniture(self.rng)
                leaf = Material(base.color, cell_u_m=0.9, cell_v_m=2.05, joint_m=0.1, joint_shade=0.6, noise=0.06)
                parts = [f.block(0.9, 2.05, thick, leaf)]
            elif choice == 1:
                w, frame = self.between(0.8, 1.6), m.paint(self.rng)
                pane = f.block(w - 0.12, 1.08, 2 * thick, m.glowing(self.rng, self.between(0.3, 1.5)), 0.96)
                parts = [f.block(w, 1.2, thick, frame, 0.9), pane]
            else:
                w, h = self.between(0.4, 1.0), self.between(0.4, 0.8)
                art = Material(m.color(self.rng, (0.2, 0.8), (0.2, 0.9)), noise=0.6, noise_m=0.12)
                parts = [f.block(w + 0.08, h + 0.08, thick, m.furniture(self.rng), 1.26)]
                parts.append(f.block(w, h, 2 * thick, art, 1.3))
            self.parts += [part._replace(shadow=False) for part in placed(parts, x, z, yaw)]


def random_scene(rng: np.random.Generator, aspect: float) -> Scene:
    """Draw a random scene.

    Args:
        rng: source of all randomness.
        aspect: image height divided by width; it limits the pitch, so that the ground does not come too close.
    """
    choice = float(rng.random())
    if choice < 0.35:
        return _room(rng, aspect, (2.8, 6.0), (3.0, 7.5), (2.4, 3.0))
    if choice < 0.60:
        return _room(rng, aspect, (8.0, 14.0), (10.0, 20.0), (3.2, 5.5))
    if choice < 0.76:
        return _corridor(rng, aspect)
    return _yard(rng, aspect)


def _room(
    rng: np.random.Generator,
    aspect: float,
    widths: tuple[float, float],
    lengths: tuple[float, float],
    heights: tuple[float, float],
) -> Scene:
    width, length, height = (float(rng.uniform(*limits)) for limits in (widths, lengths, heights))
    x, z = float(rng.uniform(0.9, width - 0.9)), float(rng.uniform(0.8, max(0.45 * length, 0.9)))
    room = _Layout(rng, (-x, -z), (width - x, length - z))
    # Look at a point on the far wall or far along a side wall.
    room.yaw = math.atan2(room.between(-x, width - x) * 0.8, length - z)
    room.line_walls(f.ALONG_WALLS, int(rng.integers(2, 5)))
    room.scatter(f.INDOOR, int(rng.integers(1, 4)), 1.2, min(length, 12.0))
    if rng.random() < 0.8:
        room.scatter(f.INDOOR, 2, 1.1, 1.7)
    if width > 7:  # a hall
        room.scatter((f.column,), int(rng.integers(0, 4)), 2.5, 12.0)
        room.scatter(f.INDOOR, 3, 2.5, 12.0)
    room.decorate(int(rng.integers(2, 6)))
    shell = (m.wall(rng), m.indoor_floor(rng), m.paint(rng, 0.08))
    return _finish(room, aspect, height, shell, _lamp_light(room, height))


def _corridor(rng: np.random.Generator, aspect: float) -> Scene:
    width, height = float(rng.uniform(1.7, 2.8)), float(rng.uniform(2.3, 3.0))
    side = float(rng.uniform(0.8, width - 0.8))
    hall = _Layout(rng, (-side, -2.0), (width - side, float(rng.uniform(6.0, 30.0))))
    hall.yaw = hall.between(-0.25, 0.25)
    hall.scatter(f.CORRIDOR, int(rng.integers(2, 6)), 1.2, 9.0)
    hall.decorate(int(rng.integers(3, 7)))
    shell = (m.wall(rng), m.indoor_floor(rng), m.paint(rng, 0.08))
    return _finish(hall, aspect, height, shell, _lamp_light(hall, height))


def _yard(rng: np.random.Generator, aspect: float) -> Scene:
    yard = _Layout(rng, (-math.inf, -math.inf), (math.inf, math.inf))
    if rng.random() < 0.8:  # a house front or a garden wall across the view
        distance, turn = yard.between(4.0, 14.0), yard.between(-0.5, 0.5)
        height = yard.between(3.0, 7.0) if rng.random() < 0.6 else yard.between(1.0, 2.0)
        w = yard.between(4.0, 14.0)
        face = m.bricks(rng) if rng.random() < 0.6 else m.paint(rng)
        house = [f.block(w, height, 0.4, face)]
        if height > 2.5:
            house.append(f.box((0.2, 0, -0.25), (1.1, 2.05, 0), m.furniture(rng)))
            glass = Material((0.08, 0.1, 0.13), noise=0.4, noise_m=0.4)
            for x in (-1.8, 2.0):
                house.append(f.box((x, 0.9, -0.23), (x + 1.2, 2.1, 0), glass))
        offset = yard.between(-2.0, 2.0)
        x, z = distance * math.sin(turn) + offset, distance * math.cos(turn)
        yard.parts += placed(house, x, z, turn)
        yard.taken += [(x + s * w * math.cos(turn), z - s * w * math.sin(turn), 0.4) for s in (-0.4, -0.2, 0, 0.2, 0.4)]
    yard.scatter(f.OUTDOOR, int(rng.integers(4, 9)), 1.6, 14.0)
    if rng.random() < 0.8:
        yard.scatter(f.CORRIDOR, 2, 1.1, 1.7)
    azimuth, elevation = yard.between(0, 2 * math.pi), yard.between(0.5, 1.2)
    ahead = math.cos(elevation)
    sun = (150 * ahead * math.sin(azimuth), 150 * math.sin(elevation), 150 * ahead * math.cos(azimuth))
    strength, warmth = yard.between(0.4, 2.5), yard.between(0.8, 1.0)
    blue = yard.between(0.0, 0.4)  # from overcast to clear
    sky = (1.2 - 1.4 * blue, 1.25 - 0.8 * blue, 1.3)
    ambient = (0.55, 0.6, 0.65)
    light = Light(sun, (strength, strength * (warmth + 1) / 2, strength * warmth), math.inf, ambient, sky, 60.0)
    ground = m.ground(rng)
    return _finish(yard, aspect, math.inf, (ground, ground, ground), light)


def _lamp_light(room: _Layout, height: float) -> Light:
    """A lamp under the ceiling, at a random position in the visible part of the room."""
    x = room.between(room.low[0] + 0.5, room.high[0] - 0.5)
    z = room.between(max(room.low[1], -1.5), min(room.high[1], 8.0) - 0.5)
    strength, warmth = room.between(0.6, 1.8), room.between(0.7, 1.0)
    color = (strength, strength * (warmth + 1) / 2, strength * warmth)
    level = room.between(0.3, 0.6)
    reach = math.hypot(room.high[0] - room.low[0], height) * 1.2
    return Light((x, height - 0.25, z), color, reach, (level, level, level), (0.8, 0.85, 0.9))


def _finish(
    layout: _Layout, aspect: float, height: float, shell: tuple[Material, Material, Material], light: Light
) -> Scene:
    """Aim the camera, draw the sensor's parameters and build the scene."""
    rng = layout.rng
    tan_half_hfov = math.tan(math.radians(float(rng.uniform(58, 68))) / 2)
    # Mostly handheld, rarely on a robot or a tall tripod: too wide a spread would make the scale ambiguous.
    eye = float(np.clip(rng.normal(1.4, 0.18) if rng.random() < 0.9 else rng.uniform(0.5, 2.1), 0.5, 2.1))
    roll = float(rng.normal(0, 0.025))
    # At the lower edge, half a field of view b below the axis, the ground is eye * cos(b) / sin(pitch + b) deep.
    half_fov = math.atan(tan_half_hfov * (aspect + abs(math.tan(roll))))
    steepest = math.asin(min(eye * math.cos(half_fov) / _LOWEST_DEPTH_M, 1.0)) - half_fov
    pitch = min(float(rng.normal(0.15, 0.08)), steepest)
    camera = Camera.aimed((0.0, eye, 0.0), layout.yaw, pitch, roll, tan_half_hfov)
    balance = rng.normal(1, 0.04, 3).tolist()
    sensor = Sensor(
        exposure=float(rng.uniform(0.2, 0.36)),
        white_balance=(balance[0], balance[1], balance[2]),
        vignette=float(rng.uniform(0, 0.3)),
        noise=float(rng.uniform(0.003, 0.015)),
    )
    low, high = (layout.low[0], 0.0, layout.low[1]), (layout.high[0], height, layout.high[1])
    return build_scene(camera, low, high, shell, layout.parts, light, sensor)
