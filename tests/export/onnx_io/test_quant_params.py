import numpy as np
import pytest

from depth_distill.export.onnx_io.quant_params import QuantParams

FORMAT = QuantParams(0.25, 10, "uint8")


def test_values_come_back_from_the_nearest_code_in_range():
    values = np.array([0, 0.1, 0.13, -0.3, -99, 99], np.float32)
    np.testing.assert_array_equal(FORMAT.round(values), [0, 0, 0.25, -0.25, -2.5, 61.25])


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_codes_of_the_other_signedness_are_shifted(dtype):
    codes = np.arange(256) - (128 if dtype == "int8" else 0)
    np.testing.assert_array_equal(FORMAT.real(codes.astype(dtype)), (np.arange(256) - 10) * 0.25)
    signed = QuantParams(0.25, 10 - 128, "int8")
    np.testing.assert_array_equal(signed.real(codes.astype(dtype)), (np.arange(256) - 10) * 0.25)
