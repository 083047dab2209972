import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.models import DepthNet
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import (
    fake_quantize,
    placement,
    preserve_quantizer_state,
    quantizers,
    remove_fake_quant,
    requantize_moves,
    select,
    set_enabled,
)
from depth_distill.quantization.simulate.npu_operators import npu_operators
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target

TARGET = load_target("per-tensor-minmax")


class Net(nn.Module):
    """A residual block, a skip connection over max pooling and upsampling, and a sigmoid head."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Identity(), activation())
        self.pool = nn.MaxPool2d(2)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.act = activation()
        self.up = nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(8, 1, 1)
        self.output = nn.Sigmoid()

    def forward(self, image):
        skip = self.stem(image)
        deep = self.pool(skip)
        deep = self.act(self.conv(deep) + deep)
        return self.output(self.head(torch.cat([self.up(deep), skip], dim=1)))


def sites(model, target=TARGET):
    return [(site.name, site.kind) for site in placement(trace(model), target)]


def edges(graph_module) -> set[tuple[str, str]]:
    """Producer and consumer of every edge that carries a quantizer, by the names of the float nodes."""
    modules = dict(graph_module.named_modules())
    found = set()
    for node in graph_module.graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], FakeQuantizer):
            found |= {(node.args[0].name, user.name) for user in node.users}
    return found


def test_where_the_quantizers_are():
    assert sites(Net()) == [
        ("image", "input"),
        ("stem.0.weight", "weight"),
        ("stem.2", "activation"),
        ("conv.weight", "weight"),
        ("conv", "activation"),
        ("act", "activation"),
        ("cat", "activation"),
        ("head.weight", "weight"),
        ("head", "activation"),
        ("output", "output"),
    ]


def test_exactly_these_edges_carry_a_quantizer():
    assert edges(fake_quantize(trace(Net()), TARGET)) == {
        ("image", "stem_0"),
        ("stem_2", "pool"),  # the identity and the fused ReLU between conv and here carry none
        ("stem_2", "cat"),
        ("conv", "add"),
        ("act", "up"),  # the add is fused into the ReLU; max pooling and upsampling move values only
        ("cat", "head"),
        ("head", "output"),  # sigmoid is not fused
        ("output", "output_1"),
    }


def test_an_activation_that_is_not_fused_is_rounded_before_and_after():
    names = [name for name, kind in sites(Net(nn.ELU)) if kind == "activation"]
    assert names == ["stem.0", "stem.2", "conv", "add", "act", "cat", "head"]
    leaky = dataclasses.replace(TARGET, fused_activations=("leaky_relu",))
    assert len(sites(Net(nn.LeakyReLU))) == len(sites(Net(nn.LeakyReLU), leaky)) + 2


def test_nothing_is_rounded_right_before_a_clip():
    """A clip is the ends of the codes of what it follows, where the target takes clips in at all."""
    net = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ELU(), nn.Hardtanh(-0.5, 2.0), nn.Conv2d(4, 4, 1), nn.Tanh()))
    target = load_target("per-tensor-minmax")
    sites = [site.name for site in placement(net, target) if site.kind != "weight"]
    assert sites == ["input", "0", "2", "3", "4"]
    without = dataclasses.replace(target, fused_activations=("relu",))
    assert [site.name for site in placement(net, without) if site.kind != "weight"] == [
        "input",
        "0",
        "1",
        "2",
        "3",
        "4",
    ]


def test_a_layer_with_two_readers_is_not_fused():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, image):
            features = self.conv(image)
            return F.relu(features) * features

    assert [name for name, _ in sites(Forked())] == ["image", "conv.weight", "conv", "relu", "mul"]


def test_arithmetic_is_rounded_and_moves_are_not():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Conv2d(4, 4, 1)

        def forward(self, image):
            batch = image.size(0)
            first, second = image.chunk(2, dim=1)
            gate = self.gate(image.mean((2, 3), keepdim=True)).sigmoid()
            moved = F.max_pool2d(F.interpolate(first, scale_factor=2, mode="nearest"), 2)
            smooth = F.interpolate(second, scale_factor=2, mode="bilinear")
            return (gate * image).reshape(batch, -1), moved, F.avg_pool2d(smooth, 2), F.pad(first, [1, 1])

    model = Gated()
    found = sites(model)
    assert {name for name, _ in found} == {
        "image", "mean", "gate.weight", "gate", "sigmoid", "interpolate_1", "avg_pool2d", "mul",
    }  # fmt: skip
    # Through moves, the image itself is an output, as are the product and the pooled map.
    assert {name for name, kind in found if kind == "output"} == {"image", "avg_pool2d", "mul"}


def test_functions_are_named_after_the_module_around_them():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Net()

        def forward(self, image):
            return self.block(image) + self.block.stem[0].bias.sum() + 1

    names = [name for name, _ in sites(Outer())]
    assert "block.cat" in names
    assert names[-2:] == ["add", "add_1"]


def test_names_do_not_depend_on_the_target():
    fused = dict(sites(Net(nn.ELU), dataclasses.replace(TARGET, fused_activations=("elu",))))
    assert set(fused) < set(dict(sites(Net(nn.ELU))))


def test_shared_scales_make_one_site():
    target = dataclasses.replace(TARGET, shared_scales=("concat",))
    shared = {site.name: site.nodes for site in placement(trace(Net()), target)}
    assert shared["stem.2"] == ("stem_2", "act", "cat")
    assert not {"act", "cat"} & set(shared)
    model = fake_quantize(trace(Net()), target)
    assert edges(model) == edges(fake_quantize(trace(Net()), TARGET))
    used = {node.target for node in model.graph.nodes if str(node.target).startswith("quantizers.")}
    assert used == {"quantizers.image", "quantizers.stem_2", "quantizers.conv", "quantizers.head", "quantizers.output"}
    added = dataclasses.replace(TARGET, shared_scales=("add",))
    shared = {site.name: site.nodes for site in placement(trace(Net()), added)}
    assert shared["stem.2"] == ("stem_2", "conv")  # through the max pooling


def test_names_parameters_and_the_original_survive():
    graph_module = trace(Net())
    before = copy.deepcopy(graph_module.state_dict())
    quantized = fake_quantize(graph_module, TARGET)
    assert set(before) <= set(quantized.state_dict())
    assert set(before) == set(graph_module.state_dict())
    assert edges(graph_module) == set()
    assert isinstance(quantized.get_submodule("stem.0"), nn.Conv2d)
    seen = []
    quantized.get_submodule("conv").register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    set_enabled(quantized, False)
    quantized(torch.randn(1, 3, 8, 8))
    assert seen == [(1, 4, 4, 4)]
    missing, unexpected = quantized.load_state_dict(before, strict=False)
    assert not unexpected
    assert all("quantizer" in name for name in missing)


def test_switched_off_it_is_the_float_network():
    graph_module = trace(Net())
    quantized = fake_quantize(graph_module, TARGET)
    image = torch.randn(2, 3, 8, 8)
    set_enabled(quantized, False)
    assert torch.equal(quantized(image), graph_module(image))
    set_enabled(quantized, True, kinds=["weight"])
    assert not torch.equal(quantized(image), graph_module(image))
    set_enabled(quantized, False, sites=["stem.0.weight", "conv.*", "head.weight"])
    assert torch.equal(quantized(image), graph_module(image))


def test_switches_by_name_and_kind():
    quantized = fake_quantize(trace(Net()), TARGET)
    assert set(select(quantized, kinds=["output", "input"])) == {"image", "output"}
    assert set(select(quantized, ["conv*"])) == {"conv", "conv.weight"}
    assert set(select(quantized, ["conv*"], ["weight"])) == {"conv.weight"}
    with preserve_quantizer_state(quantized):
        set_enabled(quantized, False)
        assert not any(each.enabled for each in quantizers(quantized).values())
    assert all(each.enabled for each in quantizers(quantized).values())
    with pytest.raises(ConfigError, match="no quantizer is called 'haed'; did you mean 'head'"):
        set_enabled(quantized, False, ["haed"])


def test_weights_train_through_the_rounding():
    quantized = fake_quantize(trace(Net()), TARGET, learnable=["activation"])
    for quantizer in select(quantized, kinds=["input", "activation", "output"]).values():
        quantizer.set_range(-1.0, 2.0)
    quantized(torch.randn(1, 3, 8, 8)).sum().backward()
    assert quantized.get_submodule("stem.0").weight.grad.abs().sum() > 0
    learned = {name for name, parameter in quantized.named_parameters() if "quantizer" in name}
    assert "quantizers.act.scale" in learned
    assert "quantizers.act.zero_point" in learned
    assert not any("image" in name or "output" in name or "weight" in name for name in learned)


def test_per_channel_weights_have_a_scale_a_channel():
    quantized = fake_quantize(trace(Net()), load_target("per-channel"))
    assert quantized.get_submodule("conv.weight_quantizer").scale.shape == (4,)
    assert quantized.get_submodule("quantizers.conv").scale.shape == ()


def test_layers_know_the_quantizer_of_their_input():
    quantized = fake_quantize(trace(Net()), TARGET)
    inputs = {name: [each.site for each in quantized.get_submodule(name).inputs] for name in ("stem.0", "conv", "head")}
    assert inputs == {"stem.0": ["image"], "conv": ["stem.2"], "head": ["cat"]}
    copied = copy.deepcopy(quantized)
    assert copied.get_submodule("conv").inputs[0] is quantizers(copied)["stem.2"]
    float_bias = fake_quantize(trace(Net()), dataclasses.replace(TARGET, bias_dtype="float32"))
    assert float_bias.get_submodule("conv").inputs == ()


def test_requantizing_moves_changes_the_edges_but_no_value():
    quantized = fake_quantize(trace(Net()), TARGET)
    for quantizer in select(quantized, kinds=["input", "activation", "output"]).values():
        quantizer.set_range(-1.0, 2.0)
    again = requantize_moves(quantized)
    assert edges(again) - edges(quantized) == {("pool", "conv"), ("pool", "add"), ("up", "cat")}
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(again(image), quantized(image))


def test_batch_norm_must_be_folded_first():
    with pytest.raises(ConfigError, match="1 is a BatchNorm2d: fold batch norm before fake-quantizing"):
        sites(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))


def test_layers_it_cannot_round_are_refused():
    class OfTheImage(nn.Module):
        def forward(self, image):
            return F.conv2d(image, image.mean() * torch.ones(3, 3, 1, 1))

    class OwnConv(nn.Conv2d):
        pass

    with pytest.raises(ConfigError, match="conv2d: a functional convolution"):
        sites(OfTheImage())
    graph_module = trace(nn.Sequential(nn.Conv2d(3, 3, 1)))
    graph_module.set_submodule("0", OwnConv(3, 3, 1))
    with pytest.raises(ConfigError, match="0 is a OwnConv; expected one of Conv2d, ConvTranspose2d, Linear"):
        placement(graph_module, TARGET)


@pytest.mark.parametrize(
    ("layer", "image"),
    [(nn.ConvTranspose2d(3, 2, 2, stride=2), torch.randn(1, 3, 4, 4)), (nn.Linear(4, 2), torch.randn(1, 3, 4, 4))],
)
def test_other_layers(layer, image):
    quantized = fake_quantize(trace(nn.Sequential(layer)), TARGET)
    set_enabled(quantized, False, kinds=["input", "output"])
    step = layer.weight.detach().abs().max() / 127
    torch.testing.assert_close(quantized(image), layer(image), rtol=0, atol=float(step * image.abs().sum() / 2))
    assert not torch.equal(quantized(image), layer(image))


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv2_100"])
def test_every_convolution_of_a_depth_net_is_rounded_once(encoder):
    graph_module = fold(trace(DepthNet(encoder)))
    found = placement(graph_module, TARGET)
    convolutions = [name for name, module in graph_module.named_modules() if isinstance(module, nn.Conv2d)]
    assert [site.name for site in found if site.kind == "weight"] == [f"{name}.weight" for name in convolutions]
    assert [site.name for site in found if site.kind == "output"] == ["head.output"]
    rounded = {name for site in found if site.kind == "activation" for name in site.nodes}
    for node in graph_module.graph.nodes:
        if node.target in (torch.cat,):
            assert node.name in rounded


def test_the_float_network_is_the_one_that_was_quantized():
    network = trace(Net())
    quantized = fake_quantize(network, TARGET)
    plain = remove_fake_quant(quantized)
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain(image), network(image))
    assert plain.state_dict().keys() == network.state_dict().keys()
    assert not quantizers(plain)
    assert {type(module) for module in plain.modules() if hasattr(module, "weight")} == {nn.Conv2d}
    assert quantizers(quantized)


def test_the_float_network_has_the_weights_as_they_are_now():
    quantized = fake_quantize(trace(Net()), TARGET)
    with torch.no_grad():
        quantized.get_submodule("head").bias.add_(0.25)
    assert torch.equal(remove_fake_quant(quantized).get_submodule("head").bias, quantized.get_submodule("head").bias)


SUBSTITUTING = dataclasses.replace(TARGET, substitutions={"Sigmoid": "hard_sigmoid", "Elu": "no"})


def test_a_substituted_activation_changes_no_site_and_no_weight():
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid()))
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        graph.get_submodule("0").weight.fill_(0.2)
        graph.get_submodule("2").weight.copy_(torch.tensor([1.0, -2.0, 3.0, 1.0]).view(1, 4, 1, 1))
    plain, hard = (quantize_post_training(graph, each, [images], False) for each in (TARGET, SUBSTITUTING))
    assert list(quantizers(plain)) == list(quantizers(hard))
    assert plain.state_dict().keys() == hard.state_dict().keys()
    assert npu_operators(plain) == npu_operators(hard)
    with torch.no_grad():
        exact = graph(images)
        assert float((hard(images) - exact).abs().mean()) > 2 * float((plain(images) - exact).abs().mean())
        set_enabled(hard, False)  # in floating point it is substituted, too
        expected = through_hard_sigmoids(graph, images)
        torch.testing.assert_close(hard(images), expected)
    back = remove_fake_quant(hard)
    assert torch.equal(back(images), graph(images))
    assert isinstance(back.get_submodule("3"), nn.Sigmoid)


def through_hard_sigmoids(graph: nn.Module, images: torch.Tensor) -> torch.Tensor:
    gated = graph.get_submodule("0")(images)
    logits = graph.get_submodule("2")(gated * (0.2 * gated + 0.5).clamp(0, 1))
    return (0.2 * logits + 0.5).clamp(0, 1)


def test_training_against_a_substitution_has_the_gradient_of_what_is_computed():
    graph = trace(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Sigmoid()))
    with torch.no_grad():
        graph.get_submodule("0").weight.fill_(1.0)
    hard = quantize_post_training(graph, SUBSTITUTING, [torch.linspace(-2, 2, 64).view(1, 1, 8, 8)], False)
    hard(torch.ones(1, 1, 8, 8)).sum().backward()
    assert hard.get_submodule("0").weight.grad.item() == pytest.approx(64 * 0.2, rel=0.01)


def test_a_dtype_of_its_own_is_that_of_every_tensor_that_a_pattern_names():
    target = dataclasses.replace(TARGET, dtypes={"*.weight": "int4", "conv.weight": "int8", "act": "uint4"})
    graph = trace(Net().eval())
    found = {name: each.tensor_format for name, each in quantizers(fake_quantize(graph, target)).items()}
    assert {name for name, each in found.items() if each.dtype == "int4"} == {"stem.0.weight", "head.weight"}
    assert (found["conv.weight"].dtype, found["act"].dtype) == ("int8", "uint4")
    assert found["act"].symmetric is False
    assert {each.dtype for name, each in found.items() if name not in ("act",) and "weight" not in name} == {"uint8"}
    quantized = quantize_post_training(graph, target, [torch.rand(4, 3, 8, 8)], progress=False)
    weight = quantized.head.weight_quantizer(quantized.head.weight)
    assert len((weight / quantized.head.weight_quantizer.scale).round().unique()) <= 16


def test_a_dtype_for_a_tensor_that_is_not_there_is_refused():
    target = dataclasses.replace(TARGET, dtypes={"hed.weight": "int4"})
    with pytest.raises(ConfigError, match="dtypes: no tensor is called 'hed.weight'; did you mean 'head.weight'"):
        fake_quantize(trace(Net().eval()), target)
