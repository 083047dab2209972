"""What a device returned becomes codes in one way, whatever its numbers are."""

import numpy as np
import pytest

from depth_distill.codecs import DepthRange, HostSingle, HostThermometer
from depth_distill.errors import ConfigError, DataError
from depth_distill.export.device.calibration import CalibrationOutputs
from depth_distill.export.device.outputs import Reading, codes_of, require_readable
from depth_distill.quantization.interface import output_layout

CODEC = HostSingle(DepthRange(0.5, 15.0), "inverse")
CODES = np.linspace(0.01, 0.99, 24, dtype=np.float32).reshape(1, 4, 6)


@pytest.mark.parametrize("logits", [False, True])
def test_metres_are_encoded_and_meet_no_sigmoid(logits, tmp_path):
    layout, reading = output_layout(CODEC, logits=logits), Reading(unit="metres")
    metres = CODEC.decode(CODES)
    assert codes_of({layout.names[0]: metres}, CODEC, layout, reading, "x") == pytest.approx(CODES, abs=1e-5)
    np.save(tmp_path / "0000.npy", metres)
    received = CalibrationOutputs(tmp_path, reading).codes(CODEC, layout, 1, (4, 6))
    assert received[0] == pytest.approx(CODES, abs=1e-5)
    assert received.shape == (1, 1, 4, 6)


@pytest.mark.parametrize(("logits", "unit", "what"), [(True, "codes", "logits"), (False, "metres", "metres")])
def test_integers_of_logits_and_metres_need_a_scale(logits, unit, what, tmp_path):
    layout = output_layout(CODEC, logits=logits)
    np.save(tmp_path / "0000.npy", np.full((1, 4, 6), 7, np.uint8))
    with pytest.raises(DataError, match=f"holds uint8 of {what}: say its --scale and --zero-point"):
        CalibrationOutputs(tmp_path, Reading(unit=unit)).outputs(layout, 1, (4, 6))
    received = CalibrationOutputs(tmp_path, Reading(scale=0.5, zero_point=3, unit=unit)).outputs(layout, 1, (4, 6))
    assert received[layout.names[0]] == pytest.approx(2.0)


def test_logits_meet_one():
    layout = output_layout(CODEC, logits=True)
    said = {layout.names[0]: np.log(CODES / (1 - CODES))}
    assert codes_of(said, CODEC, layout, Reading(), "x") == pytest.approx(CODES, abs=1e-5)


def test_metres_of_several_codes_are_refused():
    with pytest.raises(ConfigError, match="do not say which of 8 codes was off"):
        require_readable(HostThermometer(DepthRange(0.5, 15.0)), "metres")
