"""Learned ranges in the float file: a tool chain's min/max calibration finds them."""

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.clips import bake_ranges
from depth_distill.quantization.graph import trace
from depth_distill.quantization.insert import quantizers
from depth_distill.quantization.ptq import quantize_post_training
from depth_distill.quantization.target import load_target

TARGET = load_target("per-tensor-minmax")


def test_calibration_finds_the_baked_range():
    torch.manual_seed(0)
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    images = torch.randn(4, 3, 16, 16)
    wide = quantize_post_training(graph, TARGET, [images], progress=False)
    assert quantizers(wide)["1"].bounds[1] > 1.0
    baked = bake_ranges(graph, TARGET, {"1": (0.0, 0.75), "2": (-0.1, 0.2)})
    found = quantizers(quantize_post_training(baked, TARGET, [images], progress=False))
    assert found["clips._1"].bounds == pytest.approx((0.0, 0.75), abs=1e-6)
    # The zero point is a whole number, so the ends move by up to half a step.
    assert found["clips._2"].bounds == pytest.approx((-0.1, 0.2), abs=0.3 / 255)
    assert len(found) == len(quantizers(wide))  # nothing is rounded twice


def test_a_range_of_no_site_is_refused():
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(ConfigError, match="no such site"):
        bake_ranges(graph, TARGET, {"7": (0.0, 1.0)})
