"""Strangers' checkpoints: every format gives the same tensors, keys are fitted or proposed, and no code ever runs."""

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.models.foreign_checkpoint import fit_to, read_tensors
from depth_distill.models.found_tensors import dictionaries_of_tensors, unknown_objects
from depth_distill.models.inert_pickle import UnreadableError
from depth_distill.models.torch_files import read_inert


def network(seed=0, width=4):
    torch.manual_seed(seed)
    built = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, width, 3), norm=nn.BatchNorm2d(width)))
    nn.init.normal_(built.norm.running_mean)
    return built


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def same(state, expected):
    return set(state) == set(expected) and all(torch.equal(value, expected[name]) for name, value in state.items())


class Config:
    """An object of a class that no reader knows."""

    def __init__(self):
        self.rate, self.layers = 0.1, [1, {"a": Path("x")}]


FORMATS = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=4)),
}


@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("config", [None, Config(), argparse.Namespace(a=1)], ids=["plain", "class", "namespace"])
def test_a_lightning_like_file_with_whatever_beside_the_weights(tmp_path, save, config):
    state = network().state_dict()
    save({"epoch": 3, "hyper_parameters": config, "state_dict": prefixed(state, "model.")}, tmp_path / "a.ckpt")
    found = read_tensors(tmp_path / "a.ckpt")
    assert found.key == "state_dict"
    assert same(found.tensors, prefixed(state, "model."))
    name = f"{type(config).__module__}.{type(config).__name__} (hyper_parameters)"
    assert found.skipped == (() if config is None else (name,))


