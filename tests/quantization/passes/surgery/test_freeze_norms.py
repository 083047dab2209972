"""Norms that measure each image become constant affines, in a neighbouring layer where one takes them."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import GroupNormAct, LayerNorm2d
from timm.models.convnext import ConvNeXtBlock
from torch import nn

from depth_distill.quantization.graph.trace import trace
from tests.quantization.passes.surgery.cases import deviation, images, kinds, prepare


class Net(nn.Module):
    """A norm between two convolutions."""

    def __init__(self, norm, padding=1, skip=False):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=padding)
        self.norm, self.skip = norm, skip
        for parameter in norm.parameters():
            nn.init.normal_(parameter)

    def forward(self, x):
        x = self.one(x)
        normed = self.norm(x)
        return self.two(normed + x if self.skip else normed)


def by_hand(net):
    """The network with the nearest affine per channel, from a least-squares solver."""
    with torch.no_grad():
        x = net.one(images())
        y = net.norm(x)
        fitted = torch.empty_like(y)
        for channel in range(8):
            design = torch.stack([x[:, channel].flatten(), torch.ones(x[:, channel].numel())], 1).double()
            solution = torch.linalg.lstsq(design, y[:, channel].flatten().double()[:, None]).solution
            fitted[:, channel] = (design @ solution).view_as(fitted[:, channel]).float()
        return net.two(fitted + x if net.skip else fitted)


NORMS = [
    lambda: nn.GroupNorm(2, 8),
    lambda: nn.InstanceNorm2d(8, affine=True),
    lambda: nn.InstanceNorm2d(8),
    lambda: LayerNorm2d(8),
    lambda: GroupNormAct(8, 2, apply_act=False),
]


@pytest.mark.parametrize("norm", NORMS)
def test_the_nearest_affine_goes_into_the_convolution_before(norm):
    net = Net(norm())
    prepared = prepare(net, "freeze_norms")
    assert [each for each in kinds(prepared.graph) if each != "Identity"] == ["Conv2d", "Conv2d"]
    with torch.no_grad():
        torch.testing.assert_close(prepared.graph(images()), by_hand(net), rtol=1e-4, atol=1e-5)
    report = prepared.reports[0]
    assert report.values["deviation"] == pytest.approx(deviation(net, prepared), rel=1e-3) != 0
    (said,) = report.values["replaced"].values()
    assert said.startswith("an affine in one, ")
    assert said.endswith("% of the variance kept")


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(2, 8), lambda: LayerNorm2d(8)])
def test_else_into_a_convolution_of_its_own(norm):
    net = Net(norm(), skip=True)
    prepared = prepare(net, "freeze_norms")
    assert prepared.graph.get_submodule("norm_affine").groups == 8
    assert [each for each in kinds(prepared.graph) if each != "Identity"] == ["Conv2d", "Conv2d", "add", "Conv2d"]
    with torch.no_grad():
        torch.testing.assert_close(prepared.graph(images()), by_hand(net), rtol=1e-4, atol=1e-5)


class Behind(Net):
    """What is normed is read elsewhere, and the norm by a convolution that does not pad."""

    def forward(self, x):
        x = self.one(x)
        return self.two(self.norm(x)) + x[:, :1, 1:-1, 1:-1]


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(4, 8), lambda: LayerNorm2d(8)])
def test_else_into_a_convolution_behind_that_does_not_pad(norm):
    net = Behind(norm(), padding=0)
    prepared = prepare(net, "freeze_norms")
    assert "two" in "".join(prepared.reports[0].values["replaced"].values())
    assert not any(each in ("permute", "layer_norm", "GroupNorm") for each in kinds(prepared.graph))
    net_alone = Net(net.norm, padding=0)
    net_alone.load_state_dict(net.state_dict())
    with torch.no_grad():
        expected = by_hand(net_alone) + net.one(images())[:, :1, 1:-1, 1:-1]
        torch.testing.assert_close(prepared.graph(images()), expected, rtol=1e-4, atol=1e-5)


def test_a_norm_that_measures_nothing_is_exact():
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    net = Net(norm).eval()
    prepared = prepare(net, "freeze_norms")
    assert deviation(net, prepared) < 1e-6
    assert "100 % of the variance kept" in prepared.reports[0].values["replaced"]["norm"]


def test_the_layer_norm_of_a_convnext_block_goes_into_its_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), ConvNeXtBlock(8), nn.Conv2d(8, 1, 1))
    prepared = prepare(net, "freeze_norms")
    assert "an affine in 1.conv_dw" in prepared.reports[0].values["replaced"]["1.norm.layer_norm"]
    assert "layer_norm" not in kinds(prepared.graph)


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        self.norm = nn.LayerNorm((1, 16, 16), elementwise_affine=False)

    def forward(self, x):
        return F.softplus(self.norm(self.conv(x)))


def test_what_is_left_is_said():
    report = prepare(Positions(), "freeze_norms").reports[0]
    assert report.values["left"] == {"norm": "it normalizes over positions, too"}
    assert report.summary.startswith("nothing to replace; 1 left")


def test_nothing_to_replace():
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
    prepared = prepare(net, "freeze_norms")
    assert prepared.reports[0].summary == "nothing to replace"
    assert kinds(prepared.graph) == kinds(trace(net))
