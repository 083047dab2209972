"""Run an ONNX file on ONNX Runtime's CPU kernels; with --calibration, quantize it first.

    python run_onnxruntime.py --model model.int8.onnx --inputs inputs.npy --outputs outputs.npz --report report.json
    python run_onnxruntime.py --model model.float.onnx --calibration calibration/ --inputs ... (as above)

Quantization is ``quantize_static``: min/max, one scale per tensor, uint8 activations, int8 weights.
Install with ``pip install -r requirements-onnxruntime.txt``.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from runner_io import Arrays, Run, calibration_files, main

OPTIONS = {
    "threads": "threads of the runtime; 0, the default, is one per core",
    "optimize": "0 runs the operators one by one, as written in the file",
    "save": "file for the quantized model",
}


def load(model: Path, calibration: Path | None, options: dict[str, str], notes: list[str]) -> Run:
    """Load the model; returns a function that runs it on one input of batch 1."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(options.get("threads", 0))
    settings.log_severity_level = 3
    # Without it, x64 CPUs that have no VNNI saturate sums of uint8 x int8 products at 16 bits, which an NPU does not.
    settings.add_session_config_entry("session.x64quantprecision", "1")
    if options.get("optimize") == "0":
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        if calibration is not None:
            model = quantize(model, calibration, Path(options.get("save", Path(folder, "quantized.onnx"))))
            notes.append("quantized by quantize_static: min/max, per tensor, uint8 activations, int8 weights")
        session = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name
    output_names = [each.name for each in session.get_outputs()]
    return lambda image: dict(zip(output_names, session.run(output_names, {input_name: image}), strict=True))


def quantize(model: Path, calibration: Path, path: Path) -> Path:
    """Quantize the float model on the calibration tensors and write the result."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    quantize_static(
        str(model),
        str(path),
        Reader(session.get_inputs()[0].name, calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=False,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return path


class Reader(CalibrationDataReader):
    """Yields one calibration tensor at a time."""

    def __init__(self, input_name: str, calibration: Path) -> None:
        self.input_name = input_name
        self.files = iter(calibration_files(calibration))

    def get_next(self) -> Arrays | None:
        """The next calibration tensor, or None at the end."""
        file = next(self.files, None)
        return None if file is None else {self.input_name: np.load(file, allow_pickle=False)}


if __name__ == "__main__":
    main("onnxruntime", onnxruntime.__version__, load, OPTIONS, about=__doc__)
