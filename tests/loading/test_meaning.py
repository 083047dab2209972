import pytest
import torch

from depth_distill.codecs import HostSingle
from depth_distill.errors import ConfigError
from depth_distill.loading.meaning import Meaning, steps_of
from depth_distill.models import DepthCodec

RANGE = {"min_m": 0.5, "max_m": 15.0}


def depth_of(meaning, output):
    """Depth as the product computes it: output to codes, codes to metres."""
    scale, offset, _ = meaning.affine
    codes = (output.double() * scale + offset).clamp(0, 1).float()
    return DepthCodec(meaning.host_codec).decode(codes.reshape(1, 1, 1, -1)).flatten()


def test_bounded_disparity_of_monodepth2_is_read_as_its_own_formula_reads_it():
    disp = torch.linspace(0, 1, 101)

    found = depth_of(Meaning(encoding="inverse", near=1, **RANGE), disp)

    # Godard et al. 2019, layers.py: scaled_disp = min_disp + (max_disp - min_disp) * disp; depth = 1 / scaled_disp
    torch.testing.assert_close(found, 1 / (1 / 15 + (1 / 0.5 - 1 / 15) * disp), rtol=1e-5, atol=0)


def test_a_range_in_inverse_metres_is_that_of_metres():
    inverse = Meaning(encoding="inverse", near=1, min_inverse_m=1 / 15, max_inverse_m=2.0)

    assert inverse.depth_range.min_m == 0.5
    assert inverse.depth_range.max_m == pytest.approx(15)


@pytest.mark.parametrize(
    ("meaning", "output", "depth_m"),
    [
        (Meaning(returns="metres", **RANGE), [0.5, 3.0, 15.0], [0.5, 3.0, 15.0]),
        (Meaning(returns="metres", unit_m=0.001, **RANGE), [500.0, 3000.0, 99999.0], [0.5, 3.0, 15.0]),
        (Meaning(returns="inverse_metres", **RANGE), [2.0, 0.25, 0.001], [0.5, 4.0, 15.0]),
        # 1 / depth, with depth in centimetres: 0.02 / cm = 2 / m
        (Meaning(returns="inverse_metres", unit_m=0.01, **RANGE), [0.02, 0.0025], [0.5, 4.0]),
        (Meaning(encoding="log", near=1, **RANGE), [1.0, 0.0], [0.5, 15.0]),
        (Meaning(encoding="linear", near=0, **RANGE), [0.0, 0.5, 1.0], [0.5, 7.75, 15.0]),
    ],
)
def test_depth_of_each_meaning(meaning, output, depth_m):
    torch.testing.assert_close(depth_of(meaning, torch.tensor(output)), torch.tensor(depth_m), rtol=1e-5, atol=0)


def test_depth_up_to_scale_is_proportional_to_the_output():
    meaning = Meaning(returns="relative", alignment="median", output_range=(1.0, 30.0), **RANGE)

    depth_m = depth_of(meaning, torch.tensor([2.0, 4.0, 12.0]))

    torch.testing.assert_close(depth_m / depth_m[0], torch.tensor([1.0, 2.0, 6.0]), rtol=1e-5, atol=0)


def test_inverse_depth_up_to_scale_and_shift_is_aligned_in_inverse_depth():
    meaning = Meaning(
        returns="relative", encoding="inverse", near=1, alignment="scale_and_shift", output_range=(0.0, 30.0), **RANGE
    )

    assert meaning.aligned_by == "inverse_scale_and_shift"
    assert Meaning(**RANGE).aligned_by == "none"


def test_a_network_with_several_codes_is_described_as_in_a_manifest():
    codec = {"kind": "integer_fractional", "decoder": "unwrap", "integer": "coarse", "fraction": "sawtooth"}

    meaning = Meaning(codec=codec, **RANGE)

    assert meaning.host_codec.channels == 2
    assert meaning.affine == (1.0, 0.0, False)
    assert isinstance(Meaning(**RANGE).host_codec, HostSingle)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"min_m": 0.5}, "either max_m or min_inverse_m"),
        ({**RANGE, "min_inverse_m": 0.1}, "either max_m or min_inverse_m"),
        ({"min_m": 0.5, "min_inverse_m": -1.0}, "min_inverse_m must be positive"),
        ({**RANGE, "returns": "relative", "output_range": (0.0, 1.0)}, "returns: relative needs alignment; median"),
        ({**RANGE, "alignment": "median"}, "alignment belongs to returns: relative, not codes"),
        ({**RANGE, "returns": "metres", "near": 1}, "near: 1 contradicts returns: metres"),
        ({**RANGE, "returns": "metres", "encoding": "log"}, "metres has the encoding linear, received log"),
        ({**RANGE, "unit_m": 0.0}, "unit_m must be positive"),
        (
            {**RANGE, "returns": "relative", "alignment": "median", "output_range": (0.0, 1.0)},
            "depth up to scale has no shift",
        ),
        ({"min_m": 3.0, "max_m": 1.0}, "0 < min_m < max_m"),
    ],
)
def test_keys_that_do_not_belong_together_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        Meaning(**keys)


def test_a_key_that_is_a_tuple_is_written_as_a_list():
    assert steps_of([["disp", 0], 1]) == (("disp", 0), 1)
