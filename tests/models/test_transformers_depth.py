"""TransformersDepth: a transformers folder as a metric-depth teacher, and the errors without one."""

import builtins
import sys
from types import SimpleNamespace

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.models.transformers_depth import TransformersDepth


def test_without_transformers_the_error_names_the_package_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **kwargs):
        if name.split(".")[0] == "transformers":
            raise ImportError("no module named transformers")
        return real(name, *arguments, **kwargs)

    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="TransformersDepth needs transformers: pip install transformers"):
        TransformersDepth(tmp_path)


def test_code_in_the_folder_is_not_trusted(tmp_path, monkeypatch):
    """Whatever is installed: transformers asks, or runs it, where the argument is not given."""
    received = {}

    class Loader:
        @staticmethod
        def from_pretrained(_, **arguments):
            received.update(arguments)
            return torch.nn.Identity()

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoModelForDepthEstimation=Loader))
    (tmp_path / "config.json").write_text("{}")
    TransformersDepth(tmp_path)
    assert received == {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Depth Anything with random weights, as save_pretrained writes it."""
    transformers = pytest.importorskip("transformers")
    backbone = transformers.Dinov2Config(
        image_size=28,
        patch_size=14,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type="metric",
        max_depth=20,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("depth_anything")
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(path)
    return path


def test_it_returns_metres_of_the_size_of_the_image(folder):
    teacher, image = TransformersDepth(folder).eval(), torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        depth_m, twice = teacher(image), TransformersDepth(folder, metres_per_unit=2.0).eval()(image)
        raw = teacher.network(pixel_values=image).predicted_depth
    assert depth_m.shape == (2, 1, 32, 64)
    torch.testing.assert_close(twice, 2 * depth_m)
    # Bilinear resizing stays between what it resizes.
    assert raw.min() - 1e-6 <= depth_m.min() <= depth_m.max() <= raw.max() + 1e-6


def test_what_is_no_such_folder(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config\.json: give the folder that save_pretrained wrote"):
        TransformersDepth(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="holds no depth network that transformers can load"):
        TransformersDepth(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ConfigError, match="holds no depth network that transformers can load"):
        TransformersDepth(tmp_path)  # the weights are not there
