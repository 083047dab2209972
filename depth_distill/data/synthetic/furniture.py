"""Objects made of solids, at their real sizes; each stands on (0, 0, 0) and faces -z.

Known sizes (a door is 2.05 m high, a seat 45 cm) allow metric depth to be inferred from a single image.
"""

from collections.abc import Callable

import numpy as np

from depth_distill.data.synthetic import materials as m
from depth_distill.data.synthetic.scene import Kind, Material, Part, Vector

Maker = Callable[[np.random.Generator], list[Part]]
_BOX, _CYLINDER, _ELLIPSOID = Kind.BOX, Kind.CYLINDER, Kind.ELLIPSOID


def box(low: Vector, high: Vector, material: Material) -> Part:
    """A box between two corners."""
    center = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
    return Part(_BOX, center, ((high[0] - low[0]) / 2, (high[1] - low[1]) / 2, (high[2] - low[2]) / 2), material)


def block(width: float, height: float, depth: float, material: Material, y: float = 0.0) -> Part:
    """A box centred on the foot, its lower side at ``y``."""
    return box((-width / 2, y, -depth / 2), (width / 2, y + height, depth / 2), material)


def pillar(radius: float, height: float, material: Material, y: float = 0.0) -> Part:
    """An upright cylinder centred on the foot."""
    return Part(_CYLINDER, (0, y + height / 2, 0), (radius, height / 2, radius), material)


def ball(radius: float, y: float, material: Material) -> Part:
    """A sphere with its lowest point at ``y``."""
    return Part(_ELLIPSOID, (0, y + radius, 0), (radius, radius, radius), material)


def carton(rng: np.random.Generator) -> list[Part]:
    """A cardboard box, sometimes with a smaller one on top."""
    w, h, d = rng.uniform(0.3, 0.6, 3).tolist()
    parts = [block(w, h, d, m.cardboard(rng))]
    if rng.random() < 0.4:
        top = block(0.7 * w, 0.6 * h, 0.7 * d, m.cardboard(rng), h)
        parts.append(top._replace(yaw=float(rng.uniform(-0.4, 0.4))))
    return parts


def cupboard(rng: np.random.Generator) -> list[Part]:
    """A cupboard with two doors, 60 cm deep."""
    w, h = float(rng.uniform(0.8, 1.2)), float(rng.uniform(0.9, 2.1))
    base = m.furniture(rng)
    door = Material(base.color, cell_u_m=w / 2, cell_v_m=h, joint_m=0.03, joint_shade=0.4, noise=0.08)
    return [box((-w / 2, 0, -0.3), (0, h, 0.3), door), box((0, 0, -0.3), (w / 2, h, 0.3), door)]


def drawers(rng: np.random.Generator) -> list[Part]:
    """A chest of five drawers, 1 m high."""
    w = float(rng.uniform(0.6, 1.1))
    base = m.furniture(rng)
    front = Material(base.color, cell_v_m=0.2, joint_m=0.02, joint_shade=0.35, noise=0.08)
    chest = box((-w / 2, 0, -0.22), (w / 2, 1.0, 0.22), front)
    return [chest, *([ball(0.12, 1.0, m.vivid(rng))] if rng.random() < 0.4 else [])]


def table(rng: np.random.Generator) -> list[Part]:
    """A table of 74 cm on four legs, with something on it."""
    w, d = float(rng.uniform(1.0, 1.6)), float(rng.uniform(0.7, 0.9))
    top = m.furniture(rng)
    parts = [block(w, 0.04, d, top, 0.7)]
    for side, end in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        foot = pillar(0.03, 0.7, top)
        parts.append(foot._replace(center=(side * (w / 2 - 0.06), 0.35, end * (d / 2 - 0.06))))
    item = ball(0.1, 0.74, m.vivid(rng)) if rng.random() < 0.5 else pillar(0.06, 0.25, m.vivid(rng), 0.74)
    x = float(rng.uniform(-0.35, 0.35)) * w
    return [*parts, item._replace(center=(x, item.center[1], 0))]


