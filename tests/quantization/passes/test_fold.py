"""Folding: same output, no batch norm left, names and activations kept, input untouched."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from timm.utils import reparameterize_model
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import calls_by_module, trace
from depth_distill.quantization.passes.fold import fold
from tests.quantization.networks import (
    assert_same_function,
    assert_untouched,
    depth_net,
    image,
    state_of,
    trained_like,
)


def batch_norms(module):
    return [each for each in module.modules() if isinstance(each, _BatchNorm)]


def folded(net, images=None):
    """Fold, and check what holds for every network."""
    images = image(16) if images is None else images
    graph_module = trace(trained_like(net, images))
    before = state_of(graph_module)
    result = fold(graph_module)
    assert_same_function(graph_module, result, images)
    assert_untouched(graph_module, before)
    assert batch_norms(graph_module)
    assert not batch_norms(result)
    return result


@pytest.mark.parametrize(
    "encoder",
    [
        "resnet18",
        "mobilenetv2_100",
        "mobilenetv3_large_100",
        "efficientnet_lite0",
        "repvgg_a0",
        "mnasnet_100",
        "regnetx_004",
    ],
)
def test_every_supported_encoder_folds(encoder):
    graph_module = trace(depth_net(encoder))
    result = fold(graph_module)
    assert_same_function(graph_module, result, image())
    assert batch_norms(graph_module)
    assert not batch_norms(result)
    new = set(calls_by_module(result)) - set(calls_by_module(graph_module))
    assert all(name.endswith("_affine") for name in new)
    assert bool(new) == (encoder == "repvgg_a0")  # identity branches


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 6, 3, groups=3, bias=False),
        nn.ConvTranspose2d(3, 8, 2, stride=2),
        nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1, groups=3, bias=False),
    ],
    ids=["conv", "grouped conv", "transposed conv", "grouped transposed conv"],
)
def test_batch_norm_goes_into_the_convolution_before_it(layer):
    channels = layer.out_channels
    result = folded(nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU()))
    assert [type(module) for module in result.children()] == [type(layer), nn.Identity, nn.ReLU]
    assert not torch.equal(result.get_submodule("0").weight, layer.weight)
    assert result.get_submodule("0").bias is not None


def test_batch_norm_goes_into_the_linear_layer_before_it():
    vectors = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = folded(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)), vectors)
    assert type(result.get_submodule("1")) is nn.Identity


def test_batch_norm_without_learned_factors_folds():
    graph_module = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)).double())
    graph_module.get_submodule("1").running_mean.normal_()
    graph_module.get_submodule("1").running_var.uniform_(0.1, 3)
    assert_same_function(graph_module, fold(graph_module), image(8))


def test_float32_outputs_stay_within_1e_4():
    graph_module = trace(depth_net("resnet18").float())
    images = image().float()
    with torch.no_grad():
        torch.testing.assert_close(fold(graph_module)(images), graph_module(images), rtol=1e-4, atol=0)


def test_the_activation_of_a_batch_norm_keeps_its_name():
    result = folded(nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4, act_layer=nn.ReLU6)))
    assert isinstance(result.get_submodule("1"), nn.ReLU6)
    assert list(calls_by_module(result)) == ["0", "1"]


def test_batch_norm_that_stands_alone_becomes_a_depthwise_convolution():
    result = folded(nn.Sequential(nn.MaxPool2d(2), BatchNormAct2d(3), nn.Conv2d(3, 4, 1)))
    affine = result.get_submodule("1_affine")
    assert (affine.groups, affine.kernel_size) == (3, (1, 1))
    assert isinstance(result.get_submodule("1"), nn.ReLU)


class Fork(nn.Module):
    """The output of a convolution is read by a batch norm and by something else."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x)


def test_a_convolution_with_other_readers_keeps_its_weight():
    net = Fork()
    result = folded(net)
    assert torch.equal(result.get_submodule("conv").weight, net.conv.weight)
    assert result.get_submodule("norm_affine").groups == 4


class SharedConvolution(nn.Module):
    def __init__(self, shared_norm):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.first = nn.BatchNorm2d(3)
        self.second = self.first if shared_norm else nn.BatchNorm2d(3)

    def forward(self, x):
        return self.second(self.conv(self.first(self.conv(x)).relu()))


@pytest.mark.parametrize("shared_norm", [True, False])
def test_a_convolution_that_is_used_twice_folds_once_or_not_at_all(shared_norm):
    result = folded(SharedConvolution(shared_norm))
    assert any(name.endswith("_affine") for name in calls_by_module(result)) != shared_norm


class SharedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv2(self.norm(self.conv1(x)).relu()))


def test_a_batch_norm_that_is_used_twice_folds_into_both_convolutions():
    assert not any(name.endswith("_affine") for name in calls_by_module(folded(SharedNorm())))


@pytest.mark.parametrize("encoder", ["repvgg_a0", "mobileone_s0"])
def test_reparameterized_blocks_fold_to_one_convolution_each(encoder):
    net = depth_net(encoder)
    result = fold(trace(reparameterize_model(net)))
    assert_same_function(net, result, image())
    assert not batch_norms(result)
    assert not any(name.endswith("_affine") for name in calls_by_module(result))


def test_what_cannot_be_folded_is_an_error_with_its_name():
    with pytest.raises(ConfigError, match="1 has no running statistics"):
        fold(trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))))
    with pytest.raises(ConfigError, match="1 is a BatchNorm1d"):
        fold(trace(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4))))

    class Functional(nn.Module):
        def forward(self, x):
            return nn.functional.batch_norm(x, torch.zeros(3), torch.ones(3))

    with pytest.raises(ConfigError, match="functional batch norm"):
        fold(torch.fx.symbolic_trace(Functional()))
