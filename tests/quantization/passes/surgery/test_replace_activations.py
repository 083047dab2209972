"""Activations become ReLU or leaky ReLU, except the one that ends the network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.surgery.replace_activations import replace_activations
from tests.quantization.passes.surgery.cases import deviation, images, kinds, outputs, prepare


class Net(nn.Module):
    """Two convolutions around an activation, whatever it is; a sigmoid at the end."""

    def __init__(self, act, last=torch.sigmoid):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.act, self.last = act, last

    def forward(self, x):
        return self.last(self.two(self.act(self.one(x))))


def with_relu(net, act=F.relu):
    plain = Net(act, net.last)
    plain.load_state_dict(net.state_dict())
    return plain


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (nn.ELU(), "elu"),
        (nn.SELU(inplace=True), "selu"),
        (nn.CELU(), "celu"),
        (nn.SiLU(), "silu"),
        (nn.GELU(), "gelu"),
        (nn.Hardswish(), "hardswish"),
        (nn.Mish(), "mish"),
        (F.elu, "elu"),
        (F.silu, "silu"),
        (F.gelu, "gelu"),
        (F.hardswish, "hardswish"),
        (F.mish, "mish"),
        (lambda x: x * torch.sigmoid(x), "silu"),
        (lambda x: x.sigmoid().mul(x), "silu"),
        (lambda x: x * F.hardsigmoid(x), "hardswish"),
        (lambda x: x * torch.tanh(F.softplus(x)), "mish"),
    ],
)
@pytest.mark.parametrize("by", ["relu", "leaky_relu"])
def test_every_kind_however_it_is_written(act, kind, by):
    net = Net(act)
    prepared = prepare(net, {"replace_activations": {"by": by}})
    before, after = outputs(net, prepared)
    with torch.no_grad():
        torch.testing.assert_close(after, with_relu(net, getattr(F, by))(images()))
    assert not torch.allclose(before, after, atol=1e-3)
    report = prepared.reports[0]
    assert list(report.values["replaced"].values()) == [f"{kind} became {by}"]
    assert report.values["deviation"] == pytest.approx(deviation(net, prepared), rel=1e-3)
    assert len(kinds(prepared.graph)) == 4
    if isinstance(act, nn.Module):  # hooks by name still work
        assert type(prepared.graph.get_submodule("act")) is (nn.ReLU if by == "relu" else nn.LeakyReLU)


@pytest.mark.parametrize("last", [F.elu, lambda x: 1 / (1 + F.softplus(x)), nn.SiLU()])
def test_the_activation_that_ends_the_network_stays(last):
    net = Net(nn.ELU(), last)
    prepared = prepare(net, {"replace_activations": {"kinds": ["elu", "silu", "softplus"]}})
    values = prepared.reports[0].values
    assert list(values["replaced"]) == ["act"]
    assert all(reason.endswith("ends the network") for reason in values["left"].values())
    assert len(values["left"]) == 1
    with torch.no_grad():
        torch.testing.assert_close(prepared.graph(images()), with_relu(net)(images()))


def test_a_module_that_also_ends_the_network_is_replaced_at_its_other_calls():
    act = nn.ELU()
    prepared = prepare(Net(act, act), "replace_activations")
    assert kinds(prepared.graph) == ["Conv2d", "ReLU", "Conv2d", "ELU"]


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ELU(), lambda x: torch.sigmoid(x)])
def test_other_activations_stay(act):
    graph = trace(Net(act))
    changed, changes = replace_activations(graph, "relu", ["silu"])
    assert (changes.done, changes.left) == ({}, {})
    assert kinds(changed) == kinds(graph)
    report = prepare(Net(act), {"replace_activations": {"kinds": ["silu"]}}).reports[0]
    assert report.summary == "nothing to replace"
    assert report.values["deviation"] == 0
