"""Files that compute something else than they should are refused when they are written."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io import float_onnx
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float, exported
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.export.onnx_io.written import require_same_as_network, require_same_codes
from depth_distill.quantization.graph.trace import trace
from tests.export.networks import calibrated, smooth_images

SPEC = FileSpec(8, 12)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))


def with_weights(model, change):
    """A copy of a model with each weight of its last layer changed."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    name = model.graph.node[-1].input[1]
    (weight,) = (each for each in model.graph.initializer if each.name == name)
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), name))
    return model


def test_a_file_that_differs_is_refused(network, tmp_path):
    model = exported(network, SPEC)
    require_same_as_network(model, network, SPEC, tmp_path / "a.onnx")
    message = r"a.onnx: codes differs from that of the network by up to .* on a random image, at most"
    wrong = with_weights(model, lambda weight: weight * np.float32(1.001))
    with pytest.raises(ConfigError, match=message):
        require_same_as_network(wrong, network, SPEC, tmp_path / "a.onnx")


def test_nothing_is_left_of_a_file_that_is_refused(network, tmp_path, monkeypatch):
    wrong = with_weights(exported(network, SPEC), lambda weight: weight + np.float32(0.1))
    monkeypatch.setattr(float_onnx, "exported", lambda *_: wrong)
    with pytest.raises(ConfigError, match="differs"):
        export_float(network, tmp_path / "a.onnx", SPEC)
    assert list(tmp_path.iterdir()) == []


def test_codes_may_differ_by_ties_only(network, tmp_path):
    quantized = calibrated(trace(network), "per-tensor-minmax", [smooth_images(2, (8, 12))])
    model = onnx.load(export_qdq(quantized, tmp_path / "q.onnx", SPEC))
    require_same_codes(model, model, SPEC, tmp_path / "q.onnx")
    wrong = onnx.ModelProto.FromString(model.SerializeToString())
    scale = wrong.graph.node[-1].input[1]
    (stored,) = (each for each in wrong.graph.initializer if each.name == scale)
    stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored) * np.float32(1.5), scale))
    with pytest.raises(ConfigError, match="q.onnx: codes differs from that of the file with opset 19"):
        require_same_codes(wrong, model, SPEC, tmp_path / "q.onnx")
