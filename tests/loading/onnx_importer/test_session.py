"""Errors of ONNX Runtime are one line, with the file."""

from pathlib import Path

import numpy as np
import pytest

from depth_distill.errors import ConfigError
from depth_distill.loading.onnx_importer.session import open_session, run_session
from tests.loading.onnx_importer.onnx_text import model_of

FILE = Path("network.onnx")


def test_a_model_that_it_refuses_and_an_input_that_does_not_fit():
    model = model_of("y = Relu (x)")
    session = open_session(model.SerializeToString(), FILE)
    image = np.full((1, 4, 8, 8), -1, np.float32)
    assert run_session(session, {"x": image}, FILE)[0].max() == 0
    takes = r"network\.onnx takes x tensor\(float\) \[1, 4, 8, 8\], received x uint8 \[1, 4, 8, 8\]: [^\n]+$"
    with pytest.raises(ConfigError, match=takes):
        run_session(session, {"x": image.astype(np.uint8)}, FILE)
    with pytest.raises(ConfigError, match=r"received y float32"):
        run_session(session, {"y": image}, FILE)
    model.graph.node[0].op_type = "Rleu"
    with pytest.raises(ConfigError, match=r"^network\.onnx: ONNX Runtime cannot load it: [^\n]+$"):
        open_session(model.SerializeToString(), FILE)
