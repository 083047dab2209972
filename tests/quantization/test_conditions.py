"""A network has to return what its interface says."""

import pytest
import torch
from torch import nn

from depth_distill.codecs import DepthRange, HostSingle
from depth_distill.errors import ConfigError
from depth_distill.quantization.conditions import ensure_codes
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.target.target import load_target


def codec_context(*images):
    interface = Interface.of_codes(InputLayout(8, 8, (0.5,) * 3, (0.25,) * 3), HostSingle(DepthRange(0.5, 15.0), "log"))
    return Context(load_target("per-tensor-minmax"), images, interface)


@pytest.mark.parametrize(
    ("output", "what"),
    [
        (lambda x: {"disp": x}, r"a dict of 'disp'"),
        (lambda x: (x, x), r"a tuple of 2"),
        (lambda x: x[..., ::2, ::2], r"a tensor \(2, 1, 4, 4\)"),
        (lambda x: x[:, 0], r"a tensor \(2, 8, 8\)"),
    ],
)
def test_a_network_that_returns_anything_but_codes_of_the_images_size_is_refused(output, what):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.Sigmoid())

        def forward(self, x):
            return output(self.inner(x))

    with pytest.raises(ConfigError, match=rf"the network returned {what} .* expected one tensor \(2, 1, 8, 8\)"):
        ensure_codes(Other().eval(), codec_context(torch.rand(8, 3, 8, 8)))


def test_a_network_that_returns_metres_is_refused():
    class Metres(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.Sigmoid())

        def forward(self, x):
            return 0.5 + 14.5 * self.inner(x)

    with pytest.raises(ConfigError, match=r"returned values from .* to .*, expected codes in \[0, 1\]: .* metres"):
        ensure_codes(Metres().eval(), codec_context(torch.rand(8, 3, 8, 8)))
