"""Weights from checkpoints: all of a network, or encoder and decoder for a network with a new head."""

import pickle
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.models import DepthNet, IntegerFractionalHead, load_encoder_decoder
from depth_distill.models.checkpoints import (
    CODEC,
    codec_description,
    load_weights,
    read_checkpoint,
    recorded_recipe,
)
from depth_distill.models.encoder import build_encoder
from depth_distill.types import DepthRange

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


def test_a_file_without_counters_of_batch_norm_is_of_the_same_encoder(checkpoint, tmp_path):
    trained, _ = checkpoint
    state = {name: value for name, value in trained.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    network = DepthNet(**SMALL)
    load_encoder_decoder(network, tmp_path / "old.pth")
    assert torch.equal(network.encoder.state_dict()["conv_stem.weight"], state["encoder.conv_stem.weight"])


def test_only_what_fake_quant_wrote_is_a_recorded_recipe(tmp_path):
    passes = [{"fold": {}}]
    for callbacks, expected in (
        ({"FakeQuant": {"recipe": {"passes": passes, "name": "naive"}}}, passes),
        ({"FakeQuant": {"recipe": "naive"}}, None),
        ({"FakeQuant": {"recipe": {}}, "other": OrderedDict()}, None),
        ([1], None),
    ):
        unknown = Namespace(epochs=3)  # as scripts of other people store their options
        torch.save({"callbacks": callbacks, "options": unknown, "state_dict": {}}, tmp_path / "x.ckpt")
        assert recorded_recipe(tmp_path / "x.ckpt") == expected


def test_another_encoder_is_refused(checkpoint):
    with pytest.raises(ConfigError, match=r"single\.ckpt has another encoder than this network: .* missing"):
        load_encoder_decoder(DepthNet("test_resnet", decoder_channels=(16, 16, 8, 8, 8)), checkpoint[1])


def test_another_decoder_is_refused(checkpoint):
    with pytest.raises(ConfigError, match=r"single\.ckpt has another decoder than this network: .* another shape"):
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


def network(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))


def saved(folder, state, name="a.ckpt"):
    torch.save(state, folder / name)
    return folder / name


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_network_of_a_run_is_taken_and_the_rest_is_left(tmp_path):
    state = {f"network.{name}": value for name, value in network(1).state_dict().items()}
    state["adapters.hint.weight"] = torch.zeros(1)
    loaded = network()
    load_weights(loaded, saved(tmp_path, {"epoch": 3, "state_dict": state}))
    assert same(loaded, network(1))


def test_a_plain_state_dict_will_do(tmp_path):
    loaded = network()
    load_weights(loaded, saved(tmp_path, network(1).state_dict()))
    assert same(loaded, network(1))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.ckpt does not exist"):
        load_weights(network(), tmp_path / "a.ckpt")


@pytest.mark.parametrize("damage", ["cut", "text", "no state"])
def test_a_file_that_cannot_be_read(tmp_path, damage):
    path = saved(tmp_path, network(1).state_dict())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "text":
        path.write_text("hello")
    else:
        torch.save([1, 2], path)
    with pytest.raises(ConfigError, match=r"a\.ckpt cannot be read as a checkpoint \(.*\): is it truncated\?"):
        load_weights(network(), path)


class Rude:
    """Would run code when it is unpickled."""

    def __reduce__(self):
        return (print, ("gotcha",))


def test_a_file_that_would_run_code_does_not(tmp_path, capsys):
    with (tmp_path / "a.ckpt").open("wb") as file:
        pickle.dump({"state_dict": Rude()}, file)
    with pytest.raises(ConfigError, match="cannot be read as a checkpoint"):
        load_weights(network(), tmp_path / "a.ckpt")
    path = saved(tmp_path, {"state_dict": {}, "rude": Rude()})
    with pytest.raises(ConfigError, match="cannot be read as a checkpoint"):
        load_weights(network(), path)
    assert "gotcha" not in capsys.readouterr().out


