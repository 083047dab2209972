"""Channel groups: which channels are tied, which are pinned and why; rescaling by them changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.channel_groups import PINNED, channel_groups
from depth_distill.quantization.graph.trace import NetworkTracer, trace
from depth_distill.quantization.passes.rescale import rescale
from tests.quantization.networks import assert_same_function, assert_untouched, image, state_of


class Between(nn.Module):
    """A 6-channel convolution, something in between, and a convolution that reads ``channels``."""

    def __init__(self, between, channels=6):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.side = nn.Conv2d(3, 6, 3, padding=1)
        self.last = nn.Conv2d(channels, 2, 3, padding=1)
        self.between = between if isinstance(between, nn.Module) else None
        self.function = None if isinstance(between, nn.Module) else between

    def forward(self, x):
        first, side = self.first(x), self.side(x)
        if self.function is not None:
            return self.last(self.function(first, side))
        return self.last(self.between(first))


def groups_of(net):
    """The groups, after checking that random scales of them keep the function and change the weights."""
    graph_module = trace(net.double())
    before = state_of(graph_module)
    groups = channel_groups(graph_module)
    scales = torch.exp(torch.randn(groups.count, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    scales[PINNED] = 1.0
    rescaled = rescale(graph_module, groups, scales)
    assert_same_function(graph_module, rescaled, image(16))
    assert_untouched(graph_module, before)
    changed = any(not torch.equal(value, before[name]) for name, value in rescaled.state_dict().items())
    assert changed == (groups.count > 1)
    return groups


def name_of(between):
    """Functions are numbered: their addresses would differ between the processes that share the tests."""
    return str(between) if isinstance(between, nn.Module) else None


@pytest.mark.parametrize(
    "between",
    [
        nn.Identity(),
        nn.Dropout(),
        nn.ReLU(),
        nn.LeakyReLU(0.1),
        nn.PReLU(6),
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ZeroPad2d(1),
        lambda x, _: F.relu(x) * 2.0,
        lambda x, _: F.leaky_relu(x, 0.3) / 2,
        lambda x, _: F.max_pool2d(x, 2),
        lambda x, _: x.mean((2, 3), keepdim=True),
        lambda x, _: F.pad(x, (1, 1, 1, 1)),
        lambda x, y: F.interpolate(x, size=y.shape[-2:], mode="bilinear"),
    ],
    ids=name_of,
)
def test_homogeneous_operators_pass_channels_on(between):
    groups = groups_of(Between(between))
    assert groups.layers["last"].inputs.tolist() == groups.layers["first"].outputs.tolist()
    assert len(set(groups.layers["first"].outputs.tolist()) - {PINNED}) == 6
    assert set(groups.pinned) == {"last"}


@pytest.mark.parametrize(
    "between",
    [
        nn.ELU(),
        nn.SiLU(),
        nn.GELU(),
        nn.Sigmoid(),
        nn.Hardsigmoid(),
        nn.Hardswish(),
        nn.ReLU6(),
        nn.Hardtanh(),
        nn.Tanh(),
        nn.Softmax(dim=1),
        nn.GroupNorm(2, 6),
        lambda x, _: x + 1.0,
        lambda x, _: 1.0 / (x.square() + 1),
        lambda x, _: x * x,
        lambda x, _: x.mean(1, keepdim=True).expand(-1, 6, -1, -1),
        lambda x, _: F.pad(x, (1, 1, 1, 1), value=1.0),
        lambda x, _: x.flip(1),
        lambda x, _: x.clamp(min=-1),
    ],
    ids=name_of,
)
def test_all_else_pins_its_channels(between):
    groups = groups_of(Between(between))
    assert groups.layers["first"].outputs.tolist() == [PINNED] * 6
    assert "homogeneous" in groups.pinned["first"] or "multiplies" in groups.pinned["first"]


def test_the_reason_names_the_operator_that_pins():
    pinned = groups_of(Between(nn.ELU())).pinned
    assert pinned["first"] == "read by between (ELU), not positively homogeneous"
    assert pinned["last"] == "an output of the network"


def test_an_add_unites_its_operands():
    groups = groups_of(Between(lambda x, y: x.relu() + y))
    first, side = groups.layers["first"].outputs, groups.layers["side"].outputs
    assert first.tolist() == side.tolist() == groups.layers["last"].inputs.tolist()
    assert len(set(first.tolist())) == 6


def test_an_add_to_a_pinned_tensor_pins():
    groups = groups_of(Between(lambda x, y: x + torch.sigmoid(y)))
    assert groups.layers["first"].outputs.tolist() == [PINNED] * 6
    assert "adds it to a pinned tensor" in groups.pinned["first"]


def test_concat_strings_channels_together():
    groups = groups_of(Between(lambda x, y: torch.cat([y, x.relu()], 1), channels=12))
    outputs = groups.layers["side"].outputs.tolist() + groups.layers["first"].outputs.tolist()
    assert groups.layers["last"].inputs.tolist() == outputs
    assert len(set(outputs)) == 12


def test_concat_keeps_the_place_of_pinned_slices():
    groups = groups_of(Between(lambda x, y: torch.cat([F.elu(y), x], 1), channels=12))
    assert groups.layers["last"].inputs.tolist() == [PINNED] * 6 + groups.layers["first"].outputs.tolist()
    assert PINNED not in groups.layers["first"].outputs


def test_a_gate_is_pinned_and_what_it_gates_is_not():
    groups = groups_of(Between(lambda x, y: torch.sigmoid(y.mean((2, 3), keepdim=True)) * x))
    assert groups.layers["last"].inputs.tolist() == groups.layers["first"].outputs.tolist()
    assert PINNED not in groups.layers["first"].outputs
    assert groups.layers["side"].outputs.tolist() == [PINNED] * 6


def test_of_two_free_factors_one_is_pinned():
    groups = groups_of(Between(lambda x, y: x * y))
    assert PINNED not in groups.layers["first"].outputs
    assert groups.layers["side"].outputs.tolist() == [PINNED] * 6


def test_one_channel_is_broadcast():
    net = Between(lambda x, y: x + y)
    net.side = nn.Conv2d(3, 1, 1)
    groups = groups_of(net)
    assert len(set(groups.layers["first"].outputs.tolist() + groups.layers["side"].outputs.tolist())) == 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 3, padding=1, groups=2),
        nn.ConvTranspose2d(6, 6, 2, stride=2),
        nn.ConvTranspose2d(6, 6, 2, stride=2, groups=3, bias=False),
    ],
    ids=["depthwise", "grouped", "transposed", "grouped transposed"],
)
def test_a_convolution_reads_one_set_of_groups_and_writes_another(layer):
    groups = groups_of(Between(nn.Sequential(nn.ReLU(), layer, nn.ReLU())))
    middle = groups.layers["between.1"]
    assert middle.inputs.tolist() == groups.layers["first"].outputs.tolist()
    assert middle.outputs.tolist() == groups.layers["last"].inputs.tolist()
    assert len({*middle.inputs.tolist(), *middle.outputs.tolist()} - {PINNED}) == 12


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.shared, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.last(self.shared(self.shared(self.stem(x).relu()).relu()).relu())


def test_a_convolution_that_is_used_twice_ties_what_it_reads_to_what_it_writes():
    groups = groups_of(Repeated())
    assert groups.layers["shared"].inputs.tolist() == groups.layers["shared"].outputs.tolist()
    assert PINNED not in groups.layers["shared"].outputs


def test_shared_parameters_pin():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)
    )
    net[4].weight = net[2].weight
    groups = groups_of(net)
    assert groups.pinned["2"] == "2 shares parameters with 4.weight"
    assert groups.layers["0"].outputs.tolist() == [PINNED] * 4


def as_leaf(net, cls):
    """The graph of a network in which a class of anybody's is one node, as in a graph that somebody else traced."""

    class Leaves(NetworkTracer):
        def is_leaf_module(self, m, module_qualified_name):
            return isinstance(m, cls) or super().is_leaf_module(m, module_qualified_name)

    return fx.GraphModule(net, Leaves().trace(net))


