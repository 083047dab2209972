import json

import numpy as np
import pytest
import timm
import torch

from depth_distill.errors import ConfigError
from depth_distill.export.interface.calibration_set import read_calibration_set, write_calibration_set
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.loading.onnx_importer import import_onnx
from depth_distill.loading.onnx_importer.files import opset_of, read_onnx
from depth_distill.quantization.graph.trace import trace
from tools.benchmarks import hard_set
from tools.benchmarks.hard_networks import TransformerDepth
from tools.benchmarks.hard_set import PACKAGES, Variant, make, weights_of, with_outliers


def test_one_in_sixteen_calibration_images_is_replaced():
    images = torch.randn(64, 3, 8, 8)
    changed = with_outliers(images)
    different = [index for index in range(64) if not torch.equal(images[index], changed[index])]
    assert different == [0, 16, 32, 48]
    assert changed[0].std(dim=(1, 2)).max() == 0
    assert changed[16].std(dim=(1, 2)).max() == 0
    assert (changed[0] < changed[16]).all()
    assert changed.amin() == images.amin()
    assert changed.amax() == images.amax()
    assert (changed[48] >= images[48]).all()


def test_weights_of_a_package_get_the_names_of_timm(tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGES, "somebody", "model.pth")
    wanted = timm.create_model("test_resnet").state_dict()
    (tmp_path / "somebody").mkdir()
    theirs = {f"other.{index}": torch.randn(each.shape) for index, each in enumerate(wanted.values())}
    torch.save(theirs, tmp_path / "somebody/model.pth")
    path = weights_of("somebody", "test_resnet", tmp_path, tmp_path / "encoder.pth")
    found = torch.load(path, weights_only=True)
    assert list(found) == list(wanted)
    assert all(torch.equal(a, b) for a, b in zip(found.values(), theirs.values(), strict=True))
    with pytest.raises(ConfigError, match="other tensors"):
        weights_of("somebody", "resnet18", tmp_path, tmp_path / "encoder.pth")
    with pytest.raises(ConfigError, match="pip install --target DIR somebody"):
        weights_of("somebody", "test_resnet", None, tmp_path / "encoder.pth")


def test_the_transformer_is_traced_and_comes_back_from_its_file(tmp_path):
    network = TransformerDepth((16, 24), width=12, depth=1, heads=2).eval()
    graph = trace(network, image_size=(16, 24))
    images = torch.randn(1, 3, 16, 24)
    assert torch.equal(graph(images), network(images))
    path = export_float(graph, tmp_path / "float.onnx", FileSpec(16, 24, hard_set.OPSET))
    assert opset_of(read_onnx(path)) == 13
    assert torch.allclose(import_onnx(path).graph(images), network(images), atol=1e-5)


def test_a_variant_has_the_network_of_its_base_and_other_images(tmp_path):
    base = tmp_path / "lite0"
    base.mkdir()
    images = np.random.default_rng(0).normal(size=(32, 3, 4, 4)).astype(np.float32)
    write_calibration_set(images, np.zeros((32, 3, 4, 4), np.uint8), "image", base / "calibration")
    for name in ("float.onnx", "held_out.npz", "reference.npy"):
        (base / name).write_text(name)
    variant = Variant("bright", "outliers", "lite0", outliers=True)
    with pytest.raises(ConfigError, match="make it first"):
        make(variant, tmp_path, tmp_path, None, None)
    metadata = {"name": "lite0", "codec": {}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}
    (base / "metadata.json").write_text(json.dumps(metadata))
    assert make(variant, tmp_path, tmp_path, None, None).startswith("made")
    assert (tmp_path / "bright/float.onnx").read_text() == "float.onnx"
    found = read_calibration_set(tmp_path / "bright/calibration")
    assert [i for i in range(32) if not np.array_equal(found[i], images[i])] == [0, 16]
    written = json.loads((tmp_path / "bright/metadata.json").read_text())
    assert written["base"] == "lite0"
    assert written["target"] == "per-tensor-minmax"
    assert make(variant, tmp_path, tmp_path, None, None) == "is there"
