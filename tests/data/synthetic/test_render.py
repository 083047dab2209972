import math

import numpy as np
import pytest

from depth_distill.data.synthetic.furniture import box
from depth_distill.data.synthetic.render import CURVED, cast, lit, screen_windows
from depth_distill.data.synthetic.scene import Kind, Light, Part
from tests.data.synthetic.scenes import GREY, OPEN, level_camera, rays, scene_of

SIZE = (33, 45)  # odd: pixel (16, 22) looks along the optical axis
TOLERANCE_M = 1e-4  # float32 at 15 m has steps of 1e-6 m; two orders for the arithmetic


def test_the_ground_is_at_camera_height_over_the_slope_of_the_ray():
    hits = cast(scene_of([]), *SIZE)
    _, y = rays(*SIZE)
    below = y < 0
    np.testing.assert_allclose(hits.depth_m[below], 1.5 / -y[below], rtol=1e-5)
    assert np.isinf(hits.depth_m[~below]).all()
    assert (hits.axis[below] == 1).all()


def test_a_pitched_camera_sees_the_ground_on_its_axis_at_height_over_sine():
    hits = cast(scene_of([], level_camera(1.2, yaw=0.7, pitch=0.4, roll=0.3)), *SIZE)
    assert hits.depth_m[16, 22] == pytest.approx(1.2 / math.sin(0.4), abs=TOLERANCE_M)


def test_depth_is_measured_along_the_axis_not_along_the_ray():
    hits = cast(scene_of([], low=(-9.0, -9.0, -9.0), high=(9.0, 9.0, 5.0)), *SIZE)
    np.testing.assert_allclose(hits.depth_m, 5.0, atol=TOLERANCE_M)


def test_a_room_is_left_through_the_nearest_wall():
    hits = cast(scene_of([], low=(-2.0, 0.0, -1.0), high=(1.0, 2.5, 6.0)), *SIZE)
    x, y = rays(*SIZE)
    with np.errstate(divide="ignore"):
        side = np.where(x > 0, 1.0 / x, -2.0 / x)
        level = np.where(y > 0, 1.0 / y, -1.5 / y)
    np.testing.assert_allclose(hits.depth_m, np.minimum(np.minimum(np.abs(side), np.abs(level)), 6), rtol=1e-5)


@pytest.mark.parametrize(("distance", "radius"), [(3.0, 1.0), (14.0, 0.5), (14.0, 0.1)])
def test_a_sphere(distance, radius):
    sphere = Part(Kind.ELLIPSOID, (0.0, 1.5, distance), (radius,) * 3, GREY)
    hits = cast(scene_of([sphere], low=(-99, -99, -99)), *SIZE)
    assert hits.depth_m[16, 22] == pytest.approx(distance - radius, abs=TOLERANCE_M)
    x, y = rays(*SIZE)
    # |t (x, y, 1) - (0, 0, distance)| = radius
    a = x * x + y * y + 1
    root = distance**2 - a * (distance**2 - radius**2)
    on = root > 0.01
    assert (hits.solid[on] == 0).all()
    np.testing.assert_allclose(hits.depth_m[on], ((distance - np.sqrt(root[on])) / a[on]), atol=TOLERANCE_M)
    assert (hits.solid[root < -0.01] == -1).all()
    assert (hits.axis[on] == CURVED).all()


def test_a_box_shows_its_front_and_the_ground_around_it():
    hits = cast(scene_of([box((-1.0, 0.0, 4.0), (2.0, 2.0, 5.0), GREY)]), *SIZE)
    x, y = rays(*SIZE)
    front = (x * 4 > -1) & (x * 4 < 2) & (y * 4 > -1.5) & (y * 4 < 0.5)
    np.testing.assert_allclose(hits.depth_m[front], 4.0, atol=TOLERANCE_M)
    np.testing.assert_array_equal(hits.solid == 0, front)
    assert (hits.axis[front] == 2).all()


def test_a_box_turned_by_45_degrees_shows_its_edge():
    turned = Part(Kind.BOX, (0.0, 1.5, 5.0), (1.0, 1.0, 1.0), GREY, yaw=math.pi / 4)
    hits = cast(scene_of([turned]), *SIZE)
    assert hits.depth_m[16, 22] == pytest.approx(5 - math.sqrt(2), abs=TOLERANCE_M)
    # To the right of the edge the face is the line z = 5 - sqrt(2) + x; a ray has x = t * 2 / 45 in the next column.
    assert hits.depth_m[16, 23] == pytest.approx((5 - math.sqrt(2)) / (1 - 2 / 45), abs=TOLERANCE_M)


def test_yaw_turns_solids_and_cameras_to_the_right():
    heading = 0.3
    far_end = Part(Kind.BOX, (0.0, 1.5, 0.0), (0.05, 0.05, 6.0), GREY, yaw=heading)
    corners = scene_of([far_end]).solids.corners()[0]
    assert corners[:, 0].max() == pytest.approx(6 * math.sin(heading) + 0.05 * math.cos(heading))
    ball = Part(Kind.ELLIPSOID, (5 * math.sin(heading), 1.5, 5 * math.cos(heading)), (0.5, 0.5, 0.5), GREY)
    assert cast(scene_of([ball], level_camera(yaw=heading)), *SIZE).depth_m[16, 22] == pytest.approx(4.5, abs=1e-4)