class Standardized(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.std(), self.bias, padding=self.padding)


class ReLU(nn.Module):
    """Has the name of a function that is homogeneous, and is none."""

    def forward(self, x):
        return x.relu() + 1


@pytest.mark.parametrize("other", [Standardized(6, 6, 3, padding=1), ReLU()])
def test_a_class_of_anybodys_pins_whatever_its_name(other):
    groups = channel_groups(as_leaf(Between(other), type(other)))
    assert "between" not in groups.layers
    assert groups.layers["first"].outputs.tolist() == [PINNED] * 6


def relu(x):
    return x.sigmoid()


fx.wrap("relu")


def test_a_function_of_anybodys_pins_whatever_its_name():
    class Calls(nn.Module):
        def forward(self, x):
            return relu(x)

    assert groups_of(Between(Calls())).layers["first"].outputs.tolist() == [PINNED] * 6


def test_a_subclass_that_works_out_to_a_convolution_does_not_pin():
    groups = groups_of(Between(Standardized(6, 6, 3, padding=1)))
    assert PINNED not in groups.layers["between"].outputs


def test_batch_norm_must_be_folded_first():
    with pytest.raises(ConfigError, match="between is a BatchNorm2d: fold"):
        channel_groups(trace(Between(nn.BatchNorm2d(6))))