@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_a_pickled_module_gives_its_parameters_and_buffers(tmp_path, save):
    net = network()
    net.register_buffer("hidden", torch.zeros(1), persistent=False)
    save({"model": net, "config": Config()}, tmp_path / "a.pt")
    assert same(read_tensors(tmp_path / "a.pt").tensors, net.state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_gives_its_parameters_and_buffers(tmp_path):
    torch.jit.script(network()).save(tmp_path / "a.pt")
    assert same(read_tensors(tmp_path / "a.pt").tensors, network().state_dict())


def test_safetensors(tmp_path):
    save_file(network().state_dict(), tmp_path / "a.safetensors")
    assert same(read_tensors(tmp_path / "a.safetensors").tensors, network().state_dict())
    (tmp_path / "a.safetensors").write_bytes(b"12345678")
    with pytest.raises(ConfigError, match=r"a\.safetensors cannot be read as safetensors"):
        read_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_every_type_of_tensor_and_array(tmp_path, save):
    shared = torch.arange(12.0).reshape(3, 4)
    state = {
        "half": torch.ones(3).half(), "bfloat": torch.ones(3).bfloat16(), "int": torch.arange(3), "bool": shared > 2,
        "transposed": shared.t(), "view": shared[1:, 1], "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(shared), "expanded": torch.ones(1).expand(5), "complex": torch.ones(2) * 1j,
    }  # fmt: skip
    arrays = {"array": np.arange(6, dtype=np.float32).reshape(2, 3).T, "big": np.arange(3, dtype=">i4")}
    content = {"a": state, "z": arrays, "config": Config(), "number": np.float32(2), "more": defaultdict(list, a=1)}
    save(content, tmp_path / "a.pt")
    found = read_tensors(tmp_path / "a.pt", "a").tensors
    assert same(found, {name: value.detach() for name, value in state.items()})
    assert {name: value.dtype for name, value in found.items()} == {name: value.dtype for name, value in state.items()}
    found = read_tensors(tmp_path / "a.pt", "z").tensors
    assert found["array"].tolist() == arrays["array"].tolist()
    assert found["big"].tolist() == [0, 1, 2]


def test_the_usual_places_come_first_and_the_others_are_named(tmp_path):
    state, average = network(1).state_dict(), network(2).state_dict()
    content = {
        "optimizer": {"state": {"a": {"exp_avg": torch.zeros(1)}}}, "loss": torch.zeros(1), "ema": average,
        "model": state, "extra": {"deep": {"hint": torch.zeros(1)}},
    }  # fmt: skip
    torch.save(content, tmp_path / "a.pt")
    found = read_tensors(tmp_path / "a.pt")
    assert found.key == "model"
    assert same(found.tensors, state)
    assert found.others == ("ema (7 tensors)", "extra.deep (1 tensor)", "the root (1 tensor)")
    assert same(read_tensors(tmp_path / "a.pt", key="ema").tensors, average)
    assert list(read_tensors(tmp_path / "a.pt", key="extra").tensors) == ["deep.hint"]
    with pytest.raises(ConfigError, match=r"a\.pt has no tensors under the key 'emma': did you mean 'ema'\?"):
        read_tensors(tmp_path / "a.pt", key="emma")


def test_a_state_dict_with_numbers_beside_it_at_the_root(tmp_path):  # as monodepth2 saves its encoder
    torch.save({**network().state_dict(), "height": 192, "use_stereo": False}, tmp_path / "encoder.pth")
    found = read_tensors(tmp_path / "encoder.pth")
    assert found.key == ""
    assert same(found.tensors, network().state_dict())


def test_two_networks_in_one_file_are_read_as_one_by_the_key_above_both(tmp_path):
    state = network().state_dict()
    torch.save({"encoder": state, "depth": dict(state)}, tmp_path / "a.pth")
    assert set(read_tensors(tmp_path / "a.pth", key="").tensors) == {
        *prefixed(state, "encoder."), *prefixed(state, "depth.")
    }  # fmt: skip


# Each runs code in an ordinary unpickler: it would make a file.


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Completed(nn.Module):
    """Its ``__setstate__`` runs code."""

    def __getstate__(self):
        return {"sentinel": self.sentinel}

    def __setstate__(self, state):
        Path(state["sentinel"]).write_text("ran")


def completed(sentinel):
    made = Completed()
    made.sentinel = sentinel
    return made


def system(sentinel):
    return Call(os.system, f"touch {sentinel}")


ATTACKS = {
    "os.system": system,
    "eval": lambda sentinel: Call(eval, f"open({sentinel!r}, 'w')"),
    "exec": lambda sentinel: Call(exec, f"open({sentinel!r}, 'w')"),
    "open": lambda sentinel: Call(open, sentinel, "w"),
    "setstate": completed,
    "torch.load": lambda sentinel: Call(torch.load, sentinel),
    "torch.hub": lambda sentinel: Call(torch.hub.load, str(Path(sentinel).parent), "x", "local"),
    "argument of a tensor": lambda sentinel: Call(torch._utils._rebuild_parameter, system(sentinel), False, {}),
    "type of a tensor": lambda s: Call(torch._tensor._rebuild_from_type_v2, eval, int, (f"open({s!r}, 'w')",), {}),
    "numpy": lambda sentinel: Call(np.save, sentinel, system(sentinel)),
    "key": lambda sentinel: {Path(sentinel): system(sentinel)},
    "in a list": lambda sentinel: [(1, {"a": system(sentinel)})],
}
OPCODES = {
    "global": "cposix\nsystem\n(Vtouch SENTINEL\ntR.",
    "inst": "(Vtouch SENTINEL\niposix\nsystem\n.",
    "obj": "(cposix\nsystem\nVtouch SENTINEL\no.",
    "newobj": "cbuiltins\neval\n(Vopen('SENTINEL', 'w')\nt\x81.",
    "stack global": "\x8c\x08builtins\x8c\x04eval\x93(Vopen('SENTINEL', 'w')\nt\x85R.",
    "dotted": "cos\npath.os.system\n(Vtouch SENTINEL\ntR.",
    "getattr": "cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR(Vtouch SENTINEL\ntR.",
    "build of a class": "ctorch.nn.modules.linear\nLinear\n(N}Vforward\ncposix\nsystem\nstb.",
    "append": "cposix\nsystem\nVtouch SENTINEL\na.",
    "setitem": "cos\nenviron\nVSENTINEL\nVx\ns.",
    "load_from_bytes": "ctorch.storage\n_load_from_bytes\n(Vtouch SENTINEL\ntR.",
    "persistent id": "Pcposix\n.",
    "extension": "\x82\x01.",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_no_code_of_a_file_runs_and_its_tensors_are_read(tmp_path, save, attack):
    sentinel = tmp_path / "sentinel"
    state = network().state_dict()
    save({"before": attack(str(sentinel)), "state_dict": state, "after": attack(str(sentinel))}, tmp_path / "a.ckpt")
    sentinel.unlink(missing_ok=True)
    found = read_tensors(tmp_path / "a.ckpt")
    assert same(found.tensors, state)
    assert found.skipped
    assert not sentinel.exists()


@pytest.mark.parametrize("opcodes", OPCODES.values(), ids=OPCODES)
@pytest.mark.parametrize("is_zip", [True, False])
def test_no_opcode_of_a_file_runs_code(tmp_path, monkeypatch, opcodes, is_zip):
    sentinel, path = tmp_path / "sentinel", tmp_path / "a.pt"
    content = opcodes.replace("SENTINEL", str(sentinel)).encode("latin1")
    if is_zip:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        path.write_bytes(content)
    before = nn.Linear.forward
    with pytest.raises(ConfigError, match="cannot be read as a checkpoint"):
        read_tensors(path)
    assert not sentinel.exists()
    assert str(sentinel) not in os.environ
    assert nn.Linear.forward is before


def test_nothing_is_imported(tmp_path, monkeypatch):
    (tmp_path / "sneaky_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a.pt").write_bytes(b"(dVconfig\ncsneaky_module\nConfig\n)\x81s.")
    with pytest.raises(ConfigError, match="no tensors by name"):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "content",
    [
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x.",  # bytes of 2^63
        b"}K\x01" + b"\x85" * 200_000 + b"K\x02s.",  # as a key
        b"(" * 100_000 + b".",
        b"0.",
    ],
)
def test_hostile_sizes_and_depths_are_refused(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UnreadableError):  # not read_tensors: torch's own reader crashes on some
        read_inert(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"K\x01" + b"\x85" * 200_000 + b".", b"]" + b"2" * 10 + b"a" * 10 + b"."])
