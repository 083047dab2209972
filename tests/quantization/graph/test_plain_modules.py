"""plain: what evaluation knows in advance is worked out exactly, on a copy."""

import copy

import pytest
import torch
from timm.layers import FrozenBatchNormAct2d, ScaledStdConv2d, StdConv2d
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torchvision.ops import FrozenBatchNorm2d

from depth_distill.quantization.graph.plain_modules import plain
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from tests.quantization.networks import assert_same_function, image


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def doubled(layer):
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


NORMS = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
    "pruning": pruned,
    "any parametrization": doubled,
}
LAYERS = {
    "conv": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 2, stride=2),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_norms_of_weights_are_worked_out_on_a_copy(norm, make):
    torch.manual_seed(0)
    net = nn.Sequential(norm(make()), nn.BatchNorm2d(4), nn.ReLU()).double()
    net(image())  # one step of the power iteration, and a computed weight that Python cannot copy
    net.eval()
    before, keys = net(image()).detach(), set(net.state_dict())
    folded = fold(trace(net))
    assert_same_function(net, folded, image())
    assert type(folded.get_submodule("0")) is type(make())
    assert set(folded.get_submodule("0").state_dict()) == {"weight", "bias"}
    assert set(net.state_dict()) == keys
    assert torch.equal(net(image()), before)


def frozen(cls):
    norm = cls(4)
    torch.manual_seed(1)
    for value in norm.buffers():
        value.uniform_(0.5, 2)
    return norm


class FrozenLikeDetectrons(nn.Module):
    def __init__(self, channels):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))
        self.eps = 1e-4

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


FrozenLikeDetectrons.__name__ = "FrozenBatchNorm2d"


@pytest.mark.parametrize("cls", [FrozenBatchNorm2d, FrozenBatchNormAct2d, FrozenLikeDetectrons])
def test_a_frozen_batch_norm_is_folded(cls):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), frozen(cls)).double().eval()
    folded = fold(trace(net))
    assert_same_function(net, folded, image())
    assert not any("Norm" in type(module).__name__ for module in folded.modules())


@pytest.mark.parametrize("cls", [StdConv2d, ScaledStdConv2d])
def test_standardized_weights_are_worked_out(cls):
    torch.manual_seed(0)
    net = nn.Sequential(cls(3, 8, 3), nn.ReLU(), cls(8, 8, 3, groups=2)).double().eval()
    traced = trace(net)
    assert_same_function(net, traced, image())
    assert [type(traced.get_submodule(name)) for name in ("0", "2")] == [nn.Conv2d, nn.Conv2d]
    assert traced.get_submodule("0").weight.requires_grad


class Plain(nn.Conv2d):
    """Changes nothing."""


class Named(nn.Conv2d):
    """A convolution with an activation inside, as detectron2 has it under the name Conv2d."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride, self.padding).relu()


class Wrapped(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight, bias=self.bias) + 1


def test_a_subclass_is_its_layer_only_where_it_changes_nothing():
    net = nn.Sequential(Plain(3, 4, 1), Named(4, 4, 3, padding=1)).double().eval()
    traced = trace(net)
    assert_same_function(net, traced, image())
    assert [type(traced.get_submodule(name)) for name in ("0", "1")] == [nn.Conv2d, nn.Conv2d]
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "call_module", "call_method",
                                                        "output"]  # fmt: skip
    linear = Wrapped(4, 2).double().eval()
    with torch.no_grad():
        assert torch.allclose(
            trace(linear)(torch.ones(1, 4, dtype=torch.float64)), linear(torch.ones(1, 4, dtype=torch.float64))
        )


def test_the_module_is_not_changed():
    net = nn.Sequential(Plain(3, 4, 1), frozen(FrozenBatchNorm2d))
    before = copy.deepcopy(net.state_dict())
    plain(net)
    assert [type(each) for each in net] == [Plain, FrozenBatchNorm2d]
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