def chair(rng: np.random.Generator) -> list[Part]:
    """A chair with four legs: seat at 45 cm, back up to 90 cm."""
    cover, frame = m.cloth(rng), m.furniture(rng)
    return [
        block(0.44, 0.05, 0.44, cover, 0.42),
        box((-0.22, 0.47, 0.18), (0.22, 0.92, 0.22), cover),
        box((-0.22, 0, -0.2), (-0.18, 0.42, -0.16), frame),
        box((0.18, 0, -0.2), (0.22, 0.42, -0.16), frame),
        box((-0.22, 0, 0.16), (-0.18, 0.42, 0.2), frame),
        box((0.18, 0, 0.16), (0.22, 0.42, 0.2), frame),
    ]


def sofa(rng: np.random.Generator) -> list[Part]:
    """A sofa of two or three seats."""
    w, cover = float(rng.uniform(1.4, 2.1)), m.cloth(rng)
    return [
        box((-w / 2, 0.05, -0.42), (w / 2, 0.44, 0.42), cover),
        box((-w / 2, 0.44, 0.2), (w / 2, 0.85, 0.42), cover),
        box((-w / 2 - 0.15, 0.05, -0.42), (-w / 2, 0.62, 0.42), cover),
        box((w / 2, 0.05, -0.42), (w / 2 + 0.15, 0.62, 0.42), cover),
    ]


def shelf(rng: np.random.Generator) -> list[Part]:
    """An open bookshelf, 30 cm deep, with a board every 36 cm."""
    w, boards = float(rng.uniform(0.7, 1.0)), int(rng.integers(3, 6))
    h = 0.36 * boards
    frame = m.furniture(rng)
    back = Material((0.6 * frame.color[0], 0.6 * frame.color[1], 0.6 * frame.color[2]))
    parts = [
        box((-w / 2, 0, -0.15), (-w / 2 + 0.03, h, 0.15), frame),
        box((w / 2 - 0.03, 0, -0.15), (w / 2, h, 0.15), frame),
        box((-w / 2, 0, 0.13), (w / 2, h, 0.15), back),
    ]
    for k in range(boards + 1):
        y = 0.36 * k
        parts.append(box((-w / 2, y - 0.015 if k else 0.0, -0.15), (w / 2, y + 0.015, 0.13), frame))
        fill = float(rng.uniform(0.0, 1.0))
        if k < boards and fill > 0.25:
            row = box((-w / 2 + 0.04, y + 0.015, -0.1), (-w / 2 + 0.04 + fill * (w - 0.1), y + 0.28, 0.1), m.books(rng))
            parts.append(row._replace(shadow=False))
    return parts


def bin_(rng: np.random.Generator) -> list[Part]:
    """A bin or barrel."""
    return [pillar(float(rng.uniform(0.15, 0.3)), float(rng.uniform(0.4, 0.9)), m.vivid(rng))]


def toy_ball(rng: np.random.Generator) -> list[Part]:
    """A ball, from a football to a gymnastics ball."""
    return [ball(float(rng.uniform(0.11, 0.35)), 0, m.vivid(rng))]


def lamp(rng: np.random.Generator) -> list[Part]:
    """A standard lamp of 1.6 m."""
    shade = Part(_CYLINDER, (0, 1.5, 0), (0.2, 0.14, 0.2), m.glowing(rng, float(rng.uniform(0.2, 1.2))))
    return [pillar(0.15, 0.03, m.metal(rng)), pillar(0.02, 1.5, m.metal(rng)), shade]


def plant(rng: np.random.Generator) -> list[Part]:
    """A plant in a pot."""
    h = float(rng.uniform(0.3, 0.6))
    crown = Part(_ELLIPSOID, (0, 0.3 + h, 0), (0.6 * h, h, 0.6 * h), m.foliage(rng))
    return [pillar(0.16, 0.32, m.vivid(rng)), crown]


