"""A decode table before a codec: what it means, how it is inverted, and which tables are refused."""

import json

import numpy as np
import pytest
import torch

from depth_distill.codecs import (
    DepthRange,
    HostIntegerFractional,
    HostSingle,
    HostTable,
    HostThermometer,
    codec_of,
    describe_codec,
    formula,
)
from depth_distill.errors import ConfigError
from depth_distill.models import DepthCodec

RANGE = DepthRange(0.5, 15.0)
INNER = [HostSingle(RANGE, "inverse"), HostThermometer(RANGE, "log", 4, "logit"), HostIntegerFractional(RANGE)]
EIGHT_BITS = (np.arange(256) / 255).astype(np.float32)


def curve(entries=256):
    """As a hard sigmoid in place of a sigmoid asks for: steep at the ends."""
    codes = np.linspace(0, 1, entries)
    return (1 / (1 + np.exp(-(6 * codes - 3)))).tolist()


@pytest.mark.parametrize("inner", INNER, ids=str)
def test_a_table_that_changes_nothing_changes_nothing(inner):
    codes = np.random.default_rng(0).random((inner.channels, 1, 1000), dtype=np.float32)
    table = HostTable(inner, [EIGHT_BITS.tolist()] * inner.channels)
    assert np.allclose(table.decode(codes), inner.decode(codes), rtol=2e-5)


def test_a_device_code_means_the_entry_of_its_place_and_between_two_the_line():
    inner, values = INNER[0], curve()
    table = HostTable(inner, [values])
    meant = inner.decode(np.array(values, np.float32).reshape(1, 1, -1))
    assert np.allclose(table.decode(EIGHT_BITS.reshape(1, 1, -1)), meant, rtol=1e-6)
    between = inner.decode(np.full((1, 1, 1), (values[100] + values[101]) / 2))
    assert table.decode(np.full((1, 1, 1), 100.5 / 255)) == pytest.approx(between, rel=1e-5)
    assert np.isnan(table.decode(np.full((1, 1, 1), np.nan)))


@pytest.mark.parametrize("inner", INNER[:2], ids=str)
def test_encode_gives_the_device_codes_that_mean_a_depth(inner):
    with_a_plateau = [*np.linspace(0, 0.5, 128), *[0.5] * 8, *np.linspace(0.5, 1, 120)]
    table = HostTable(inner, [with_a_plateau] * inner.channels)
    depth_m = np.linspace(0.51, 14.9, 2000, dtype=np.float32).reshape(1, 1, -1)
    assert np.allclose(table.decode(table.encode(depth_m)), depth_m, rtol=3e-4)
    falling = HostTable(inner, [with_a_plateau[::-1]] * inner.channels)
    assert np.allclose(falling.decode(falling.encode(depth_m)), depth_m, rtol=3e-4)
    assert np.allclose(falling.decode(1 - table.encode(depth_m)), depth_m, rtol=3e-4)
    same = table.encode_with(torch, torch.from_numpy(depth_m)).numpy()
    assert np.array_equal(same, table.encode(depth_m))


def test_gradients_are_those_of_the_curve():
    codec = DepthCodec(HostTable(INNER[0], [curve()]))
    codes = torch.linspace(0.1, 0.9, 50).view(1, 1, 1, -1).requires_grad_()
    (slope,) = torch.autograd.grad(codec.decode(codes).sum(), codes)
    ahead, behind = (codec.decode(codes.detach() + each) for each in (1e-3, -1e-3))
    assert torch.allclose(slope, (ahead - behind) / 2e-3, rtol=0.05)


@pytest.mark.parametrize("inner", INNER, ids=str)
def test_it_is_described_and_read_back(inner):
    table = HostTable(inner, [curve()] * inner.channels)
    again = codec_of(json.loads(json.dumps(describe_codec(table))))
    codes = np.random.default_rng(0).random((inner.channels, 1, 500), dtype=np.float32)
    assert str(again) == str(table)
    assert np.array_equal(again.decode(codes), table.decode(codes))
    assert np.all(np.diff(table.grid_m()) > 0)


def test_the_formula_names_the_table():
    table = HostTable(HostSingle(RANGE), [curve()])
    assert formula(table) == "code = table_0(device_code); depth_m = 0.5 * (15/0.5)^code"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([], "expected one decode table per code .1., received 0"),
        ([[0.5]], "decode table 0: expected a list of 2 to 4096 numbers"),
        ([["a", "b"]], "decode table 0: expected a list of 2 to 4096 numbers"),
        ([[0, float("nan"), 1]], r"decode table 0: expected numbers in \[0, 1\]"),
        ([[[0], [0, 1]]], "decode table 0: expected a list of numbers"),
        ([[0, 2]], r"decode table 0: expected numbers in \[0, 1\]"),
        ([[0, 0.4, 0.3, 1]], "decode table 0 turns: 0.4 is followed by 0.3 behind entry 1"),
        ([[1, 0.3, 0.4, 0]], "decode table 0 turns: 0.3 is followed by 0.4 behind entry 1"),
    ],
)
def test_a_table_that_is_none_is_refused(tables, message):
    with pytest.raises(ConfigError, match=message):
        HostTable(HostSingle(RANGE), tables)


def test_a_damaged_description_is_refused():
    described = describe_codec(HostTable(HostSingle(RANGE), [curve()]))
    for change in ({"tables": None}, {"codec": 5}, {"more": 1}):
        with pytest.raises(ConfigError, match="a codec of kind table needs codec and tables"):
            codec_of(described | change)
    with pytest.raises(ConfigError, match="not before another decode table"):
        codec_of(described | {"codec": described})
