import sys

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.loading.imported import ImportedNetwork, NetworkInput, build_module, size_rule
from depth_distill.loading.meaning import Meaning
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import Recipe
from depth_distill.quantization.target.target import load_target
from tests.loading.onnx_importer.onnx_text import model_of
from tests.loading.onnx_importer.onnx_text import saved as saved_model
from tests.loading.strangers import Monodepth, TwoHeads, randomized

DISPARITY = Meaning(encoding="inverse", near=1, min_m=0.5, max_m=15.0)
IMAGE = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
MONODEPTH = {"class_path": "tests.loading.strangers.Monodepth"}


def described(cls, **arguments):
    return {"class_path": f"tests.loading.strangers.{cls.__name__}", "init_args": arguments}


def saved(module, path, prefix=""):
    torch.save({"state_dict": {prefix + key: value for key, value in module.state_dict().items()}, "epoch": 3}, path)
    return path


@pytest.mark.parametrize(("pad", "activation"), [("reflect", "elu"), ("zeros", "relu")])
def test_disparity_becomes_codes_that_decode_to_its_depth(tmp_path, pad, activation):
    theirs = randomized(Monodepth(pad, activation))
    weights = saved(theirs, tmp_path / "theirs.ckpt", "model.depth_net.")

    network = ImportedNetwork(
        described(Monodepth, pad=pad, activation=activation), DISPARITY, (32, 64), output=[["disp", 0]],
        weights=weights, prefix="model.depth_net.",
    )  # fmt: skip

    with torch.no_grad():
        disp = theirs(IMAGE)[("disp", 0)]
        torch.testing.assert_close(
            network.predict_depth(IMAGE), 1 / (1 / 15 + (1 / 0.5 - 1 / 15) * disp), rtol=1e-5, atol=0
        )
    assert network.notes[-1] == "folded into dispconv.0"
    assert any("parameters of other outputs removed" in note for note in network.notes)
    assert not any("dispconv.1" in name for name, _ in network.named_parameters())


def test_its_one_code_becomes_a_pair():
    network = ImportedNetwork(MONODEPTH, DISPARITY, (32, 64), output=[["disp", 0]])
    interface = Interface.of_codes(InputLayout(32, 64, (0, 0, 0), (1, 1, 1)), network.codec.host)
    prepare = Preparer(network, Context(load_target("per-tensor-minmax"), (IMAGE,), interface))

    prepared = prepare(Recipe.from_entries(["fold", "equalize", "pair"]))

    with torch.no_grad():
        found = prepared.interface.depth_m(prepared.graph(IMAGE))
        torch.testing.assert_close(found, network.predict_depth(IMAGE), rtol=3e-4, atol=0)
    assert prepared.interface.outputs.names == ("integer", "fractional")


def test_no_operator_is_added_for_the_flip():
    network = ImportedNetwork(MONODEPTH, DISPARITY, (32, 64), output=[["disp", 0]])

    last = list(network.graph.graph.nodes)[-3:]

    assert [str(node.target) for node in last[:2]] == ["dispconv.0", "sigmoid"]


def test_a_checkpoint_of_the_graph_fits_a_network_that_is_built_anew(tmp_path):
    weights = saved(randomized(Monodepth()), tmp_path / "theirs.ckpt")
    first = ImportedNetwork(MONODEPTH, DISPARITY, (32, 64), output=[["disp", 0]], weights=weights)

    again = ImportedNetwork(MONODEPTH, DISPARITY, (32, 64), output=[["disp", 0]])
    again.load_state_dict(first.state_dict())

    with torch.no_grad():
        assert torch.equal(again.eval()(IMAGE), first.eval()(IMAGE))


def test_two_heads_are_two_codes():
    codec = {"kind": "integer_fractional", "decoder": "unwrap", "integer": "coarse", "fraction": "sawtooth"}

    network = ImportedNetwork(
        described(TwoHeads), Meaning(codec=codec, min_m=0.5, max_m=15.0), (32, 64), method="infer", outputs=[[0], [1]]
    )

    with torch.no_grad():
        wanted = torch.cat(build_module(described(TwoHeads)).infer(IMAGE), 1)
        torch.testing.assert_close(network(IMAGE), wanted)
        assert network.predict_depth(IMAGE).shape == (2, 1, 32, 64)


def test_a_network_of_bgr_pixels_from_0_to_255_takes_normalized_rgb():
    caffe = NetworkInput(mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), scale=255.0, colour_order="BGR")

    network = ImportedNetwork(MONODEPTH, DISPARITY, (32, 64), output=[["disp", 0]], input=caffe)

    mean, std = (torch.tensor(each).view(3, 1, 1) for each in network.normalization)
    theirs = (IMAGE * 255).flip(1) - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    with torch.no_grad():
        wanted = 1 - build_module(MONODEPTH)(theirs)[("disp", 0)]
        torch.testing.assert_close(network((IMAGE - mean) / std), wanted, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match=r"data\.image_mean is \[0\.5, .* was trained with \[0\.48"):
        network.check_normalization((0.5, 0.5, 0.5), std.flatten().tolist())


