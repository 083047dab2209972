"""Quantize a float ONNX file with NNCF and run it on OpenVINO's CPU plugin.

    python run_nncf.py --model model.float.onnx --calibration calibration/ --inputs inputs.npy --outputs outputs.npz \
        --report report.json

Min/max, one scale per tensor, symmetric int8 weights, asymmetric uint8 activations, quantized outputs; NNCF's bias
correction and overflow fix are off. Install with ``pip install -r requirements-openvino.txt``.
"""

import os
from pathlib import Path

import numpy as np
import openvino

os.environ["NNCF_CI"] = "1"  # without it, NNCF sends usage statistics
import nncf
from nncf.quantization.advanced_parameters import QuantizationParameters
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from run_openvino import compiled
from runner_io import Run, calibration_files, main

OPTIONS = {
    "threads": "threads of the runtime; 0, the default, is one per core",
    "save": "file for the quantized model, .xml",
}


def load(model: Path, calibration: Path | None, options: dict[str, str], notes: list[str]) -> Run:
    """Load the model; returns a function that runs it on one input of batch 1."""
    if calibration is None:
        raise SystemExit("NNCF quantizes a float model: give --calibration, or use run_openvino.py")
    network = quantize(openvino.Core().read_model(model), calibration)
    if "save" in options:
        openvino.save_model(network, options["save"], compress_to_fp16=False)
    notes.append("quantized by NNCF: min/max, per tensor, uint8 activations, int8 weights, no bias correction")
    return compiled(network, options, notes)


def quantize(network: openvino.Model, calibration: Path) -> openvino.Model:
    """Quantize on all calibration tensors, without NNCF's corrections."""
    files = calibration_files(calibration)
    return nncf.quantize(
        network,
        nncf.Dataset(files, lambda file: np.load(file, allow_pickle=False)),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(files),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.DISABLE,
            quantize_outputs=True,
            disable_bias_correction=True,
            weights_quantization_params=QuantizationParameters(per_channel=False),
            activations_quantization_params=QuantizationParameters(per_channel=False),
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            weights_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        ),
    )


if __name__ == "__main__":
    main("nncf", f"{nncf.__version__} (openvino {openvino.__version__})", load, OPTIONS, about=__doc__)
