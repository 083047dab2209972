"""Squeeze-and-excite gates become constant factors, folded where that is exact."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SEModule
from torch import nn

from tests.quantization.passes.surgery.cases import deviation, images, kinds, prepare


class Net(nn.Module):
    """A gate between two convolutions, with something in front of it and behind it."""

    def __init__(self, gate, before=F.relu, between=nn.Identity()):  # noqa: B008
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 1, 3, padding=1)
        self.gate, self.before, self.between = gate, before, between

    def forward(self, x):
        return self.two(self.between(self.gate(self.before(self.one(x)))))


class Excite(nn.Module):
    """As written for linear layers."""

    def __init__(self, reshape="view"):
        super().__init__()
        torch.manual_seed(1)
        self.fc1, self.fc2 = nn.Linear(8, 4), nn.Linear(4, 8)
        self.pool, self.reshape = nn.AdaptiveAvgPool2d(1), reshape

    def forward(self, x):
        batch, channels = x.shape[:2]
        gate = F.hardsigmoid(self.fc2(F.relu(self.fc1(self.pool(x).flatten(1)))))
        gate = gate.view(batch, channels, 1, 1)
        return gate.expand_as(x) * x if self.reshape == "expand" else x.mul(gate)


class OfSpace(nn.Module):
    """A gate per position is not pooled."""

    def forward(self, x):
        return x * torch.sigmoid(x.mean(1, keepdim=True))


def excite():
    torch.manual_seed(1)
    return SEModule(8, rd_channels=4)


def expected(net):
    """The network with the mean gate by hand."""
    with torch.no_grad():
        x = net.before(net.one(images()))
        gates = (net.gate(x).flatten(2).sum(2) / x.flatten(2).sum(2)).double()
        return net.two(net.between(x * gates.mean(0).float().view(1, -1, 1, 1)))


@pytest.mark.parametrize("gate", [excite, Excite, lambda: Excite("expand")])
def test_the_mean_gate_goes_into_the_convolution_behind(gate):
    net = Net(gate(), before=nn.SiLU())
    prepared = prepare(net, "replace_gates")
    assert kinds(prepared.graph) == ["Conv2d", "SiLU", "Identity", "Conv2d"]
    with torch.no_grad():
        torch.testing.assert_close(prepared.graph(images()), expected(net), rtol=1e-4, atol=1e-5)
    report = prepared.reports[0]
    assert report.values["deviation"] == pytest.approx(deviation(net, prepared), rel=1e-3) != 0
    (said,) = report.values["replaced"].values()
    assert said.endswith("in two")


def test_else_into_the_convolution_before_through_a_relu():
    net = Net(excite(), between=nn.Softplus())
    prepared = prepare(net, "replace_gates")
    assert kinds(prepared.graph) == ["Conv2d", "relu", "Softplus", "Conv2d"]
    assert prepared.graph.one.bias is None
    with torch.no_grad():
        torch.testing.assert_close(prepared.graph(images()), expected(net), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "by"), [(Net(excite(), nn.SiLU(), nn.Softplus()), "none"), (Net(excite()), "conv")], ids=["no way", "asked"]
)
def test_else_into_a_convolution_of_its_own(net, by):
    prepared = prepare(net, {"replace_gates": {"by": by}})
    own = prepared.graph.get_submodule("gate.gate_factor")
    assert (own.groups, own.kernel_size, own.bias) == (8, (1, 1), None)
    assert kinds(prepared.graph)[2:4] == ["Conv2d", kinds(prepared.graph)[3]]
    with torch.no_grad():
        torch.testing.assert_close(prepared.graph(images()), expected(net), rtol=1e-4, atol=1e-5)


class Residual(Net):
    """What is gated is read without its gate, too."""

    def forward(self, x):
        x = F.relu(self.one(x))
        return self.two(self.gate(x)) + self.two(x)


def test_a_tensor_that_is_read_without_its_gate_keeps_its_scale():
    prepared = prepare(Residual(excite()), "replace_gates")
    assert kinds(prepared.graph) == ["Conv2d", "relu", "Conv2d", "Conv2d", "Conv2d", "add"]
    assert torch.equal(prepared.graph.one.weight, Residual(excite()).one.weight)


def test_other_products_are_left():
    prepared = prepare(Net(OfSpace(), nn.SiLU()), "replace_gates")
    assert prepared.reports[0].values["left"] == {
        "gate.sigmoid": "it is computed from tensors that are not pooled over the whole image"
    }
    assert prepared.reports[0].summary.startswith("nothing to replace; 1 left")
    swish = prepare(Net(lambda x: x * torch.sigmoid(x)), "replace_gates").reports[0]
    assert swish.summary == "nothing to replace"