def test_the_network_is_its_graph_for_every_pass():
    network = ImportedNetwork(MONODEPTH, DISPARITY, (32, 64), output=[["disp", 0]])

    graph = trace(network)

    assert graph is not network.graph
    assert [node.name for node in graph.graph.nodes] == [node.name for node in network.graph.graph.nodes]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"module": {"class_path": "nowhere.Net"}}, r"nowhere\.Net cannot be imported .* or give that folder as code"),
        ({"module": {"class_path": "tests.loading.strangers.Net"}}, r"there is no 'Net' in tests\.loading\.strangers"),
        (
            {"module": {"class_path": "tests.loading.strangers.randomized", "init_args": {"module": 3}}},
            "cannot be built",
        ),
        ({"module": {"class_path": "builtins.dict"}}, r"gives a dict, expected an nn\.Module"),
        ({"module": {"class_path": "a.B", "args": {}}}, "module: expected class_path and init_args, received"),
        ({"output": [["depth", 0]]}, r"there is no key \('depth', 0\); the network returns a dict with the keys"),
        ({"output": [["disp", 1]]}, r"has 16 x 32 pixels for an image of 32 x 64"),
        ({"image_size": (40, 64)}, r"fails on 40 x 64 \(.*\); multiples of 16 fit: .* give stride: 16"),
        ({"outputs": [[0]]}, "give either output, a path, or outputs"),
        ({"method": "infer"}, "infer"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    keys = {"module": MONODEPTH, "meaning": DISPARITY, "image_size": (32, 64), "output": [["disp", 0]]}
    with pytest.raises(ConfigError, match=message):
        ImportedNetwork(**(keys | arguments))


def test_arguments_may_be_modules():
    description = {"class_path": "torch.nn.Sequential", "init_args": {}}
    assert isinstance(build_module(description), nn.Sequential)

    nested = {
        "class_path": "tests.loading.test_imported.Wrapper",
        "init_args": {"inner": {"class_path": "torch.nn.Conv2d", "init_args": dict.fromkeys(
            ("in_channels", "out_channels", "kernel_size"), 1)}},
    }  # fmt: skip
    assert isinstance(build_module(nested).inner, nn.Conv2d)


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


def test_the_folder_of_the_users_code_can_be_named(tmp_path, monkeypatch):
    (tmp_path / "their_networks.py").write_text("import torch\n\n\nclass Net(torch.nn.Conv2d):\n    pass\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = {"in_channels": 3, "out_channels": 1, "kernel_size": 1}

    module = build_module({"class_path": "their_networks.Net", "init_args": arguments}, tmp_path)

    assert type(module).__module__ == "their_networks"


def test_weights_drawn_at_random_are_the_same_each_time():
    before = torch.random.get_rng_state()
    first, second = build_module(MONODEPTH), build_module(MONODEPTH)

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_size_rule_is_found_by_trying():
    def network(image):
        if image.shape[-2] % 8 or image.shape[-1] % 8:
            raise RuntimeError("sizes")

    assert size_rule(network, 33, 40) == 8
    assert size_rule(lambda image: 1 / 0, 33, 40) is None


class SizedPooling(nn.Module):
    """What it computes depends on the size in Python."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, image):
        divisor = 2.0 if image.shape[-1] > 48 else 1.0
        return torch.sigmoid(self.conv(image) / divisor)


def test_a_graph_that_is_right_at_one_size_is_refused_at_another():
    linear = Meaning(min_m=0.5, max_m=15.0)
    module = {"class_path": "tests.loading.test_imported.SizedPooling"}

    sized = ImportedNetwork(module, linear, (32, 64))
    anywhere = ImportedNetwork(MONODEPTH, DISPARITY, (32, 64), output=[["disp", 0]])

    with torch.no_grad():
        torch.testing.assert_close(sized(IMAGE), build_module(module)(IMAGE))
    sized.check_image_size(32, 64)
    anywhere.check_image_size(64, 64)
    with pytest.raises(ConfigError, match=r"32 x 32 .* was made at 32 x 64 and depends on it"):
        sized.check_image_size(32, 32)


def onnx_module(tmp_path, body, **constants):
    model = model_of(body, inputs="float[1,3,32,64] x", **constants)
    return {
        "class_path": "depth_distill.loading.onnx_importer.OnnxModule",
        "init_args": {"file": str(saved_model(tmp_path / "theirs.onnx", model))},
    }


def test_an_onnx_file_is_right_at_its_size(tmp_path):
    module = onnx_module(tmp_path, "c = Conv <pads = [1, 1, 1, 1]> (x, w) y = Sigmoid (c)", w=(1, 3, 3, 3))

    network = ImportedNetwork(module, DISPARITY, (32, 64))

    assert network.fixed_size == (32, 64)
    assert network.notes == ["folded into conv"]


def test_an_onnx_file_that_takes_one_image_at_a_time_is_refused(tmp_path):
    # The mean over the batch is the image itself.
    body = "c = Conv <pads = [1, 1, 1, 1]> (x, w) m = ReduceMean <axes = [0]> (c) t = Add (c, m) y = Sigmoid (t)"

    with pytest.raises(ConfigError, match="one image at a time, because the batch of 1 is a number in it"):
        ImportedNetwork(onnx_module(tmp_path, body, w=(1, 3, 3, 3)), DISPARITY, (32, 64))
