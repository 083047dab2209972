"""A file that is written anew keeps what goes in and comes out, a dynamic batch among it."""

import onnx
import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.export.backends.runtime import OnnxFile
from depth_distill.export.onnx_io.restructured import restructured
from depth_distill.loading.onnx_importer import import_onnx
from tests.commands.test_harden import interface_of, save


@pytest.fixture(params=[1, "N"])
def imported(request, tmp_path):
    return import_onnx(save(tmp_path / "theirs.onnx", batch=request.param))


def test_the_batch_is_that_of_the_file(imported, tmp_path):
    path = restructured(imported, imported.graph, (3, 16, 24), tmp_path / "new.onnx")
    assert interface_of(path) == interface_of(imported.file)
    dynamic = "dim_param" in interface_of(path)[0][0][1]
    batch = torch.randn(3 if dynamic else 1, 3, 16, 24)
    for name, values in OnnxFile(imported.file)(batch).items():
        torch.testing.assert_close(OnnxFile(path)(batch)[name], values, rtol=1e-4, atol=1e-4)


def test_an_invalid_file_is_said_in_one_line(imported, tmp_path, monkeypatch):
    def refuse(model, full_check=False):
        if full_check:  # within the exporter
            return
        raise onnx.checker.ValidationError("no such operator\nat node 3")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ConfigError, match=r"no valid ONNX file \(no such operator\): leave out split_channels"):
        restructured(imported, imported.graph, (3, 16, 24), tmp_path / "new.onnx")