def test_deep_and_recursive_values_hold_no_tensors(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    found = read_inert(tmp_path / "a.pt")
    assert dictionaries_of_tensors(found) == []
    assert unknown_objects(found) == []


@pytest.mark.parametrize("attack", ["os.system", "eval", "open", "setstate"])
def test_the_attacks_would_run_in_pythons_unpickler(tmp_path, attack):
    content = pickle.dumps(ATTACKS[attack](str(tmp_path / "sentinel")))
    pickle.loads(content)
    assert (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("save", [FORMATS["zip"], FORMATS["legacy"]], ids=["zip", "legacy"])
def test_tensors_larger_than_the_file_are_refused(tmp_path, save):
    class Huge:
        def __reduce__(self):
            return (
                torch._utils._rebuild_tensor_v2,
                (torch.zeros(2).storage(), 0, (2**40,), (0,), False, OrderedDict()),
            )

    save({"a": Huge(), "config": Config()}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="larger than its storage"):
        read_tensors(tmp_path / "a.pt")


def test_a_packed_archive_is_refused(tmp_path):  # it could grow past all memory
    torch.save({"a": torch.zeros(9), "config": Config()}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, zipfile.ZipFile(tmp_path / "b.pt", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ConfigError, match="is packed"):
        read_tensors(tmp_path / "b.pt")


@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_a_file_that_is_cut_anywhere_is_refused(tmp_path, save):
    save({"state_dict": network().state_dict(), "config": Config()}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for part in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        (tmp_path / "a.pt").write_bytes(whole[:part])
        with pytest.raises(ConfigError, match="cannot be read as a checkpoint"):
            read_tensors(tmp_path / "a.pt")


def test_a_file_that_is_not_there_and_a_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.pt does not exist"):
        read_tensors(tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="is a folder"):
        read_tensors(tmp_path)


def read(tmp_path, state):
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    return read_tensors(tmp_path / "a.ckpt")


def fitted(tmp_path, state, net, prefix=None):
    matched = fit_to(read(tmp_path, state), net, prefix)
    matched.load_into(net)
    return matched


def test_keys_that_fit_are_taken_as_they_are(tmp_path):
    net = network()
    assert fitted(tmp_path, network(1).state_dict(), net).notes == ()
    assert same(net.state_dict(), network(1).state_dict())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_are_taken_off_and_said(tmp_path, prefix):
    net = network()
    notes = fitted(tmp_path, prefixed(network(1).state_dict(), prefix), net).notes
    assert same(net.state_dict(), network(1).state_dict())
    assert all(f"{name!r} was taken off 7 keys" in " ".join(notes) for name in prefix.strip(".").split("."))


def test_two_keys_never_become_one(tmp_path):
    plain, wrapped = network(1).state_dict(), prefixed(network(2).state_dict(), "module.")
    name = next(iter(plain))
    del plain[name]  # the rest of one network, and all of another
    with pytest.raises(ConfigError, match="every key fits behind prefix 'module.'"):
        fitted(tmp_path, plain | wrapped, network())


@pytest.mark.parametrize("prefix", ["model.", "model.depth_net.", "module.net.", "student.", "ema.module."])
def test_any_other_prefix_is_proposed_and_taken_when_said(tmp_path, prefix):
    state = prefixed(network(1).state_dict(), prefix) | {"loss.weight": torch.zeros(3)}
    with pytest.raises(ConfigError, match=rf"every key fits behind prefix '{prefix}': say prefix: {prefix}$"):
        fitted(tmp_path, state, network())
    for said in (prefix, prefix.rstrip(".")):
        net = network()
        matched = fitted(tmp_path, state, net, said)
        assert same(net.state_dict(), network(1).state_dict())
        assert matched.prefix == prefix
        assert matched.notes == ("1 keys of other parts were left: loss.",)


def test_of_several_prefixes_none_is_chosen(tmp_path):
    state = prefixed(network(1).state_dict(), "student.") | prefixed(network(2).state_dict(), "teacher.")
    with pytest.raises(ConfigError, match=r"prefix 'student\.' \(so do those behind teacher\.\)"):
        fitted(tmp_path, state, network())


def test_wrappers_behind_and_before_a_prefix(tmp_path):
    for state in (
        prefixed(network(1).state_dict(), "model.module."),
        prefixed(network(1).state_dict(), "module.model."),
    ):
        net = network()
        fitted(tmp_path, state, net, "model.")
        assert same(net.state_dict(), network(1).state_dict())


def test_an_attribute_of_the_network_itself_is_no_prefix(tmp_path):
    for name in ("model", "module", "network"):
        net = nn.Sequential(OrderedDict({name: network()}))
        state = nn.Sequential(OrderedDict({name: network(1)})).state_dict()
        assert fitted(tmp_path, state, net).notes == ()
        assert same(net.state_dict(), state)


def test_counters_of_batch_norm_may_be_missing_or_there(tmp_path):
    net, state = network(), network(1).state_dict()
    del state["norm.num_batches_tracked"]
    fitted(tmp_path, state, net)
    assert torch.equal(net.conv.weight, state["conv.weight"])
    fitted(tmp_path, network(1).state_dict(), nn.Sequential(OrderedDict(conv=net.conv, norm=_affine(4))))


def _affine(width):
    module = nn.Module()
    for name in ("weight", "bias", "running_mean", "running_var"):
        module.register_buffer(name, torch.zeros(width))
    return module


def test_another_network_is_described_in_one_line(tmp_path):
    state = network(1).state_dict() | {f"head.{index}": torch.zeros(1) for index in range(9)}
    state["conv.bias"] = torch.zeros(5)
    del state["norm.weight"]
    with pytest.raises(ConfigError) as raised:
        fitted(tmp_path, state, network())
    assert str(raised.value).endswith(
        "a.ckpt is of another network: 1 of 7 keys are missing (norm.weight); 9 of 15 are unexpected (head.0, head.1, "
        "head.2, ...); 1 have another shape (conv.bias is (5,) in the file and (4,) in the network)"
    )


def test_another_network_behind_a_likely_prefix(tmp_path):
    state = prefixed(network(1).state_dict(), "model.")
    del state["model.conv.bias"]
    with pytest.raises(ConfigError, match=r"5 of 7 keys fit behind prefix 'model\.'"):
        fitted(tmp_path, state, network())
    with pytest.raises(ConfigError, match=r"behind prefix 'model\.': 1 of 7 keys are missing \(conv\.bias\)$"):
        fitted(tmp_path, state, network(), "model")
    with pytest.raises(ConfigError, match=r"no key behind prefix 'modl\.': did you mean 'model\.'\?"):
        fitted(tmp_path, state, network(), "modl")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_that_renames_old_keys_itself(tmp_path):
    old = nn.utils.weight_norm(nn.Conv2d(3, 4, 1))
    new = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))
    fitted(tmp_path, old.state_dict(), new)
    image = torch.rand(1, 3, 4, 4)
    assert torch.allclose(new(image), old(image), atol=1e-6)
