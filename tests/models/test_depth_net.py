"""DepthNet: every supported encoder runs, traces and restores full resolution; errors name valid arguments."""

import pytest
import safetensors.torch
import timm
import torch
from torch import fx, nn

from depth_distill.errors import ConfigError
from depth_distill.models import DepthNet, SingleHead
from depth_distill.types import DepthRange

ENCODERS = (
    "resnet18",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_lite0",
    "repvgg_a0",
    "mnasnet_100",
    "regnetx_004",
    "mobilenetv4_conv_small",
)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_supported_encoder_traces_to_the_same_function(encoder):
    torch.manual_seed(0)
    network = DepthNet(encoder).eval()
    image = torch.randn(2, 3, 64, 96)
    traced = fx.symbolic_trace(network)
    with torch.no_grad():
        codes = network(image)
        assert codes.shape == (2, 1, 64, 96)
        torch.testing.assert_close(traced(image), codes, rtol=0, atol=0)
    leaves = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {"head.conv", "decoder.blocks.0.conv1.0"} <= leaves  # names survive, so hooks by name keep working


def test_an_encoder_of_four_levels_takes_four_decoder_stages():
    network = DepthNet("convnext_atto", decoder_channels=(64, 48, 32, 16)).eval()
    assert network(torch.randn(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_the_user_s_network_has_14_million_parameters():
    assert sum(p.numel() for p in DepthNet("resnet18").parameters()) == pytest.approx(14.3e6, rel=0.01)


def test_reflecting_padding_is_in_the_decoder_and_its_weights_are_those_of_zeros():
    torch.manual_seed(0)
    zeros, reflect = (DepthNet("test_resnet", decoder_channels=(8,) * 5, padding=each) for each in ("zeros", "reflect"))
    reflect.load_state_dict(zeros.state_dict())
    modes = {each.padding_mode for each in reflect.decoder.modules() if isinstance(each, nn.Conv2d)}
    assert modes == {"reflect"}
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        one, other = (each.eval()(image) for each in (zeros, reflect))
    assert one.shape == other.shape
    assert not torch.equal(one, other)
    with pytest.raises(ConfigError, match="decoder padding must be one of zeros, reflect, got 'mirror'"):
        DepthNet("test_resnet", decoder_channels=(8,) * 5, padding="mirror")


def test_elu_without_norm_has_neither_relu_nor_batch_norm_in_the_decoder():
    kinds = {type(module) for module in DepthNet(activation="elu", norm="none").decoder.modules()}
    assert nn.ELU in kinds
    assert not kinds & {nn.ReLU, nn.BatchNorm2d}


def test_predicted_depth_lies_in_the_depth_range():
    network = DepthNet("mobilenetv3_small_100", depth_range=DepthRange(1.0, 4.0)).eval()
    depth_m = network.predict_depth(10 * torch.randn(1, 3, 32, 32))
    assert 1.0 - 1e-5 <= depth_m.min() <= depth_m.max() <= 4.0 + 1e-5


def test_the_head_is_injected():
    def head(in_channels, depth_range):
        return SingleHead(in_channels, depth_range, encoding="inverse", output="sigmoid")

    network = DepthNet("mobilenetv3_small_100", head=head)
    assert network.codec.encoding == "inverse"
    assert isinstance(network.head.output, nn.Sigmoid)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_encoder_weights_come_from_a_local_file_with_or_without_classifier(tmp_path, suffix):
    torch.manual_seed(1)
    classifier = timm.create_model("mobilenetv3_small_100")
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(classifier.state_dict(), path)
    else:
        safetensors.torch.save_file(classifier.state_dict(), path)
    network = DepthNet("mobilenetv3_small_100", weights=path)
    torch.testing.assert_close(network.encoder.conv_stem.weight, classifier.conv_stem.weight, rtol=0, atol=0)


def test_weights_of_another_architecture_are_refused_by_name(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(ConfigError, match=r"resnet\.pth does not hold weights of mobilenetv3_small_100"):
        DepthNet("mobilenetv3_small_100", weights=path)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.pth"):
        DepthNet(weights=tmp_path / "nowhere.pth")


def test_a_misspelt_encoder_names_the_nearest():
    with pytest.raises(ConfigError, match="resnet18"):
        DepthNet("resnet81")


def test_an_encoder_without_a_pyramid_is_refused():
    with pytest.raises(ConfigError, match="pyramid"):
        DepthNet("vit_tiny_patch16_224", decoder_channels=(64, 32, 16))


def test_decoder_channels_must_match_the_pyramid():
    with pytest.raises(ConfigError, match="5 levels.*has 3"):
        DepthNet("resnet18", decoder_channels=(64, 32, 16))


def test_an_image_size_that_does_not_fit_names_the_nearest_that_does():
    with pytest.raises(ConfigError, match=r"100 x 130.*96 x 128"):
        DepthNet("mobilenetv3_small_100").predict_depth(torch.zeros(1, 3, 100, 130))
