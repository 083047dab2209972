import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tools.benchmarks import any_network
from tools.benchmarks.any_network import Entry, Tensors, entries
from tools.benchmarks.any_network_entries import YoloLike


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(6):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, image):
        return {"disp": [self.head(self.relu(self.norm(self.conv(image))))], "none": None}


class Branching(Tiny):
    def forward(self, image):
        return super().forward(image if image.mean() > -1e9 else -image)


def test_a_module_passes_every_stage(pictures, tmp_path):
    entry = Entry("tiny", "tiny", Tiny, size=(16, 16))
    row = any_network.measure(entry, pictures, tmp_path, any_network.Settings(recipe="equalize"))
    assert row.way == "traced"
    assert row.reasons == {}
    assert set(row.differences) == set(any_network.STAGES)
    assert max(row.differences.values()) < 1e-5
    assert (row.pinned, row.layers) == (1, 2)  # the head is an output
    assert row.pinned_by == ["1 x an output of the network"]
    assert 0 < row.hardened <= row.naive < 0.2
    assert row.judge == "ONNX Runtime's quantizer"


def test_what_cannot_be_traced_comes_through_onnx(pictures, tmp_path):
    row = any_network.measure(Entry("tiny", "branching", Branching, size=(16, 16)), pictures, tmp_path)
    assert row.way == "through ONNX"
    assert "cannot be traced" in row.reasons["trace"]
    assert row.differences["equalize"] < 1e-5


def test_a_network_that_cannot_be_built_is_a_row_with_its_reason(pictures, tmp_path):
    def build():
        raise RuntimeError("no weights\nand more")

    row = any_network.measure(Entry("tiny", "broken", build), pictures, tmp_path)
    assert row.reasons == {"import": "RuntimeError: no weights"}
    assert "| broken | no | no | no | no |" in any_network.markdown([row])
    assert "- broken: import: RuntimeError: no weights" in any_network.markdown([row])


def test_the_command_resumes_and_names_missing_packages(pictures, tmp_path, monkeypatch, capsys):
    made = [Entry("tiny", "tiny", Tiny, size=(16, 16)), Entry("tiny", "absent", Tiny, ("no_such_package",))]
    monkeypatch.setattr(any_network, "entries", lambda: made)
    monkeypatch.setattr(
        any_network,
        "_apart",
        lambda entry, options: any_network.Row(entry.name, entry.group, "traced", judge="a tool chain"),
    )
    words = ["--images", str(pictures), "--out", str(tmp_path / "out")]
    assert any_network.main([*words, "--only", "^tiny tiny$"]) == 0
    monkeypatch.undo()
    monkeypatch.setattr(any_network, "entries", lambda: made)
    capsys.readouterr()
    assert any_network.main(words) == 0
    printed = capsys.readouterr().out
    assert "absent | skipped: no package no_such_package" in printed
    assert "traced" not in printed  # that row stands already
    rows = json.loads((tmp_path / "out" / "any_network.json").read_text())
    assert [(each["name"], each["way"]) for each in rows] == [("tiny", "traced"), ("absent", "")]
    assert "| tiny | traced |" in (tmp_path / "out" / "any_network.md").read_text()
    monkeypatch.setattr(any_network, "_apart", lambda entry, options: any_network.Row(entry.name, entry.group, "again"))
    assert any_network.main([*words, "--target", "per-channel"]) == 0  # a row of another target is no use
    assert "| tiny | again |" in (tmp_path / "out" / "any_network.md").read_text()


def test_settled_batch_norms_have_the_statistics_of_the_images():
    torch.manual_seed(0)
    network, images = Tiny(), torch.randn(4, 3, 16, 16) * 3 + 1
    any_network.settle(network, images)
    network.eval()
    with torch.no_grad():
        scale, offset = (each[:, None, None] for each in (network.norm.weight, network.norm.bias))
        normalized = (network.norm(network.conv(images)) - offset) / scale
    assert torch.allclose(normalized.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(normalized.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert len(set(network.norm.weight.tolist())) == 4


def test_every_entry_has_a_name_of_its_own_and_is_small_enough_to_build():
    names = [each.name for each in entries()]
    assert len(names) == len(set(names)) >= 50
    outputs = Tensors(YoloLike().eval())(torch.zeros(1, 3, 64, 64))
    assert outputs[0].shape == (1, 12, 8 * 8 + 4 * 4 + 2 * 2)