def test_encoder_weights_that_would_run_code_do_not(tmp_path, capsys):
    torch.save({"rude": Rude()}, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="does not hold weights of test_efficientnet"):
        build_encoder("test_efficientnet", weights=tmp_path / "a.pth")
    assert "gotcha" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (network(width=5).state_dict(), "6 have another shape"),
        ({"0.weight": torch.zeros(4, 3, 1, 1)}, "5 of 7 keys are missing"),
        (network().state_dict() | {"2.weight": torch.zeros(1)}, "1 of 8 are unexpected"),
    ],
)
def test_a_checkpoint_of_another_network(tmp_path, state, message):
    with pytest.raises(ConfigError, match=rf"a\.ckpt is of another network than my\.yaml describes: {message}"):
        load_weights(network(), saved(tmp_path, state), "my.yaml")


def test_a_networks_own_attribute_called_network_is_no_prefix(tmp_path):
    loaded, trained = (nn.Sequential(OrderedDict(network=network(seed))) for seed in (0, 1))
    load_weights(loaded, saved(tmp_path, trained.state_dict()))
    assert same(loaded, trained)
    state = {f"network.{name}": value for name, value in network(2).state_dict().items()}
    wrapped = {f"network.{name}": value for name, value in state.items()} | {"adapters.hint.weight": torch.zeros(1)}
    load_weights(loaded, saved(tmp_path, {"state_dict": wrapped}))
    assert same(loaded.network, network(2))


def test_an_object_of_an_unknown_class_beside_the_weights_is_left_out(tmp_path):
    loaded = network()
    load_weights(loaded, saved(tmp_path, {"state_dict": network(1).state_dict(), "config": Rude()}))
    assert same(loaded, network(1))


def test_the_message_about_another_network_is_short(tmp_path):
    big = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(200)))
    with pytest.raises(ConfigError) as raised:
        load_weights(network(), saved(tmp_path, big.state_dict()))
    assert len(str(raised.value)) < 500 + len(str(tmp_path))


def test_a_weight_that_is_not_finite_is_named(checkpoint):
    trained, path = checkpoint
    name = next(iter(trained.state_dict()))
    trained.state_dict()[name].fill_(torch.nan)
    torch.save({"state_dict": trained.state_dict()}, path)
    with pytest.raises(
        ConfigError, match=rf"single\.ckpt: the weight {name} is not finite: give an earlier checkpoint"
    ):
        load_weights(DepthNet(**SMALL), path)


def test_a_checkpoint_of_another_codec_is_refused_with_what_differs(tmp_path):
    network = DepthNet(**SMALL)
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": network.state_dict(), CODEC: codec_description(network)}, path)
    load_weights(DepthNet(**SMALL), path)
    with pytest.raises(ConfigError, match=r"another codec .* gives \(max_depth_m is 15\.0 there and 10\.0 here\)"):
        load_weights(DepthNet(**SMALL, depth_range=DepthRange(0.5, 10.0)), path)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), r"\(EOFError.*\): is it truncated\?"),
        (lambda path: path.write_text("hello"), r"is it truncated\?"),
        (lambda path: path.write_bytes(pickle.dumps({"a": Evil()}, protocol=2)), "which are not unpickled"),
        (lambda path: torch.save({"a": Evil()}, path), "which are not unpickled"),
        (lambda path: path.mkdir(), "is a folder, expected a checkpoint in it"),
    ],
)
def test_what_cannot_be_read_is_one_short_line_and_never_runs(write, message, tmp_path, capsys):
    path = tmp_path / "x.ckpt"
    write(path)
    with pytest.raises(ConfigError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))
    assert capsys.readouterr().out == ""


def test_a_file_that_is_cut_short_is_named(checkpoint):
    _, path = checkpoint
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"single\.ckpt cannot be read as a checkpoint \(.*\): is it truncated\?"):
        read_checkpoint(path)
