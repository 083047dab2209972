"""Starting a network with a new head from a run that had another."""

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.models import DepthNet, IntegerFractionalHead, load_encoder_decoder

SMALL = {"encoder": "mobilenetv3_small_050", "decoder_channels": (16, 16, 8, 8, 8)}


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(1)
    network = DepthNet(**SMALL)
    path = tmp_path / "single.ckpt"
    torch.save({"state_dict": {f"network.{key}": value for key, value in network.state_dict().items()}}, path)
    return network, path


def test_encoder_and_decoder_are_loaded_and_the_head_is_fresh(checkpoint):
    trained, path = checkpoint
    torch.manual_seed(2)
    network = DepthNet(**SMALL, head=IntegerFractionalHead, start_from=path)
    torch.manual_seed(2)
    fresh = DepthNet(**SMALL, head=IntegerFractionalHead)
    for part, expected in (("encoder", trained), ("decoder", trained), ("head", fresh)):
        found = network.get_submodule(part).state_dict()
        for name, value in expected.get_submodule(part).state_dict().items():
            assert torch.equal(found[name], value), f"{part}.{name}"


def test_another_encoder_is_refused(checkpoint):
    with pytest.raises(ConfigError, match=r"single\.ckpt has another encoder than this network: Missing"):
        load_encoder_decoder(DepthNet("test_resnet", decoder_channels=(16, 16, 8, 8, 8)), checkpoint[1])


def test_another_decoder_is_refused(checkpoint):
    with pytest.raises(ConfigError, match=r"single\.ckpt has another decoder than this network: size mismatch"):
        DepthNet("mobilenetv3_small_050", decoder_channels=(16, 16, 8, 8, 4), start_from=checkpoint[1])


def test_two_sources_of_weights_are_refused(checkpoint):
    with pytest.raises(ConfigError, match="not both"):
        DepthNet(**SMALL, pretrained=True, start_from=checkpoint[1])


def test_a_checkpoint_that_is_not_there_or_damaged(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.ckpt does not exist"):
        DepthNet(**SMALL, start_from=tmp_path / "nowhere.ckpt")
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match="is it truncated"):
        DepthNet(**SMALL, start_from=tmp_path / "damaged.ckpt")
