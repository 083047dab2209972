"""Frames that a camera spoils by itself: each is what its name says."""

import numpy as np
import pytest

from tools.benchmarks.calibration_sets import FAULTS, against_the_sun, broken_transfer, colour_noise, lens_cap

PICTURE = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3).astype(np.uint8)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_frame_is_a_picture_of_its_own_and_the_same_each_time(fault):
    before = PICTURE.copy()
    one, again = (fault(PICTURE, np.random.default_rng(0)) for _ in range(2))
    assert (one.shape, one.dtype) == (PICTURE.shape, np.uint8)
    assert np.array_equal(one, again)
    assert np.array_equal(PICTURE, before)
    assert not np.array_equal(one, PICTURE)


def test_faults_are_dark_bright_loud_and_torn():
    cap, sun, noise, torn = (
        fault(PICTURE, np.random.default_rng(0)) for fault in (lens_cap, against_the_sun, colour_noise, broken_transfer)
    )
    assert cap.mean() < 1
    assert (sun == 255).mean() > 0.9
    assert np.abs(np.diff(noise.astype(int), axis=1)).mean() > 60
    assert np.array_equal(torn[:12], PICTURE[:12])
    assert set(np.unique(torn[12:])) == {0, 255}
