import dataclasses

import numpy as np

from depth_distill.data.synthetic.render import cast
from depth_distill.data.synthetic.scene import Kind, Material, Part, Sensor
from depth_distill.data.synthetic.shading import shade
from tests.data.synthetic.scenes import GREY, level_camera, scene_of

SIZE = (48, 64)


def image_of(scene):
    return shade(scene, cast(scene, *SIZE), np.random.default_rng(0)).astype(np.float64)


def test_the_checker_keeps_its_size_in_the_world():
    checker = Material((0.9, 0.9, 0.9), (0.1, 0.1, 0.1), 0.5, 0.5, checker=1.0)
    scene = scene_of([], level_camera(2.0, pitch=np.pi / 2), shell=(GREY, checker, GREY))
    row = image_of(scene)[1, 22]
    # Straight down from 2 m with 90 degrees: 4 m over 64 pixels, so an edge every 0.5 m = 8 pixels.
    bright = row > row.mean()
    edges = np.flatnonzero(bright[1:] != bright[:-1])
    np.testing.assert_array_equal(np.diff(edges), 8)


def test_patterns_fade_to_their_mean_with_distance_and_do_not_alias():
    fine = Material((0.9, 0.9, 0.9), (0.1, 0.1, 0.1), 0.05, 0.05, checker=1.0)
    plain = Material((0.5, 0.5, 0.5))
    far, mean = (
        image_of(scene_of([], low=(-30, -30, -1), high=(30, 30, 12), shell=(material, GREY, GREY)))
        for material in (fine, plain)
    )
    # A pixel is 37 cm wide on that wall; seven cells in a row would alias to full contrast if they were point sampled.
    assert np.abs(far - mean).max() < 0.15 * mean.mean()


def test_the_side_away_from_the_light_is_darker():
    sphere = Part(Kind.ELLIPSOID, (0.0, 1.5, 3.0), (1.0, 1.0, 1.0), GREY)
    image = image_of(scene_of([sphere]))[1]
    assert image[16, 32] > 1.2 * image[32, 32]


def test_a_shadow_falls_on_the_ground():
    table = Part(Kind.BOX, (0.0, 1.0, 3.0), (0.5, 0.02, 0.5), GREY)
    with_shadow, without = (
        image_of(scene_of([table._replace(shadow=shadow)], level_camera(pitch=0.3)))[1] for shadow in (True, False)
    )
    assert (with_shadow < 0.8 * without).sum() > 20


def test_noise_is_the_only_use_of_the_generator():
    scene = dataclasses.replace(scene_of([]), sensor=Sensor(noise=0.01))
    hits = cast(scene, *SIZE)
    same, again, other = (shade(scene, hits, np.random.default_rng(seed)).astype(int) for seed in (0, 0, 1))
    np.testing.assert_array_equal(same, again)
    # Two draws of 0.01 * 255 = 2.55 levels each differ by 2.55 * sqrt(2) = 3.6 levels (clipping removes a little).
    assert 2.5 < (same - other).std() < 4.5
