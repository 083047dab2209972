"""load_weights: the network of a checkpoint, or a message that says what the file is instead."""

import pickle

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.models.weights import load_weights


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


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (network(width=5).state_dict(), "size mismatch"),
        ({"0.weight": torch.zeros(4, 3, 1, 1)}, "Missing key"),
        (network().state_dict() | {"2.weight": torch.zeros(1)}, "Unexpected key"),
    ],
)
def test_a_checkpoint_of_another_network(tmp_path, state, message):
    with pytest.raises(ConfigError, match=rf"a\.ckpt is of another network than my\.yaml describes: {message}"):
        load_weights(network(), saved(tmp_path, state), "my.yaml")
