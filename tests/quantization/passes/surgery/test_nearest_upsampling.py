"""Interpolation becomes nearest upsampling and a depthwise kernel, exact in the interior."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.quantization.graph.trace import trace
from tests.quantization.passes.surgery.cases import deviation, images, kinds, moved, outputs, prepare


class Net(nn.Module):
    """Upsampling between two convolutions."""

    def __init__(self, up):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.up = up

    def forward(self, x):
        return self.two(self.up(self.one(x)))


def module(factor, mode, **keywords):
    return nn.Upsample(scale_factor=factor, mode=mode, **keywords)


def function(factor, mode):
    return lambda x: F.interpolate(x, size=(x.shape[2] * factor, x.shape[3] * factor), mode=mode, align_corners=False)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("write", [module, function])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_interior_is_exact(write, factor, mode):
    net = Net(write(factor, mode))
    prepared = prepare(net, "nearest_upsampling")
    names = kinds(prepared.graph)
    assert names == ["Conv2d", "Upsample" if write is module else "interpolate", "Conv2d", "Conv2d"]
    kernel = next(each for each in prepared.graph.modules() if isinstance(each, nn.Conv2d) and each.groups == 4)
    border = kernel.padding[0]
    assert kernel.kernel_size[0] == 2 * border + 1
    before, after = outputs(net, prepared)
    inside = (..., slice(border, -border), slice(border, -border))
    torch.testing.assert_close(after[inside], before[inside], rtol=1e-5, atol=1e-5)
    assert (after - before)[..., 0, 0].abs().max() > 1e-3
    report = prepared.reports[0]
    assert report.values["deviation"] == pytest.approx(deviation(net, prepared), rel=1e-3)
    assert "train behind it" in report.summary


def test_bilinear_by_2_is_a_binomial_kernel():
    prepared = prepare(Net(module(2.0, "bilinear")), "nearest_upsampling")
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    expected = torch.outer(line, line).expand(4, 1, 3, 3)
    torch.testing.assert_close(prepared.graph.get_submodule("up_smooth").weight.detach(), expected)


def test_factors_may_differ():
    net = Net(module((2.0, 4.0), "bilinear"))
    prepared = prepare(net, "nearest_upsampling")
    assert prepared.graph.get_submodule("up_smooth").kernel_size == (3, 5)
    before, after = outputs(net, prepared)
    torch.testing.assert_close(after[..., 1:-1, 2:-2], before[..., 1:-1, 2:-2], rtol=1e-5, atol=1e-5)


def test_aligned_corners_are_approximated_and_said():
    net = Net(nn.UpsamplingBilinear2d(scale_factor=2))
    prepared = prepare(net, "nearest_upsampling")
    assert prepared.reports[0].values["replaced"]["up"].endswith("an approximation of align_corners")
    assert prepared.reports[0].values["deviation"] == pytest.approx(deviation(net, prepared), rel=1e-3)
    assert 1e-4 < deviation(net, prepared) < 0.1


def test_from_a_single_pixel_every_mode_is_nearest():
    def pooled(x):
        return F.interpolate(F.adaptive_avg_pool2d(x, 1), size=x.shape[-2:], mode="bilinear") + x

    net = Net(pooled)
    prepared = prepare(net, "nearest_upsampling")
    assert moved(net, prepared) < 1e-6
    (node,) = (each for each in prepared.graph.graph.nodes if each.target is F.interpolate)
    assert node.kwargs["mode"] == "nearest"
    assert len([each for each in kinds(prepared.graph) if each == "Conv2d"]) == 2


class Twice(Net):
    def forward(self, x):
        return self.two(self.up(self.one(x))) + F.avg_pool2d(self.up(self.up(x[:, :1])), 2)


def test_one_module_for_two_sizes():
    net = Twice(module(2.0, "bilinear"))
    prepared = prepare(net, "nearest_upsampling")
    assert kinds(prepared.graph).count("Upsample") == 3
    before, after = outputs(net, prepared)
    torch.testing.assert_close(after[..., 2:-2, 2:-2], before[..., 2:-2, 2:-2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("up", "reason"),
    [
        (module(1.5, "bilinear"), "bilinear from 16 x 16 to 24 x 24 is not by whole factors"),
        (lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic", antialias=True), "bicubic with antialias"),
    ],
)
def test_what_is_left_is_said(up, reason):
    report = prepare(Net(up), "nearest_upsampling").reports[0]
    assert list(report.values["left"].values()) == [reason]
    assert report.summary.startswith("nothing to replace; 1 left")


def test_nearest_is_nothing_to_replace():
    net = Net(module(2.0, "nearest"))
    prepared = prepare(net, "nearest_upsampling")
    assert prepared.reports[0].summary == "nothing to replace"
    assert torch.equal(prepared.graph(images()), trace(net.eval())(images()))