def column(rng: np.random.Generator) -> list[Part]:
    """A round or square column, taller than any room."""
    r = float(rng.uniform(0.15, 0.3))
    if rng.random() < 0.5:
        return [pillar(r, 8, m.paint(rng))]
    return [block(2 * r, 8, 2 * r, m.wall(rng))]


def tree(rng: np.random.Generator) -> list[Part]:
    """A tree of 3 to 5 m."""
    h, r = float(rng.uniform(1.6, 2.4)), float(rng.uniform(0.9, 1.5))
    bark = Material(m.wood(rng), noise=0.4, noise_m=0.07)
    leaves = m.foliage(rng)
    low = Part(_ELLIPSOID, (0, h + 0.5 * r, 0), (r, 0.8 * r, r), leaves)
    x, z = rng.uniform(-0.4, 0.4, 2).tolist()
    top = Part(_ELLIPSOID, (x * r, h + 1.2 * r, z * r), (0.7 * r, 0.7 * r, 0.7 * r), leaves)
    return [pillar(float(rng.uniform(0.1, 0.2)), h + 0.3 * r, bark), low, top]


def bush(rng: np.random.Generator) -> list[Part]:
    """A bush."""
    r = float(rng.uniform(0.4, 0.8))
    return [Part(_ELLIPSOID, (0, 0.6 * r, 0), (r, 0.9 * r, r), m.foliage(rng))]


def post(rng: np.random.Generator) -> list[Part]:
    """A lamp post of 4 m, or a bollard of 90 cm."""
    if rng.random() < 0.5:
        return [pillar(0.09, 0.9, m.vivid(rng))]
    head = Part(_ELLIPSOID, (0, 4.0, 0), (0.22, 0.22, 0.22), m.glowing(rng, 0.3))
    return [pillar(0.06, 4, m.metal(rng)), head]


def car(rng: np.random.Generator) -> list[Part]:
    """A car: 4.2 m long, 1.45 m high."""
    body = Material(m.color(rng, (0.0, 0.8), (0.25, 0.9)))
    glass, tyre = Material((0.05, 0.06, 0.07)), Material((0.02, 0.02, 0.02))
    parts = [
        box((-2.1, 0.25, -0.87), (2.1, 0.85, 0.87), body),
        box((-1.2, 0.85, -0.78), (1.4, 1.35, 0.78), glass),
        box((-1.1, 1.35, -0.74), (1.25, 1.43, 0.74), body),
    ]
    for x in (-1.3, 1.3):
        for z in (-0.82, 0.82):
            parts.append(Part(_ELLIPSOID, (x, 0.32, z), (0.32, 0.32, 0.12), tyre))
    return parts


def crate(rng: np.random.Generator) -> list[Part]:
    """A wooden crate."""
    w, h = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.4, 0.9))
    return [block(w, h, w, m.planks(rng, 0.1))]


def bench(rng: np.random.Generator) -> list[Part]:
    """A park bench."""
    slats = m.planks(rng, 0.12)
    return [
        block(1.6, 0.06, 0.45, slats, 0.4),
        box((-0.8, 0.5, 0.2), (0.8, 0.85, 0.25), slats),
        box((-0.7, 0, -0.2), (-0.6, 0.4, 0.25), m.metal(rng)),
        box((0.6, 0, -0.2), (0.7, 0.4, 0.25), m.metal(rng)),
    ]


INDOOR: tuple[Maker, ...] = (carton, table, chair, bin_, toy_ball, lamp, plant, crate, drawers)
ALONG_WALLS: tuple[Maker, ...] = (cupboard, drawers, sofa, shelf, shelf, table, plant, lamp)
CORRIDOR: tuple[Maker, ...] = (carton, bin_, plant, chair, toy_ball, crate)
OUTDOOR: tuple[Maker, ...] = (tree, bush, post, car, crate, bench, bin_, toy_ball, carton)
"""Objects by where they may stand."""
