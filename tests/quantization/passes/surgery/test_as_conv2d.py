"""Linear layers and 1-d convolutions become 2-d convolutions; reshapes between them vanish."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Linear as TimmLinear
from timm.models.convnext import ConvNeXtBlock
from torch import fx, nn

from depth_distill.quantization.graph.trace import NetworkTracer, trace
from depth_distill.quantization.passes.surgery.as_conv2d import as_conv2d
from tests.quantization.passes.surgery.cases import context, images, kinds, moved, prepare

MOVES = {"flatten", "Flatten", "view", "reshape", "permute", "transpose", "unsqueeze", "squeeze"}


def moves(graph):
    return [each for each in kinds(graph) if each in MOVES]


class Net(nn.Module):
    """Whatever is given, between a convolution to 8 channels and one to a code."""

    def __init__(self, inner, **modules):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 1, 1)
        for name, module in modules.items():
            self.add_module(name, module)
        self.inner = inner

    def forward(self, x):
        return self.two(self.inner(self, self.one(x)))


def excite(net, x):
    gate = net.fc2(F.relu(net.fc1(F.adaptive_avg_pool2d(x, 1).flatten(1)))).sigmoid()
    return x * gate.view(x.size(0), -1, 1, 1)


def excite_by_mean(net, x):
    return x * torch.sigmoid(net.fc2(net.fc1(x.mean((2, 3))).relu()))[:, :, None, None]


def tokens(net, x):
    batch, channels, height, width = x.shape
    flat = x.flatten(2).transpose(1, 2)
    flat = flat + net.fc2(F.gelu(net.fc1(flat)))
    return flat.transpose(1, 2).reshape(batch, channels, height, width)


def channels_last(net, x):
    return x + net.fc2(net.fc1(x.permute(0, 2, 3, 1)).relu()).permute(0, 3, 1, 2)


def joined(net, x):
    both = torch.cat([net.fc1(x.permute(0, 2, 3, 1)), x.permute(0, 2, 3, 1)], -1)
    return net.fc3(both).permute(0, 3, 1, 2).contiguous()


def pooled_tokens(net, x):
    pooled = net.fc2(net.fc1(x.flatten(2).permute(0, 2, 1)).mean(1))
    return x + pooled.unsqueeze(-1).unsqueeze(-1)


def linears():
    torch.manual_seed(1)
    return {"fc1": nn.Linear(8, 4), "fc2": nn.Linear(4, 8), "fc3": nn.Linear(12, 8, bias=False)}


@pytest.mark.parametrize("inner", [excite, excite_by_mean, tokens, channels_last, joined, pooled_tokens])
def test_the_graph_has_convolutions_only(inner):
    net = Net(inner, **linears())
    prepared = prepare(net, "as_conv2d")
    assert moved(net, prepared) < 1e-5
    assert not moves(prepared.graph)
    assert "Linear" not in kinds(prepared.graph)
    assert type(prepared.graph.get_submodule("fc1")) is nn.Conv2d
    values = prepared.reports[0].values
    assert values["replaced"]["fc1"] == "Linear became a 1 x 1 convolution"
    assert values["reshapes"] == 0
    assert (values["reshapes_before"] == 0) == (inner is excite_by_mean)  # which indexes
    assert "getitem" not in kinds(prepared.graph)
    assert "deviation" not in values  # it keeps the function, and is checked for that


def test_a_flattened_map_is_the_window_of_a_convolution():
    def dense(net, x):
        return net.fc(x.flatten(1)).view(-1, 8, 8, 8)

    torch.manual_seed(1)
    net = Net(dense, fc=nn.Linear(512, 512))
    prepared = prepare(net, "as_conv2d")
    assert moved(net, prepared) < 1e-5
    assert prepared.graph.get_submodule("fc").kernel_size == (8, 8)
    assert moves(prepared.graph) == ["flatten", "view"]  # channels become positions


def test_a_classifier_keeps_one_flatten():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 1))

        def forward(self, x):
            return self.head(self.features(x))

    net = Classifier().eval()
    prepared = prepare(net, "as_conv2d")
    assert prepared.graph(images()).shape == (8, 1)
    assert moved(net, prepared) < 1e-5
    assert kinds(prepared.graph)[-1] == "flatten"
    assert len(moves(prepared.graph)) == 1


def channel_attention(net, x):
    """ECA: a convolution along the channels."""
    gate = net.conv(F.adaptive_avg_pool2d(x, 1).view(x.shape[0], 1, -1))
    return x * gate.sigmoid().view(x.shape[0], -1, 1, 1).expand_as(x)


def along_rows(net, x):
    return net.conv(x.flatten(2)).reshape(x.shape)


@pytest.mark.parametrize(
    ("inner", "conv", "left"),
    [
        (channel_attention, nn.Conv1d(1, 1, 3, padding=1, bias=False), 5),
        (along_rows, nn.Conv1d(8, 8, 3, padding=1, groups=2), 4),
        (along_rows, nn.Conv1d(8, 8, 1), 0),
        (along_rows, nn.Conv1d(8, 8, 3, padding=2, dilation=2, padding_mode="circular"), 4),
    ],
    ids=["channels", "rows", "pointwise", "circular"],
)
def test_a_convolution_in_one_dimension(inner, conv, left):
    net = Net(inner, conv=conv)
    prepared = prepare(net, "as_conv2d")
    assert moved(net, prepared) < 1e-5
    assert type(prepared.graph.get_submodule("conv")) is nn.Conv2d
    assert len(moves(prepared.graph)) == left


def test_a_convnext_block_is_one_of_convolutions_behind_frozen_norms():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), ConvNeXtBlock(8), nn.Conv2d(8, 1, 1))
    prepared = prepare(net, "freeze_norms", "as_conv2d")
    assert prepared.reports[1].values["reshapes"] == 0
    assert "Linear" not in kinds(prepared.graph)
    assert prepared.reports[1].values["left"] == {}


def normed_tokens(net, x):
    flat = net.norm(x.flatten(2).transpose(1, 2))
    return net.fc2(net.fc1(flat)).transpose(1, 2).reshape(x.shape)


def test_what_is_left_is_said():
    net = Net(normed_tokens, norm=nn.LayerNorm(8), **linears())
    prepared = prepare(net, "as_conv2d")
    assert prepared.reports[0].values["left"] == {
        "fc1": "it reads a sequence that is no image",
        "fc2": "it reads a sequence that is no image",
    }
    assert moved(net, prepared) == 0


class Normed(nn.Linear):
    def forward(self, input):
        return F.linear(input, F.normalize(self.weight), self.bias)


def test_a_subclass_is_left_but_timm_s():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), TimmLinear(8, 8), Normed(8, 1))
    _, changes = as_conv2d(fx.GraphModule(net, LeafLinear().trace(net)), context())
    assert list(changes.done) == ["3"]
    assert changes.left["4"].endswith("Normed may compute something else")


class LeafLinear(NetworkTracer):
    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)


def twice(net, x):
    flat = net.fc(x.permute(0, 2, 3, 1))
    return net.fc(net.norm(flat)).permute(0, 3, 1, 2)


def test_a_layer_that_cannot_be_replaced_everywhere_is_left():
    net = Net(twice, norm=nn.LayerNorm(8), fc=nn.Linear(8, 8))
    prepared = prepare(net, "as_conv2d")
    assert prepared.reports[0].values["left"] == {"fc": "not all of its calls read images"}
    assert moved(net, prepared) == 0


def test_nothing_to_replace():
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
    graph = trace(net)
    changed, changes = as_conv2d(graph, context())
    assert (changes.done, changes.left) == ({}, {})
    assert kinds(changed) == kinds(graph)
    assert prepare(net, "as_conv2d").reports[0].summary == "nothing to replace"