def test_a_cylinder_shows_its_side_and_its_lid():
    side = Part(Kind.CYLINDER, (0.0, 1.5, 4.0), (1.0, 1.0, 1.0), GREY)
    hits = cast(scene_of([side]), *SIZE)
    assert hits.depth_m[16, 22] == pytest.approx(3.0, abs=TOLERANCE_M)
    assert hits.axis[16, 22] == CURVED
    low = Part(Kind.CYLINDER, (0.0, 0.25, 2.0), (1.0, 0.25, 1.0), GREY)
    seen = cast(scene_of([low], level_camera(pitch=math.atan(0.5))), *SIZE)
    # The axis drops 0.5 m a metre: it meets the lid, 1 m below the camera, after sqrt(2^2 + 1^2) m.
    assert seen.depth_m[16, 22] == pytest.approx(math.sqrt(5), abs=TOLERANCE_M)
    assert seen.axis[16, 22] == 1


def test_the_nearer_of_two_solids_hides_the_other_in_any_order():
    near, far = (Part(Kind.BOX, (0.0, 1.5, z), (0.5, 0.5, 0.5), GREY) for z in (3.0, 6.0))
    for parts in ([near, far], [far, near]):
        assert cast(scene_of(parts), *SIZE).depth_m[16, 22] == pytest.approx(2.5, abs=TOLERANCE_M)


def test_solids_are_found_in_full_even_where_the_window_of_pixels_is_culled():
    rng = np.random.default_rng(0)
    parts = [
        Part(Kind(k % 3), tuple(rng.uniform((-4, 0, 1), (4, 3, 9))), tuple(rng.uniform(0.1, 0.6, 3)), GREY, yaw=k * 0.7)
        for k in range(30)
    ]
    camera = level_camera(yaw=0.2, pitch=0.1, roll=0.1)
    together = cast(scene_of(parts, camera), *SIZE)
    one_by_one = np.min([cast(scene_of([part], camera), *SIZE).depth_m for part in parts], 0)
    np.testing.assert_allclose(together.depth_m, one_by_one, rtol=1e-6)
    points = np.array([[part.center] for part in parts])
    windows = screen_windows(camera, points, *SIZE)
    seen = (points[:, 0] - camera.position) @ camera.rotation
    for (top, bottom, left, right), (x, y, z) in zip(windows, seen, strict=True):
        column, row = x / z * 45 / 2 + 22, 16 - y / z * 45 / 2
        if z > 0.05 and 0 <= row <= 32 and 0 <= column <= 44:
            assert top <= row <= bottom
            assert left <= column <= right


def test_a_box_throws_its_shadow_away_from_the_light():
    slab = box((-1.0, 2.0, 2.0), (1.0, 2.1, 4.0), GREY)
    above = Light((0.0, 1000.0, 3.0), (1.0, 1.0, 1.0), math.inf, (0.1,) * 3, (0.5,) * 3)
    scene = scene_of([slab], light=above)
    hits = cast(scene, 66, 90)
    ground = (hits.solid == -1) & np.isfinite(hits.depth_m)
    points = scene.camera.position.astype(np.float32)[:, None, None] + hits.directions * np.where(
        ground, hits.depth_m, 1
    )
    up = np.zeros_like(points)
    up[1] = 1
    light = lit(scene, hits, points, up)
    under = (np.abs(points[0]) < 0.98) & (np.abs(points[2] - 3) < 0.98) & ground  # 2 cm clear of the edges
    beside = ((np.abs(points[0]) > 1.02) | (np.abs(points[2] - 3) > 1.02)) & ground
    assert under.sum() > 100
    assert (light[under] == 0).all()
    assert (light[beside] == 1).all()


@pytest.mark.parametrize("kind", list(Kind))
def test_a_ray_along_an_axis_of_a_solid_is_no_special_case(kind):
    straight_down = level_camera(3.0, pitch=math.pi / 2)
    straight_down.rotation[np.abs(straight_down.rotation) < 1e-9] = 0
    hits = cast(scene_of([Part(kind, (0.0, 0.5, 0.0), (0.5, 0.5, 0.5), GREY)], straight_down), *SIZE)
    assert hits.depth_m[16, 22] == pytest.approx(2.0, abs=TOLERANCE_M)


def test_open_sides_have_no_depth():
    hits = cast(scene_of([], low=(-1.0, 0.0, -math.inf), high=(1.0, 3.0, math.inf)), *SIZE)
    assert np.isinf(hits.depth_m[16, 22])
    assert np.isinf(cast(scene_of([], low=(-math.inf,) * 3, high=OPEN), *SIZE).depth_m).all()
