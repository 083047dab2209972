"""Large kernels become sums of small ones, exactly."""

import dataclasses

import pytest
import torch
from torch import nn

from depth_distill.quantization.passes.base import PassError
from depth_distill.quantization.passes.surgery.split_kernels import split_kernels
from depth_distill.quantization.target.target import load_target
from tests.quantization.passes.surgery.cases import TARGET, kinds, moved, prepare


def net(*arguments, **keywords):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, *arguments, **keywords), nn.Conv2d(4, 1, 1))


def convolutions(graph):
    return [each for name, each in graph.named_modules() if isinstance(each, nn.Conv2d) and name.startswith("2")]


@pytest.mark.parametrize(
    ("keywords", "limit", "tiles"),
    [
        ({"kernel_size": 7, "padding": 3}, 5, 4),
        ({"kernel_size": 7, "padding": 3}, 3, 9),
        ({"kernel_size": 7, "padding": 3, "stride": 2}, 4, 4),
        ({"kernel_size": 9}, 4, 9),
        ({"kernel_size": (9, 3), "padding": (4, 1)}, 5, 2),
        ({"kernel_size": 5, "padding": 2, "groups": 4, "bias": False}, 3, 4),
        ({"kernel_size": 5, "padding": 4, "dilation": 2}, 3, 4),
        ({"kernel_size": 4, "padding": "same"}, 2, 4),
        ({"kernel_size": 5, "padding": "valid"}, 3, 4),
    ],
    ids=str,
)
def test_a_sum_of_tiles_is_exact(keywords, limit, tiles):
    network = net(**keywords)
    prepared = prepare(network, {"split_kernels": {"max_window": limit}})
    found = convolutions(prepared.graph)
    assert len(found) == tiles
    assert max(size for each in found for size in each.kernel_size) <= limit
    assert moved(network, prepared) < 1e-5
    assert type(prepared.graph.get_submodule("2")) is nn.Identity
    assert kinds(prepared.graph).count("add") == tiles - 1
    assert sum(each.bias is not None for each in found) == int(keywords.get("bias", True))
    assert "deviation" not in prepared.reports[0].values  # it keeps the function, and is checked for that


def test_tiles_overlap_rather_than_crop():
    prepared = prepare(net(7, padding=3), {"split_kernels": {"max_window": 5}})
    pads = [each.padding for each in prepared.graph.modules() if isinstance(each, nn.ZeroPad2d)]
    assert all(side >= 0 for padding in pads for side in padding)
    ours = prepared.graph.get_submodule("2_0"), prepared.graph.get_submodule("2_3")
    assert [each.kernel_size for each in ours] == [(4, 4), (4, 4)]


def test_the_limit_is_that_of_the_target():
    target = load_target("aiware-apache6")
    prepared = prepare(net(19, padding=9), "split_kernels", size=24, target=target)
    assert max(max(each.kernel_size) for each in convolutions(prepared.graph)) <= 17
    with pytest.raises(PassError, match="per-tensor-minmax has no largest window: give max_window"):
        prepare(net(19, padding=9), "split_kernels", size=24)
    assert dataclasses.is_dataclass(TARGET)


def test_one_that_is_called_twice_has_its_tiles_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.last = nn.Conv2d(3, 3, 5, padding=2), nn.Conv2d(3, 1, 1)

        def forward(self, x):
            return self.last(self.conv(self.conv(x)))

    prepared = prepare(Twice(), {"split_kernels": {"max_window": 3}})
    assert moved(Twice(), prepared) < 1e-5
    assert sum(isinstance(each, nn.Conv2d) for each in prepared.graph.modules()) == 5


def test_what_is_left_is_said_and_small_kernels_are_nothing_to_replace():
    report = prepare(net(5, padding=2, padding_mode="reflect"), {"split_kernels": {"max_window": 3}}).reports[0]
    assert report.values["left"] == {"2": "it pads by reflect: put zero_padding before"}
    network = net(3, padding=1)
    prepared = prepare(network, {"split_kernels": {"max_window": 3}})
    assert prepared.reports[0].summary == "nothing to replace"
    assert moved(network, prepared) == 0


def test_a_transposed_convolution_is_left():
    torch.manual_seed(0)
    network = nn.Sequential(nn.ConvTranspose2d(3, 1, 6, stride=2, padding=2))
    _, changes = split_kernels(torch.fx.symbolic_trace(network), 5)
    assert changes.left == {"0": "it is a ConvTranspose2d"}
