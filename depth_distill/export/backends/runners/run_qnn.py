"""Run an ONNX file with Qualcomm's QNN execution provider of ONNX Runtime; on a PC, in its HTP emulator.

    python run_qnn.py --model model.int8.onnx --inputs inputs.npy --outputs outputs.npz --report report.json
    python run_qnn.py --model model.float.onnx --calibration calibration/ --inputs ... (as above)

Quantization is ``quantize_static`` with the settings of ``get_qnn_qdq_config``: min/max, one scale per tensor, uint8
activations, int8 weights. A layer that QNN cannot run is an error. On a device, set htp_arch and soc_model to those of
the chip. Install with ``pip install -r requirements-qnn.txt``.
"""

import platform
import tempfile
from pathlib import Path

import onnxruntime
import onnxruntime_qnn
from onnxruntime.quantization import QuantType, quantize
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
from run_onnxruntime import Reader
from runner_io import Run, main

SIMULATOR = platform.machine() in {"x86_64", "AMD64"}  # the chips are Arm
OPTIONS = {
    "htp_arch": "73 by default; FP16 layers in a QDQ file need 73 or newer",
    "soc_model": "43 by default (Snapdragon 8 Gen 2); without one, float networks do not fit the emulator",
    "save": "file for the quantized model, .onnx",
}


def load(model: Path, calibration: Path | None, options: dict[str, str], notes: list[str]) -> Run:
    """Load the model; returns a function that runs it on one input of batch 1."""
    name = onnxruntime_qnn.get_ep_name()
    onnxruntime.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    devices = [each for each in onnxruntime.get_ep_devices() if each.ep_name == name]
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    chip = {"htp_arch": options.get("htp_arch", "73"), "soc_model": options.get("soc_model", "43")}
    settings.add_provider_for_devices(devices[:1], {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **chip})
    notes.append(f"{'emulator' if SIMULATOR else 'device'}, htp_arch {chip['htp_arch']}, soc_model {chip['soc_model']}")
    with tempfile.TemporaryDirectory() as folder:
        if calibration is not None:
            model = quantized(model, calibration, Path(options.get("save", Path(folder, "quantized.onnx"))))
            notes.append("quantized by quantize_static: min/max, per tensor, uint8 activations, int8 weights")
        session = onnxruntime.InferenceSession(str(model), settings)
    input_name = session.get_inputs()[0].name
    output_names = [each.name for each in session.get_outputs()]
    return lambda image: dict(zip(output_names, session.run(output_names, {input_name: image}), strict=True))


def quantized(model: Path, calibration: Path, path: Path) -> Path:
    """Quantize the float model on the calibration tensors and write the result."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    reader = Reader(session.get_inputs()[0].name, calibration)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize(str(model), str(path), get_qnn_qdq_config(str(model), reader, per_channel=False, **types))
    return path


if __name__ == "__main__":
    version = f"{onnxruntime_qnn.__version__} (onnxruntime {onnxruntime.__version__})"
    main("qnn", version, load, OPTIONS, SIMULATOR, about=__doc__)
