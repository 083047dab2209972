import onnx
import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.onnx_io.file_spec import FileSpec, opset_for
from depth_distill.export.onnx_io.float_onnx import export_float
from tests.export.check.rules.chips import chip


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).train()
    path = export_float(
        network, tmp_path_factory.mktemp("onnx") / "float.onnx", FileSpec.like(torch.zeros(1, 3, 8, 12))
    )
    return network, path


def test_names_shapes_and_opset(exported):
    _, path = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.name, [d.dim_value for d in each.type.tensor_type.shape.dim]) for each in model.graph.input] == [
        ("image", [1, 3, 8, 12])
    ]
    assert [each.name for each in model.graph.output] == ["codes"]
    assert model.opset_import[0].version == 19
    assert [each.name for each in path.parent.iterdir()] == ["float.onnx"]


def test_nothing_of_this_machine_is_in_the_file(exported):
    assert b"site-packages" not in exported[1].read_bytes()


def test_it_computes_the_same(exported):
    network, path = exported
    image = torch.randn(3, 3, 8, 12)
    torch.testing.assert_close(OnnxNetwork(path, threads=1)(image), network(image).detach(), rtol=1e-4, atol=1e-5)
    assert network.training


def test_what_it_refuses(exported, tmp_path):
    network, path = exported
    with pytest.raises(ConfigError, match=r"received the shape \(2, 3, 8, 8\), expected \(1, 3, H, W\)"):
        export_float(network, tmp_path / "a.onnx", FileSpec.like(torch.zeros(2, 3, 8, 8)))
    with pytest.raises(ConfigError, match="opset: received 8, expected 9 to"):
        export_float(network, tmp_path / "a.onnx", FileSpec.like(torch.zeros(1, 3, 8, 8), opset=8))
    with pytest.raises(ConfigError, match="takes images of 8 x 12 .* received 8 x 8"):
        OnnxNetwork(path)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="does not exist"):
        OnnxNetwork(tmp_path / "a.onnx")
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="broken.onnx is no ONNX file, or is truncated"):
        OnnxNetwork(tmp_path / "broken.onnx")


@pytest.mark.parametrize(("newest", "expected"), [(None, 19), (21, 19), (18, 18), (11, 11), (7, 9)])
def test_the_opset_is_one_that_the_target_reads(newest, expected):
    # 7 cannot be written: the check of operators then says so.
    assert opset_for(chip(operators={"max_opset": newest})) == expected
