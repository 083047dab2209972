"""Transposed convolutions become upsampling and a convolution: exact by phases, nearest in least squares else."""

import pytest
import torch
from torch import nn

from depth_distill.quantization.passes.surgery.phases import interpolation
from tests.quantization.passes.surgery.cases import deviation, kinds, moved, prepare

SHAPES = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 4, "stride": 4, "bias": False},
    {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 2},
    {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2, "output_padding": 1},
    {"kernel_size": 5, "stride": 3, "padding": 1},
]


def net(**arguments):
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 6, **arguments)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), up, nn.ReLU(), nn.Conv2d(6, 1, 1))


@pytest.mark.parametrize("arguments", SHAPES, ids=str)
def test_by_phases_it_is_exact(arguments):
    network = net(**arguments)
    prepared = prepare(network, {"replace_transposed_convs": {"by": "pixel_shuffle"}})
    assert kinds(prepared.graph) == ["Conv2d", "ReLU", "Conv2d", "PixelShuffle", "ReLU", "Conv2d"]
    assert moved(network, prepared) < 1e-5
    assert "changes the function" not in prepared.reports[0].summary
    if arguments["kernel_size"] == arguments["stride"]:
        assert prepared.graph.get_submodule("2").kernel_size == (1, 1)


@pytest.mark.parametrize("arguments", SHAPES, ids=str)
def test_behind_nearest_upsampling_it_is_near(arguments):
    network = net(**arguments)
    prepared = prepare(network, "replace_transposed_convs")
    assert kinds(prepared.graph) == ["Conv2d", "ReLU", "Upsample", "Conv2d", "ReLU", "Conv2d"]
    report = prepared.reports[0]
    assert report.values["deviation"] == pytest.approx(deviation(network, prepared), rel=1e-3)
    assert "its kernel off by" in report.values["replaced"]["2"]
    # The error that is told is that of the response to single pixels, and less than that of no kernel at all.
    pixels = torch.zeros(4, 4, 9, 9)
    pixels[range(4), range(4), 4, 4] = 1
    up, plain = network[2], prepared.graph.get_submodule("2")
    with torch.no_grad():
        expected = up(pixels) - up(0 * pixels)
        coarse = nn.functional.interpolate(pixels, scale_factor=arguments["stride"])
        found = plain(coarse) - plain(0 * coarse)
    error = float((found - expected).norm() / expected.norm())
    assert error < 0.9
    assert f"its kernel off by {100 * error:.2g} %" in report.values["replaced"]["2"]


@pytest.mark.parametrize(("kernel", "padding"), [(4, 1), (8, 3)])
def test_kernels_whose_phases_have_equal_sums_are_exact(kernel, padding):
    network = net(kernel_size=kernel, stride=2, padding=padding)
    # (factor, taps) of an interpolation, as the kernel of a transposed convolution: place = phase + padding - 2 offset.
    taps = interpolation(2, "bilinear" if kernel == 4 else "bicubic", 3).view(2, 7)
    line = torch.zeros(kernel, dtype=torch.float64)
    for phase in range(2):
        for offset in range(-3, 4):
            place = phase + padding - 2 * offset
            if 0 <= place < kernel:
                line[place] = taps[phase, offset + 3]
    assert line.sum() == pytest.approx(2)
    with torch.no_grad():
        network[2].weight.copy_(torch.outer(line, line) * torch.randn(4, 6, 1, 1))
    prepared = prepare(network, "replace_transposed_convs")
    assert prepared.reports[0].values["replaced"]["2"].endswith("exact")
    assert moved(network, prepared) < 1e-5


@pytest.mark.parametrize("arguments", [{"padding": 1}, {"padding": 0}, {"padding": 1, "dilation": 2, "groups": 2}])
@pytest.mark.parametrize("by", ["nearest", "pixel_shuffle"])
def test_with_stride_1_it_is_a_convolution(arguments, by):
    network = net(kernel_size=3, **arguments)
    prepared = prepare(network, {"replace_transposed_convs": {"by": by}})
    assert kinds(prepared.graph) == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]
    assert moved(network, prepared) < 1e-5


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.up = nn.Conv2d(3, 1, 1), nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1)

    def forward(self, x):
        return self.up(self.up(self.conv(x)))


@pytest.mark.parametrize("by", ["nearest", "pixel_shuffle"])
def test_one_that_is_called_twice(by):
    prepared = prepare(Twice(), {"replace_transposed_convs": {"by": by}})
    assert kinds(prepared.graph).count("Conv2d") == 3
    if by == "pixel_shuffle":
        assert moved(Twice(), prepared) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"kernel_size": 3, "stride": 2, "padding": 1}, "its output is not 2 x 2 times its input"),
        ({"kernel_size": 3, "padding": 3}, "with stride 1 it pads or crops its output"),
    ],
)
def test_what_is_left_is_said(arguments, reason):
    report = prepare(net(**arguments), "replace_transposed_convs").reports[0]
    assert report.values["left"] == {"2": reason}
    assert report.summary.startswith("nothing to replace; 1 left")


def test_nothing_to_replace():
    report = prepare(nn.Sequential(nn.Conv2d(3, 1, 3)), "replace_transposed_convs").reports[0]
    assert report.summary == "nothing to replace"
