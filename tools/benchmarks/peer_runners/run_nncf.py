"""NNCF on ONNX: uint8 activations, symmetric int8 weights, min/max, one scale per tensor."""

import os
from collections.abc import Callable
from typing import Any

os.environ["NNCF_CI"] = "1"  # without it, NNCF sends usage statistics
import nncf
import onnx
from nncf.quantization.advanced_parameters import QuantizationParameters
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from peer_io import QUANTIZED, Job, main


def quantizing(correct_bias: bool, **options: Any) -> Callable[[Job], str]:
    """A method that quantizes with some of NNCF's corrections."""

    def quantize(job: Job) -> str:
        per_tensor = QuantizationParameters(per_channel=False)
        quantized = nncf.quantize(
            onnx.load(job.model),
            nncf.Dataset(job.feeds()),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(job.images),
            **options,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.DISABLE,
                disable_bias_correction=not correct_bias,
                weights_quantization_params=per_tensor,
                activations_quantization_params=per_tensor,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                weights_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
        job.notes.append("the output is not rounded: on ONNX files, NNCF's quantize_outputs fails")
        return job.save(quantized, QUANTIZED)

    return quantize


METHODS = {
    "min_max": quantizing(correct_bias=False),
    "fast_bias_correction": quantizing(correct_bias=True, fast_bias_correction=True),
    "bias_correction": quantizing(correct_bias=True, fast_bias_correction=False),
    "smooth_quant": quantizing(correct_bias=True, model_type=nncf.ModelType.TRANSFORMER),
}

if __name__ == "__main__":
    main(nncf.__version__, METHODS)
