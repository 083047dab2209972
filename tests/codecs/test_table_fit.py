"""A table is fitted on what a device returns, judged on other images, and says whether it helps."""

import numpy as np
import pytest

from depth_distill.codecs import DepthRange, HostSingle, HostThermometer
from depth_distill.codecs.table_fit import fit_table, rising
from depth_distill.errors import DataError

CODEC = HostSingle(DepthRange(0.5, 15.0), "inverse")


def float_codes(images=10, seed=0):
    """Smooth pre-activations within +-2.9, where a hard sigmoid is not flat, and their sigmoid, ``(N, 1, 24, 32)``."""
    generator = np.random.default_rng(seed)
    rows, columns = generator.normal(0, 0.3, (images, 1, 24, 1)), generator.normal(0, 0.2, (images, 1, 1, 32))
    before_sigmoid = 2.9 * np.tanh(rows + columns.cumsum(-1))
    return before_sigmoid.astype(np.float32), (1 / (1 + np.exp(-before_sigmoid))).astype(np.float32)


def rounded(codes):
    return (np.rint(codes * 255) / 255).astype(np.float32)


def test_a_hard_sigmoid_in_place_of_the_sigmoid_is_undone():
    before_sigmoid, expected = float_codes()
    device = rounded(np.clip(before_sigmoid / 6 + 0.5, 0, 1))
    fit = fit_table(CODEC, device, expected)
    assert fit.helps
    assert fit.before.relative > 0.1
    assert fit.after.relative < 0.15 * fit.before.relative
    assert np.all(np.diff(fit.codec.tables[0]) >= 0)


def test_where_nothing_is_wrong_it_does_no_harm():
    _, expected = float_codes()
    fit = fit_table(CODEC, rounded(expected), expected)
    assert not fit.helps
    assert fit.after.mean_mm <= 1.02 * fit.before.mean_mm
    assert np.abs(np.array(fit.codec.tables[0]) - np.arange(256) / 255).max() < 1 / 255


def test_noise_is_no_reason_for_a_table():
    _, expected = float_codes(4)
    noise = np.random.default_rng(1).normal(0, 0.002, expected.shape)
    fit = fit_table(CODEC, np.clip(expected + noise, 0, 1).astype(np.float32), expected)
    assert not fit.helps
    assert fit.after.mean_mm < 1.1 * fit.before.mean_mm


def test_codes_that_were_never_seen_go_on_as_their_neighbours():
    expected = np.random.default_rng(0).uniform(0.3, 0.6, (4, 1, 50, 50)).astype(np.float32)
    fit = fit_table(CODEC, rounded(expected - 0.1), expected)  # codes 0.2 to 0.5
    table = np.array(fit.codec.tables[0])
    assert table[255] == 1
    assert table[128:220] == pytest.approx(np.arange(128, 220) / 255 + 0.1, abs=0.01)
    assert table[:20] == pytest.approx(np.arange(20) / 255 + 0.1, abs=0.01)
    assert 70 < fit.seen[0] < 80


def test_where_one_is_near_the_table_falls():
    before_sigmoid, expected = float_codes()
    device = rounded(np.clip(before_sigmoid / 6 + 0.5, 0, 1))
    usual, other = fit_table(CODEC, device, expected), fit_table(CODEC, 1 - device, 1 - expected, near_is_one=True)
    assert other.after.mean_mm == pytest.approx(usual.after.mean_mm, rel=1e-3)
    assert other.codec.tables[0] == pytest.approx(usual.codec.tables[0][::-1], abs=1e-4)
    assert other.codec.decode(1 - device) == pytest.approx(usual.codec.decode(device), rel=1e-3)


def test_each_code_has_a_table_of_its_own():
    codec = HostThermometer(DepthRange(0.5, 15.0), "log", 2)
    expected = np.random.default_rng(0).random((6, 2, 40, 40)).astype(np.float32)
    device = rounded(np.stack([expected[:, 0] ** 2, expected[:, 1]], axis=1))
    first, second = (np.array(each) for each in fit_table(codec, device, expected).codec.tables)
    codes = np.arange(256) / 255
    assert first[20:] == pytest.approx(np.sqrt(codes)[20:], abs=0.03)
    assert second == pytest.approx(codes, abs=0.01)


def test_only_valid_pixels_count():
    _, expected = float_codes(6)
    valid = np.zeros((6, 1, 24, 32), bool)
    valid[:, :, 5:20] = True
    device = np.where(valid, rounded(expected), 0).astype(np.float32)
    fit = fit_table(CODEC, device, expected, valid)
    assert fit.before.relative < 0.02
    assert fit.after.mean_mm <= 1.05 * fit.before.mean_mm


def test_an_image_of_which_nothing_counts_is_named():
    _, expected = float_codes(3)
    valid = np.ones((3, 1, 24, 32), bool)
    valid[1] = False
    with pytest.raises(DataError, match="no pixel of image 1 counts .1 such images.: leave it out"):
        fit_table(CODEC, expected, expected, valid)


def test_rising_is_the_weighted_projection():
    values, weights = np.array([1.0, 3.0, 2.0, 2.0, 5.0]), np.array([1.0, 1.0, 3.0, 1.0, 1.0])
    assert rising(values, weights) == pytest.approx([1, 2.2, 2.2, 2.2, 5])
    generator = np.random.default_rng(0)
    noisy = np.linspace(0, 1, 200) + generator.normal(0, 0.2, 200)
    best = rising(noisy, np.ones(200))
    assert np.all(np.diff(best) >= 0)
    for _ in range(50):  # no rising sequence nearby is closer
        other = np.sort(best + generator.normal(0, 0.02, 200))
        assert np.sum((best - noisy) ** 2) <= np.sum((other - noisy) ** 2)


@pytest.mark.parametrize(
    ("device", "expected", "message"),
    [
        (np.zeros((2, 1, 4, 4)), np.zeros((2, 1, 4, 5)), "both must be .N, 1, H, W."),
        (np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 4, 4)), "received 1 image, expected 2 or more"),
        (np.full((2, 1, 4, 4), np.nan), np.zeros((2, 1, 4, 4)), "the device codes of image 0 have NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(device, expected, message):
    with pytest.raises(DataError, match=message):
        fit_table(CODEC, device, expected)