def test_scales_that_would_change_the_function_are_refused():
    graph_module = trace(Between(nn.ReLU()))
    groups = channel_groups(graph_module)
    for scales, message in (
        (torch.zeros(groups.count), "positive and finite"),
        (torch.ones(groups.count + 1), f"expected {groups.count}"),
        (torch.full((groups.count,), 2.0), "pinned group"),
    ):
        with pytest.raises(ValueError, match=message):
            rescale(graph_module, groups, scales)


def _parts_swapped(first, side):
    one, two = first.chunk(2, 1)
    return torch.cat([F.relu(two), one], 1)


def _parts_of_sizes(first, side):
    parts = torch.split(first, [1, 2, 3], dim=1)
    return torch.cat([parts[2], parts[0], parts[-2]], -3)


def _bottleneck(first, side):
    """As in YOLO's C2f: one half passes on, both are kept."""
    parts = first.split(3, dim=1)
    kept = [parts[0], parts[1]]
    kept.append(F.leaky_relu(kept[-1]) + side[:, :3])
    return torch.cat(kept, 1)[:, :6]


def _ranges(first, side):
    return torch.cat([first[:, 4:, 1:, :], first[:, :4, 1:]], 1)


@pytest.mark.parametrize(
    "function", [_parts_swapped, _parts_of_sizes, _bottleneck, _ranges], ids=lambda function: function.__name__
)
def test_parts_of_channels_keep_their_groups(function):
    groups = groups_of(Between(function))
    assert "first" not in groups.pinned
    assert len(set(groups.layers["first"].outputs.tolist())) == 6


def test_half_of_the_channels_is_pinned_if_only_that_is_read_by_a_sigmoid():
    def gate(first, side):
        value, gate = first.chunk(2, 1)
        return torch.cat([value * gate.sigmoid(), value], 1)

    outputs = groups_of(Between(gate)).layers["first"].outputs
    assert all(each != PINNED for each in outputs[:3].tolist())
    assert outputs[3:].tolist() == [PINNED] * 3


def test_the_union_of_parts_that_are_added_is_one_group():
    def add(first, side):
        one, two = first.chunk(2, 1)
        return torch.cat([one + two, one], 1)

    outputs = groups_of(Between(add)).layers["first"].outputs.tolist()
    assert outputs[:3] == outputs[3:]


@pytest.mark.parametrize("function", [lambda first, side: first[:, 1:5, 0], lambda first, side: first[0]])
def test_what_loses_an_axis_is_pinned(function):
    class Net(Between):
        def forward(self, x):
            return self.last(F.interpolate(function(self.first(x), None).reshape(1, 6, 1, -1), size=(4, 4)))

    graph = trace(Net(None))
    assert "first" in channel_groups(graph).pinned


def test_a_split_along_rows_or_one_that_is_returned_whole_is_pinned():
    assert "first" in groups_of(Between(lambda first, side: torch.cat(first.chunk(2, 2), 2))).pinned

    class Whole(Between):
        def forward(self, x):
            return self.first(x).chunk(2, 1)

    assert "first" in channel_groups(trace(Whole(None))).pinned
