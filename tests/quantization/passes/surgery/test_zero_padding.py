"""Zero padding: inside convolutions where it can be, exact where zeros were there before."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.surgery.zero_padding import zero_padding
from tests.quantization.passes.surgery.cases import deviation, images, kinds, moved, prepare


class Functional(nn.Module):
    def __init__(self, *arguments, **keywords):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 1, 3)
        self.arguments, self.keywords = arguments, keywords

    def forward(self, x):
        return self.conv(F.pad(x, *self.arguments, **self.keywords)).sigmoid()


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.Conv2d(3, 1, 3), nn.Sigmoid())


@pytest.mark.parametrize(
    ("net", "mode"),
    [
        (network(nn.ReflectionPad2d(1)), "reflect"),
        (network(nn.ReplicationPad2d(1)), "replicate"),
        (network(nn.CircularPad2d(1)), "circular"),
        (Functional((1, 1, 1, 1), "reflect"), "reflect"),
        (Functional(pad=(1, 1, 1, 1), mode="circular"), "circular"),
    ],
)
def test_padding_goes_into_the_convolution_and_changes_the_border_alone(net, mode):
    prepared = prepare(net, "zero_padding")
    assert kinds(prepared.graph)[0] == "Conv2d"
    (layer,) = (each for each in prepared.graph.modules() if isinstance(each, nn.Conv2d))
    assert (layer.padding, layer.padding_mode) == ((1, 1), "zeros")
    with torch.no_grad():
        before, after = trace(net)(images()), prepared.graph(images())
    torch.testing.assert_close(after[..., 1:-1, 1:-1], before[..., 1:-1, 1:-1], rtol=1e-5, atol=1e-6)
    report = prepared.reports[0]
    assert report.values["deviation"] == pytest.approx(deviation(net, prepared), rel=1e-3) != 0
    assert report.values["merged"] == 1
    assert list(report.values["replaced"].values()) == [f"{mode} became zeros, merged into {net_conv(net)}"]
    assert "changes the function: output moved by" in report.summary
    assert "train behind it" in report.summary


def net_conv(net):
    return next(name for name, each in net.named_modules() if isinstance(each, nn.Conv2d))


@pytest.mark.parametrize("padding", [1, "same"])
def test_a_convolution_that_reflects_by_itself(padding):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 1, 3, padding=padding, padding_mode="reflect"))
    prepared = prepare(net, "zero_padding")
    plain = nn.Conv2d(3, 1, 3, padding=1)
    plain.load_state_dict(net[0].state_dict())
    torch.testing.assert_close(prepared.graph(images()), plain(images()))
    assert prepared.reports[0].values["replaced"] == {"0": "reflect became zeros"}


@pytest.mark.parametrize(
    "net",
    [
        network(nn.ZeroPad2d((2, 2, 1, 1))),
        network(nn.ConstantPad2d(1, 0.0)),
        Functional((1, 1, 2, 2)),
        Functional((1, 1), value=0.0),
        nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 1, 3, padding=1)),
        nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(3, 1, 3, padding="same")),
    ],
)
def test_zeros_are_merged_exactly(net):
    prepared = prepare(net, "zero_padding")
    assert "pad" not in " ".join(kinds(prepared.graph)).lower()
    assert moved(net, prepared) < 1e-6
    assert "changes the function" not in prepared.reports[0].summary
    assert "1 paddings became zero padding" in prepared.reports[0].summary


class Shared(nn.Module):
    """One padding is read by two convolutions; one of them is called behind another padding, too."""

    def __init__(self, other):
        super().__init__()
        torch.manual_seed(0)
        self.pad = nn.ReflectionPad2d(1)
        self.other = other
        self.one, self.two = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

    def forward(self, x):
        padded = self.pad(x)
        return self.two(self.other(self.one(padded) + self.two(padded)))[:, :1]


def test_a_convolution_that_is_called_twice_is_merged_at_both_calls_or_not_at_all():
    prepared = prepare(Shared(nn.ReplicationPad2d(1)), "zero_padding")
    assert kinds(prepared.graph) == ["Conv2d", "Conv2d", "add", "Conv2d", "getitem"]
    assert prepared.graph.two.padding == (1, 1)
    prepared = prepare(Shared(nn.ReplicationPad2d(2)), "zero_padding")
    assert kinds(prepared.graph) == ["ZeroPad2d", "Conv2d", "Conv2d", "add", "ZeroPad2d", "Conv2d", "getitem"]
    assert prepared.graph.two.padding == (0, 0)
    assert "two is called elsewhere with another padding" in prepared.reports[0].values["replaced"]["pad"]


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (network(nn.ConstantPad2d(1, 2.0)), "it pads with 2"),
        (Functional((1, 1, 1, 1), value=-1.0), "it pads with -1"),
        (network(nn.ZeroPad2d((0, 1, 0, 1))), "zeros already, but (0, 1, 0, 1) (left, right, top, bottom) is not"),
        (network(nn.ZeroPad2d(1), nn.MaxPool2d(2)), "zeros already, but it is read by 1"),
    ],
)
def test_what_is_left_is_said(net, reason):
    prepared = prepare(net, "zero_padding")
    (said,) = prepared.reports[0].values["left"].values()
    assert reason in said
    assert moved(net, prepared) == 0
    assert prepared.reports[0].summary.startswith("nothing to replace; 1 left")


def test_an_asymmetric_reflection_becomes_zeros_and_stays_an_operator():
    prepared = prepare(network(nn.ReflectionPad2d((0, 1, 0, 1))), "zero_padding")
    assert kinds(prepared.graph)[:2] == ["ZeroPad2d", "Conv2d"]


def test_nothing_to_replace():
    net = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1))
    graph = trace(net)
    changed, changes = zero_padding(graph)
    assert changed is not graph
    assert (changes.done, changes.left) == ({}, {})
    assert prepare(net, "zero_padding").reports[0].summary == "nothing to replace"
