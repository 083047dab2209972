"""Interfaces without a meaning: what goes in and comes out has names, and nothing else."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.interface import INPUT_NAME, InputLayout, Interface
from depth_distill.quantization.passes.base import Context, Pass, PassError, PassReport, PassResult
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import Recipe, load_recipe
from depth_distill.quantization.target.target import load_target
from tests.quantization.any_network import INPUT, OUTPUTS, SHAPE, samples, two_heads

RAW = Interface.raw(INPUT, SHAPE, OUTPUTS)


def context(count=4):
    return Context(load_target("per-tensor-minmax"), list(samples(count).split(1)), RAW)


def test_samples_go_in_as_they_are():
    batch = samples(2)
    assert RAW.feed(batch) is batch
    assert RAW.inputs.to_dict() == {"name": INPUT, "shape": [1, *SHAPE], "dtype": "float32"}
    assert RAW.inputs.range is None
    assert Interface.raw("x", (7,), "y").inputs.shape == (7,)
    with pytest.raises(ConfigError, match="'features' of this network is fed as it is"):
        RAW.inputs.pixels(batch)


def test_an_image_is_called_as_before():
    layout = InputLayout(8, 16, (0.5,) * 3, (0.2,) * 3)
    assert layout.name == layout.to_dict()["name"] == INPUT_NAME


def test_outputs_come_out_by_name_in_any_shape():
    one, other = torch.ones(2, 5), torch.ones(2, 3, 4, 4)
    for outputs in ([one, other], (one, other), {"boxes": other, "classes": one}):
        found = RAW.compared(outputs)
        assert list(found) == list(OUTPUTS)
        assert found["classes"] is one
        assert found["boxes"] is other
    with pytest.raises(ConfigError, match="received 1 outputs, expected 2: classes, boxes"):
        RAW.compared(one)
    with pytest.raises(ConfigError, match="there is no output 'boxes'; received classes"):
        RAW.compared({"classes": one})


def test_nobody_gets_codes_or_metres():
    outputs = two_heads()(samples(1))
    with pytest.raises(ConfigError, match="classes, boxes of this network have no known meaning"):
        RAW.outputs.codes(outputs)
    with pytest.raises(ConfigError, match="no known meaning"):
        RAW.depth_m(outputs)


@pytest.mark.parametrize("name", ["uint8_input", "thermometer", "logits", "separate_outputs"])
def test_passes_that_need_a_meaning_are_refused(name):
    with pytest.raises(PassError, match=f"pass 2 .{name}.: "):
        Preparer(two_heads(), context())(Recipe.from_entries(["fold", name]))


def test_any_network_is_prepared_and_quantized():
    network, batch = two_heads(), samples(2, seed=1)
    prepared = Preparer(network, context())(load_recipe("equalize"))
    with torch.no_grad():
        exact, rounded = network(batch), prepared.quantized(batch)
        for one, other in zip(exact, prepared.graph(batch), strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * one.abs().max())
    for one, other in zip(exact, rounded, strict=True):
        assert 0 < (one - other).square().mean().sqrt() < 0.05 * one.square().mean().sqrt()  # measured: 0.02


@dataclass(frozen=True)
class NudgeClasses(Pass):
    """Claims to keep the function, and moves the smaller output: a ten-thousandth of the larger one's size."""

    name: ClassVar[str] = "nudge_classes"
    size: float = 0.01

    def __call__(self, graph, context):
        import copy

        changed = copy.deepcopy(graph)
        with torch.no_grad():
            changed.classes.bias += self.size
        return PassResult(changed, PassReport("nudged"))


def test_every_output_is_checked_on_its_own_scale():
    # 0.01 is 1e-5 of the largest box, and so would be lost if both outputs were compared as one tensor.
    with pytest.raises(PassError, match="output 'classes' moved by 0.0.* of its largest value, allowed is 0.0001"):
        Preparer(two_heads(), context())(Recipe((NudgeClasses(),)))
    Preparer(two_heads(), context())(Recipe((NudgeClasses(1e-6),)))
    Preparer(two_heads(), dataclasses.replace(context(), images=()))(Recipe((NudgeClasses(),)))  # nothing to check on


def test_a_graph_for_one_size_of_batch_is_checked_with_that_size():
    class OfOne(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.conv(x).reshape(1, 2, -1)

    images = list(samples(9).split(1))
    interface = Interface.raw(INPUT, SHAPE, ["scores"])
    prepared = Preparer(OfOne(), Context(load_target("per-tensor-minmax"), images, interface))(load_recipe("naive"))
    assert prepared.quantized(images[0]).shape == (1, 2, 256)
