"""Random surfaces with patterns of real sizes: tiles, planks, bricks, cloth, grass and paint."""

import colorsys

import numpy as np

from depth_distill.data.synthetic.scene import Color, Material


def color(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Color:
    """A colour of random hue, in linear RGB."""
    h, s, v = rng.random(3).tolist()
    return _linear(h, _between(saturation, s), _between(value, v))


def wood(rng: np.random.Generator) -> Color:
    """A brown, from beech to walnut."""
    h, s, v = rng.random(3).tolist()
    return _linear(0.05 + 0.06 * h, 0.35 + 0.3 * s, 0.35 + 0.45 * v)


def paint(rng: np.random.Generator, saturation: float = 0.25) -> Material:
    """A painted wall or ceiling."""
    return Material(color(rng, (0.0, saturation), (0.6, 0.95)), noise=0.06, noise_m=0.5)


def wall(rng: np.random.Generator) -> Material:
    """An indoor wall: paint, striped or checked paper, wainscot or bare bricks."""
    base = color(rng, (0.02, 0.3), (0.55, 0.95))
    choice = rng.integers(6)
    if choice < 2:
        return paint(rng, 0.3)
    if choice == 2:
        other = tuple(0.75 * channel for channel in base)
        return Material(base, (other[0], other[1], other[2]), cell_u_m=0.2, checker=1.0, noise=0.05)
    if choice == 3:
        return Material(base, cell_u_m=0.3, cell_v_m=0.3, joint_m=0.008, joint_shade=0.6, tint=0.06, noise=0.04)
    if choice == 4:
        return bricks(rng)
    return Material(base, cell_u_m=0.15, joint_m=0.012, joint_shade=0.55, tint=0.05, noise=0.06)


def bricks(rng: np.random.Generator) -> Material:
    """Bricks of 25 x 9 cm, or concrete blocks of 40 x 20 cm, in running bond."""
    if rng.random() < 0.6:
        base = _linear(0.02 + 0.05 * rng.random(), 0.5, 0.45 + 0.3 * rng.random())
        return Material(base, (0, 0, 0), 0.25, 0.09, 0.5, 0.012, 1.5, tint=0.25, noise=0.15, noise_m=0.08)
    base = color(rng, (0.0, 0.12), (0.5, 0.8))
    return Material(base, (0, 0, 0), 0.4, 0.2, 0.5, 0.015, 0.65, tint=0.1, noise=0.12, noise_m=0.1)


def indoor_floor(rng: np.random.Generator) -> Material:
    """Planks, tiles, a checker or a carpet."""
    choice = rng.integers(4)
    if choice == 0:
        return planks(rng)
    if choice == 1:
        base = color(rng, (0.0, 0.25), (0.4, 0.9))
        return Material(base, (0, 0, 0), 0.33, 0.33, 0.0, 0.012, 0.55, tint=0.08, noise=0.06, noise_m=0.15)
    if choice == 2:
        light, dark = color(rng, (0.0, 0.2), (0.75, 0.95)), color(rng, (0.1, 0.6), (0.25, 0.55))
        return Material(light, dark, 0.4, 0.4, checker=1.0, tint=0.05, noise=0.05)
    return Material(color(rng, (0.1, 0.5), (0.3, 0.7)), noise=0.3, noise_m=0.06)


def planks(rng: np.random.Generator, width_m: float = 0.14) -> Material:
    """Boards of 1.2 m, laid with shifted ends."""
    return Material(wood(rng), (0, 0, 0), 1.2, width_m, 0.37, 0.008, 0.45, tint=0.22, noise=0.12, noise_m=0.07)


def ground(rng: np.random.Generator) -> Material:
    """Outdoors: grass, gravel, asphalt, pavers or slabs."""
    choice = rng.integers(5)
    if choice == 0:
        return Material(_linear(0.2 + 0.1 * rng.random(), 0.55, 0.5), noise=0.45, noise_m=0.1)
    if choice == 1:
        return Material(color(rng, (0.05, 0.2), (0.5, 0.7)), noise=0.4, noise_m=0.05)
    if choice == 2:
        return Material(color(rng, (0.0, 0.08), (0.3, 0.5)), noise=0.2, noise_m=0.08)
    base = color(rng, (0.0, 0.25), (0.45, 0.75))
    if choice == 3:
        return Material(base, (0, 0, 0), 0.3, 0.15, 0.5, 0.015, 0.5, tint=0.18, noise=0.12, noise_m=0.08)
    return Material(base, (0, 0, 0), 0.6, 0.6, 0.0, 0.02, 0.5, tint=0.12, noise=0.12, noise_m=0.12)


def foliage(rng: np.random.Generator) -> Material:
    """Leaves."""
    h, s, v = rng.random(3).tolist()
    return Material(_linear(0.22 + 0.14 * h, 0.5 + 0.2 * s, 0.3 + 0.3 * v), noise=0.7, noise_m=0.09)


def furniture(rng: np.random.Generator) -> Material:
    """Veneer or lacquer."""
    base = wood(rng) if rng.random() < 0.6 else color(rng, (0.0, 0.6), (0.3, 0.95))
    return Material(base, noise=0.08, noise_m=0.12)


def cloth(rng: np.random.Generator) -> Material:
    """Upholstery, plain or striped."""
    base, other = color(rng, (0.2, 0.7), (0.3, 0.8)), color(rng, (0.0, 0.5), (0.4, 0.9))
    striped = float(rng.random() < 0.3)
    return Material(base, other, cell_u_m=0.08, checker=striped, noise=0.2, noise_m=0.05)


def vivid(rng: np.random.Generator) -> Material:
    """Toys, bins, book covers: saturated, plain or striped."""
    base, other = color(rng, (0.5, 0.95), (0.4, 0.95)), color(rng, (0.0, 0.3), (0.6, 0.95))
    striped = float(rng.random() < 0.3)
    return Material(base, other, cell_v_m=0.1, checker=striped, noise=0.08, noise_m=0.1)


def cardboard(rng: np.random.Generator) -> Material:
    """A carton."""
    return Material(_linear(0.08, 0.4, 0.55 + 0.25 * rng.random()), noise=0.1, noise_m=0.1)


def books(rng: np.random.Generator) -> Material:
    """A row of spines, 3.5 cm each."""
    first, second = color(rng, (0.3, 0.8), (0.3, 0.8)), color(rng, (0.2, 0.7), (0.3, 0.9))
    return Material(first, second, cell_u_m=0.035, checker=1.0, tint=0.6, joint_m=0.003, joint_shade=0.4)


def metal(rng: np.random.Generator) -> Material:
    """Grey or painted metal."""
    return Material(color(rng, (0.0, 0.15), (0.3, 0.8)), noise=0.05)


def glowing(rng: np.random.Generator, strength: float) -> Material:
    """A window pane or a lamp shade."""
    warm = 0.15 * rng.random()
    return Material((0.9, 0.9 - 0.3 * warm, 0.95 - 2 * warm), noise=0.05, noise_m=0.4, glow=strength)


def _between(limits: tuple[float, float], fraction: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * fraction


def _linear(hue: float, saturation: float, value: float) -> Color:
    """Display-referred HSV to linear RGB (gamma 2, as in the sensor)."""
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return red * red, green * green, blue * blue
