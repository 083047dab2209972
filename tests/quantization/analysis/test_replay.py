"""Replay: bit-identical to a complete run, and only the affected nodes are computed again."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.models import DepthNet
from depth_distill.quantization.analysis.replay import Replay
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.simulate.fake_quantize import quantizers, set_enabled
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer
from tests.quantization.small_case import TARGET, SmallNet, images, quantized_net, switch, switched


class InPlace(nn.Module):
    """Everything that overwrites its input, as module, function and method."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.act = nn.ELU(inplace=True)

    def forward(self, image):
        one = self.act(self.one(image))
        two = torch.relu_(self.two(one))
        three = F.leaky_relu(self.three(two), 0.1, True)
        three += one
        three *= 2.0
        return three.add_(two).sigmoid_()


def resnet():
    torch.manual_seed(0)
    return DepthNet("resnet18", decoder_channels=(16, 16, 8, 8, 8))


def calibrated(model):
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return quantize_post_training(fold(trace(model)), TARGET, [batch], progress=False), batch


def layers_run(replay):
    """Names of the layers that run from now on, in order."""
    ran = []
    for name, module in replay.network.named_modules():
        if isinstance(module, QuantizedLayer):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    return ran


@pytest.mark.parametrize("build", [SmallNet, InPlace, resnet], ids=["small", "in place", "resnet18"])
def test_it_is_a_whole_run_bit_by_bit(build):
    quantized, batch = calibrated(build())
    every = list(quantizers(quantized))
    replay, plain, random_state = Replay(quantized), copy.deepcopy(quantized), random.Random(0)
    with torch.inference_mode():
        for base in ([], every, random_state.sample(every, len(every) // 2)):
            replay.switch_on(base)
            assert torch.equal(replay.record(batch), switch(plain, base)(batch))
            for _ in range(2):
                setting = random_state.sample(every, random_state.randint(0, len(every)))
                replay.switch_on(setting)
                assert torch.equal(replay.again(), switch(plain, setting)(batch)), setting


@pytest.mark.parametrize("build", [SmallNet, InPlace], ids=["small", "in place"])
def test_one_switch_at_a_time(build):
    quantized, batch = calibrated(build())
    every = set(quantizers(quantized))
    replay, plain = Replay(quantized), copy.deepcopy(quantized)
    with torch.inference_mode():
        for base in (set(), every):
            replay.switch_on(base)
            unchanged = replay.record(batch)
            for site in every:
                replay.switch_on(base ^ {site})
                found = replay.again()
                assert torch.equal(found, switch(plain, base ^ {site})(batch)), site
                # Behind rounded codes, some switches make no difference.
                assert base or not torch.equal(found, unchanged), site


def test_only_what_lies_behind_a_change_runs_again():
    replay = Replay(quantized_net())
    ran = layers_run(replay)
    replay.switch_on(())
    replay.record(images()[0])
    assert ran == ["stem", "conv1", "conv2", "fuse", "head"]
    for site, expected in {
        "image": ["stem", "conv1", "conv2", "fuse", "head"],
        "stem.weight": ["stem", "conv1", "conv2", "fuse", "head"],
        "act": ["conv1", "conv2", "fuse", "head"],
        "act1": ["conv2", "fuse", "head"],
        "conv2.weight": ["conv2", "fuse", "head"],
        "conv2": ["fuse", "head"],
        "cat": ["fuse", "head"],
        "head.weight": ["head"],
        "output": [],
    }.items():
        ran.clear()
        replay.switch_on([site])
        replay.again()
        assert ran == expected, site
    ran.clear()
    replay.switch_on(())
    replay.again()
    assert ran == []


def test_nodes_beside_the_change_do_not_run_either():
    replay = Replay(quantized_net())
    ran = []
    run_node = replay._interpreter.run_node
    replay._interpreter.run_node = lambda node: ran.append(node.name) or run_node(node)
    replay.switch_on(())
    replay.record(images()[0])
    assert len(ran) == len(replay.network.graph.nodes)
    ran.clear()
    replay.switch_on(["conv2"])
    replay.again()
    assert ran[0] == replay._nodes["conv2"][0].name
    assert not {"image", "stem", "act", "pool", "conv1", "act1", "conv2"} & set(ran)
    assert {"add", "act2", "up", "cat", "fuse", "relu", "head", "output"} <= set(ran)


def test_it_stops_at_a_quantizer_and_returns_what_leaves_it():
    quantized, batch = calibrated(SmallNet())
    replay = Replay(quantized)
    ran = layers_run(replay)
    replay.switch_on(())
    replay.record(batch)
    before = replay.recorded("conv2")
    ran.clear()
    replay.switch_on(["conv2.weight", "conv2"])
    after = replay.again(upto="conv2")
    assert ran == ["conv2"]
    seen = {}
    for name, setting in {"before": (), "after": ["conv2.weight", "conv2"]}.items():
        network = switched(quantized, setting)
        quantizers(network)["conv2"].register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        network(batch)
    assert torch.equal(before, seen["before"])
    assert torch.equal(after, seen["after"])
    assert not torch.equal(before, after)


def test_what_was_recorded_outlives_a_replay():
    quantized, batch = calibrated(SmallNet())
    replay = Replay(quantized)
    replay.switch_on(())
    recorded = replay.record(batch).clone()
    replay.switch_on(["image"])
    replay.again()
    replay.switch_on(())
    assert torch.equal(replay.again(), recorded)


def test_new_images_replace_the_old():
    quantized = quantized_net()
    replay = Replay(quantized)
    for batch in images():
        replay.switch_on(())
        replay.record(batch)
        replay.switch_on(["conv1.weight"])
        with torch.no_grad():
            assert torch.equal(replay.again(), switched(quantized, ["conv1.weight"])(batch))


def test_the_network_that_it_is_given_stays_as_it_is():
    quantized = quantized_net().train()
    set_enabled(quantized, False, ["act"])
    before, code = copy.deepcopy(quantized.state_dict()), quantized.code
    replay = Replay(quantized)
    replay.switch_on(["head"])
    replay.record(images()[0])
    assert quantized.training
    assert [site for site, each in quantizers(quantized).items() if not each.enabled] == ["act"]
    assert quantized.code == code
    torch.testing.assert_close(quantized.state_dict(), before, rtol=0, atol=0)
