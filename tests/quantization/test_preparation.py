"""A runner of recipes that refuses what a pass must not do, and keeps what it did."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from depth_distill.codecs import DepthRange, HostSingle
from depth_distill.errors import ConfigError
from depth_distill.models import SingleHead
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.passes import bias_correct, registry
from depth_distill.quantization.passes.base import Context, Pass, PassError, PassReport, PassResult
from depth_distill.quantization.passes.fold import Fold, fold
from depth_distill.quantization.preparation import Preparer, exact_only, structure_only
from depth_distill.quantization.recipe import NAIVE, Recipe, load_recipe
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target
from tests.export.networks import smooth_images
from tests.models.networks import spread_network

SIZE = (32, 64)
MEAN, STD = (0.45, 0.4, 0.42), (0.25, 0.24, 0.26)
TARGET = load_target("per-tensor-minmax")
ROUNDED = ["fold", "equalize", {"adaround": {"iterations": 2, "images": 4}}, {"bias_correct": {"images": 4}}]


def pixels_as_images(count):
    """Normalized images whose pixels are whole numbers, as those of files are."""
    layout = InputLayout(*SIZE, MEAN, STD)
    whole = layout.pixels(smooth_images(count, SIZE)).float() / 255
    return (whole - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture(scope="module")
def network():
    return spread_network(
        lambda channels, depth_range: SingleHead(channels, depth_range, "log", "sigmoid"), pixels_as_images(6)
    )


@pytest.fixture(scope="module")
def context(network):
    interface = Interface.of_codes(InputLayout(*SIZE, MEAN, STD), network.codec.host)
    return Context(TARGET, pixels_as_images(6).split(3), interface)


@pytest.fixture(scope="module")
def prepare(network, context):
    return Preparer(network, context)


def codec_context(*images):
    codec = HostSingle(DepthRange(0.5, 15.0), "log")
    return Context(TARGET, images, Interface.of_codes(InputLayout(8, 8, MEAN, STD), codec))


def test_the_network_is_not_touched_and_reports_are_in_order(network, prepare):
    before = copy.deepcopy(network.state_dict())
    prepared = prepare(Recipe.from_entries(ROUNDED))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert len(prepared.reports) == 4
    assert "free channel groups" in prepared.reports[1].summary
    assert prepared.seconds > 0
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.graph.modules())


def test_recipes_that_begin_alike_share_the_work(network, context):
    ran = []
    preparer = Preparer(network, context, on_report=lambda pass_, report: ran.append(pass_.name))
    preparer(load_recipe("equalize"))
    preparer(Recipe.from_entries(ROUNDED))
    assert ran == ["fold", "equalize", "adaround", "bias_correct"]
    assert preparer(NAIVE) is preparer(NAIVE)  # with its calibration


def test_it_is_what_was_written_by_hand_before(network, context, prepare):
    by_hand = quantize_post_training(fold(trace(network)), TARGET, context.images)
    prepared = prepare(NAIVE)
    for site, quantizer in quantizers(by_hand).items():
        assert torch.equal(quantizer.constants()[0], quantizers(prepared.quantized)[site].constants()[0])
    image = context.images[0]
    assert torch.equal(by_hand(image), prepared.quantized(image))
    again = dataclasses.replace(prepared, ranges=prepared.calibrate())
    assert torch.equal(again.quantized(image), prepared.quantized(image))


@pytest.mark.parametrize(
    "entries",
    [
        ["fold", "uint8_input"],
        ["fold", "logits"],
        ["fold", {"thermometer": {"num_codes": 8}}],
        ["fold", "equalize", "pair", "uint8_input"],
        ["fold", "equalize", {"thermometer": {"num_codes": 4}}, "separate_outputs", "uint8_input"],
    ],
    ids=str,
)
def test_whatever_goes_in_and_comes_out_depth_is_the_same(network, context, prepare, entries):
    prepared = prepare(Recipe.from_entries(entries))
    images = context.images[0]
    with torch.no_grad():
        expected = network.predict_depth(images)
        found = prepared.interface.depth_m(prepared.graph(prepared.interface.feed(images)))
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=0)
    assert prepared.quantized is prepared.quantized
    if "uint8_input" in entries:
        (image,) = (each for each in quantizers(prepared.quantized).values() if each.kind == "input")
        assert (float(image.low), float(image.high)) == (0.0, 255.0)


def test_rounding_is_judged_against_the_trained_function(network, context, monkeypatch):
    references = []
    correct = bias_correct.bias_correct

    def watched(float_graph, *others):
        references.append(float_graph)
        return correct(float_graph, *others)

    monkeypatch.setattr(bias_correct, "bias_correct", watched)
    prepare = Preparer(network, context)
    prepared, equalized = prepare(Recipe.from_entries(ROUNDED)), prepare(load_recipe("equalize"))
    images = context.images[0]
    # Not against the graph whose weights were rounded before.
    assert torch.equal(references[0](images), equalized.graph(images))
    assert torch.equal(prepared.trained(images), equalized.graph(images))
    assert not torch.equal(prepared.graph(images), equalized.graph(images))


@pytest.mark.parametrize("execute", [structure_only, exact_only])
def test_a_checkpoint_fits_the_structure_alone(network, context, prepare, execute):
    full = prepare(Recipe.from_entries(ROUNDED))
    empty = dataclasses.replace(context, images=()) if execute is structure_only else context
    shaped = Preparer(network, empty, execute)(Recipe.from_entries(ROUNDED))
    shaped.graph.load_state_dict(full.graph.state_dict())
    image = context.images[0]
    assert torch.equal(shaped.graph(image), full.graph(image))


def small(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), layer, nn.Sigmoid()).eval()


def standardized():
    class Conv2d(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    return Conv2d(4, 1, 1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: weight_norm(nn.Conv2d(4, 1, 1)),
        lambda: spectral_norm(nn.Conv2d(4, 1, 1)),
        lambda: parametrizations.weight_norm(nn.Conv2d(4, 1, 1)),
        lambda: parametrizations.spectral_norm(nn.Conv2d(4, 1, 1)),
        standardized,
    ],
    ids=["weight norm", "spectral norm", "weight norm, new", "spectral norm, new", "a class of that name"],
)
def test_what_a_layer_does_to_its_weight_is_worked_out(make):
    network, images = small(make()), torch.rand(8, 3, 8, 8)
    with torch.no_grad():
        network(images)
    prepared = Preparer(network, codec_context(images))(load_recipe("equalize"))
    assert type(prepared.graph.get_submodule("3")) is nn.Conv2d
    assert torch.allclose(prepared.graph(images), network(images), rtol=1e-4)


class Hooked(nn.Module):
    """A traced graph of it forgets the hook of a module that is traced into."""

    def __init__(self):
        super().__init__()
        self.inner = small(nn.Conv2d(4, 1, 1))
        self.scale = 1.0

    def forward(self, x):
        return self.inner(x) * (self.scale if torch.overrides.is_tensor_like(x) and type(x) is torch.Tensor else 0.5)


def test_a_graph_that_computes_something_else_is_refused():
    with pytest.raises(PassError, match="the traced graph is another function than the network"):
        Preparer(Hooked().eval(), codec_context(torch.rand(8, 3, 8, 8)))


@dataclass(frozen=True)
class Brighten(Pass):
    name: ClassVar[str] = "brighten"

    def __call__(self, graph, context):
        changed = copy.deepcopy(graph)
        with torch.no_grad():
            changed.get_submodule("3").bias.add_(1e-3)
        return PassResult(changed, PassReport("brightened"))


@dataclass(frozen=True)
class BrightenKnowingly(Brighten):
    name: ClassVar[str] = "brighten_knowingly"
    changes_function: ClassVar[bool] = True


def test_only_a_pass_that_says_so_may_change_the_function(monkeypatch):
    images, network = torch.rand(8, 3, 8, 8), small(nn.Conv2d(4, 1, 1))
    for each in (Brighten, BrightenKnowingly):
        monkeypatch.setitem(registry.PASSES, each.name, each)
    with pytest.raises(PassError, match=r"recipe \[fold, brighten\], pass 2 \(brighten\) changed"):
        Preparer(network, codec_context(images))(load_recipe(["fold", "brighten"]))
    Preparer(network, codec_context(images))(load_recipe(["fold", "brighten_knowingly"]))
    # Nothing is known without images.
    Preparer(network, codec_context())(load_recipe(["fold", "brighten"]))


@dataclass(frozen=True)
class Careless(Pass):
    name: ClassVar[str] = "careless"
    changes_function: ClassVar[bool] = True

    def __call__(self, graph, context):
        with torch.no_grad():
            graph.get_submodule("3").bias.add_(1.0)
        return PassResult(graph, PassReport("changed in place"))


def test_a_pass_that_changes_what_it_was_given_is_found_out(monkeypatch):
    monkeypatch.setitem(registry.PASSES, "careless", Careless)
    with pytest.raises(PassError, match=r"pass 2 \(careless\) changed the graph that it was given"):
        Preparer(small(nn.Conv2d(4, 1, 1)), codec_context())(load_recipe(["fold", "careless"]))


def test_a_weight_without_a_quantizer_is_named():
    class Volume(nn.Module):
        def __init__(self):
            super().__init__()
            self.volume, self.head = nn.Conv3d(3, 3, 1), nn.Conv2d(3, 1, 1)

        def forward(self, x):
            return self.head(self.volume(x.unsqueeze(2)).squeeze(2)).sigmoid()

    with pytest.raises(PassError, match=r"pass 1 \(fold\): volume.weight would stay in float"):
        Preparer(Volume(), codec_context(torch.rand(2, 3, 8, 8)))(NAIVE)


def test_attention_is_refused_by_name():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.attention, self.head = nn.Conv2d(3, 4, 1), nn.MultiheadAttention(4, 1), nn.Conv2d(4, 1, 1)

        def forward(self, x):
            rows = self.stem(x).flatten(2).permute(2, 0, 1)
            rows = self.attention(rows, rows, rows)[0]
            return self.head(rows.permute(1, 2, 0).unflatten(2, (8, 8))).sigmoid()

    message = (
        r"attention\.in_proj_weight would stay in float, because no layer with a quantizer owns it, but a Multihead"
    )
    with pytest.raises(PassError, match=message):
        Preparer(Attention().eval(), codec_context(torch.rand(2, 3, 8, 8)))(NAIVE)


def test_norms_that_keep_float_factors_are_said():
    norms = nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1), nn.GroupNorm(1, 4))
    network = nn.Sequential(nn.Conv2d(3, 4, 1), norms, nn.Conv2d(4, 1, 1), nn.Sigmoid()).eval()
    report = Preparer(network, codec_context(torch.rand(2, 3, 8, 8)))(NAIVE).reports[0]
    assert report.summary == "0 batch norms folded; in float between two roundings: 2 GroupNorm"
    assert report.values["in_float"] == {"GroupNorm": 2}


def test_a_bias_that_int32_cannot_hold_is_named():
    network = small(nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        network[3].weight.mul_(1e-9)
        network[3].bias.fill_(1.5)
    prepared = Preparer(network, codec_context(torch.rand(4, 3, 8, 8)))(NAIVE)
    with pytest.raises(ConfigError, match=r"3: a bias needs the code .* but int32 ends at 2147483647"):
        _ = prepared.quantized


def test_a_failure_inside_of_a_pass_names_it():
    with pytest.raises(PassError, match=r"recipe \[fold, bake_ranges\], pass 2 \(bake_ranges\): .*train it with FakeQ"):
        Preparer(small(nn.Conv2d(4, 1, 1)), codec_context())(load_recipe("[fold, bake_ranges]"))


def test_no_report_is_lost_and_interfaces_are_those_of_the_last_pass(network, prepare):
    prepared = prepare(load_recipe(["fold", "logits"]))
    assert prepared.interface.outputs.names == ("logits",)
    assert prepared.interface.outputs.logits
    assert prepare(NAIVE).interface.outputs.names == ("codes",)
    assert isinstance(prepared.graph, fx.GraphModule)
    assert Fold() == Fold()


def test_what_has_no_quantizer_yet_may_wait_for_surgery_and_not_longer():
    torch.manual_seed(0)
    rows = nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 4, 1), nn.Unflatten(2, (8, 8)))
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), rows, nn.Conv2d(4, 1, 1), nn.Sigmoid()).eval()
    prepare = Preparer(net, codec_context(torch.randn(2, 3, 8, 8)))
    prepared = prepare(Recipe.from_entries(["fold", "as_conv2d"]))
    assert type(prepared.graph.get_submodule("2.1")) is nn.Conv2d
    with pytest.raises(PassError, match=r"recipe naive: 2\.1\.weight would stay in float"):
        prepare(NAIVE)  # its one pass has run already


def test_a_pass_that_changes_the_function_says_how_far(network, context):
    prepared = Preparer(network, context)(Recipe.from_entries(["fold", "bias_correct"]))
    values, images = prepared.reports[1].values, torch.cat(list(context.images))
    with torch.no_grad():
        before, after = prepared.reference(images), prepared.graph(images)
    span = before.max() - before.min()
    assert values["deviation"] == pytest.approx(float((after - before).abs().mean() / span), rel=1e-3)
    assert values["largest_deviation"] == pytest.approx(float((after - before).abs().max() / span), rel=1e-3)
    assert "train behind it" not in prepared.reports[1].summary  # rounding is judged in INT8
