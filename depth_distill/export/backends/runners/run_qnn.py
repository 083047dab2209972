"""Run an ONNX file on Qualcomm's QNN execution provider of ONNX Runtime; on a PC, in its emulator of the HTP.

    python run_qnn.py --model model.int8.onnx --inputs inputs.npy --outputs outputs.npz --report report.json
    python run_qnn.py --model model.float.onnx --calibration calibration/ --inputs ... (as above)

Quantization is ``quantize_static`` with the settings of ``get_qnn_qdq_config``: min/max, one scale a tensor, uint8
activations, int8 weights. A layer that QNN would leave to the CPU is an error. On a device, set htp_arch and soc_model
to those of the chip. Install with ``pip install -r requirements-qnn.txt``.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_qnn
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

TOOL = "qnn"
VERSION = f"{onnxruntime_qnn.__version__} (onnxruntime {onnxruntime.__version__})"
SIMULATOR = platform.machine() in {"x86_64", "AMD64"}  # the chips are Arm
OPTIONS = {
    "htp_arch": "73 by default; FP16 layers in a QDQ file need 73 or newer",
    "soc_model": "43 by default (Snapdragon 8 Gen 2); without one, float networks do not fit the emulator",
    "save": "file for the quantized model, .onnx",
}

Arrays = dict[str, np.ndarray]
Run = Callable[[np.ndarray], Arrays]


def load(model: Path, calibration: Path | None, options: dict[str, str], notes: list[str]) -> Run:
    """Make the model ready to run; what it returns takes one input of batch 1."""
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
    """Quantize the float model on the calibration tensors and write it."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    reader = Reader(session.get_inputs()[0].name, calibration)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize(str(model), str(path), get_qnn_qdq_config(str(model), reader, per_channel=False, **types))
    return path


class Reader(CalibrationDataReader):
    """One calibration tensor at a time."""

    def __init__(self, input_name: str, calibration: Path) -> None:
        self.input_name = input_name
        self.files = iter(calibration_files(calibration))

    def get_next(self) -> Arrays | None:
        """The next one, or None at the end."""
        file = next(self.files, None)
        return None if file is None else {self.input_name: np.load(file, allow_pickle=False)}


# From here on all recipes are the same.


def calibration_files(folder: Path) -> list[Path]:
    """The tensors that ``tensors.txt`` lists."""
    return [folder / line for line in (folder / "tensors.txt").read_text(encoding="utf-8").splitlines() if line]


def main() -> None:
    """Run every input once for its outputs, then ``--repeats`` times for the latency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="ONNX file with one input and a batch of 1")
    parser.add_argument("--inputs", type=Path, required=True, help=".npy of N inputs, one behind the other")
    parser.add_argument("--outputs", type=Path, required=True, help=".npz to write: each output of all N, float32")
    parser.add_argument("--report", type=Path, required=True, help=".json to write: version, latency, notes")
    parser.add_argument("--calibration", type=Path, help="folder with tensors.txt: quantize the float model on it")
    listed = "; ".join(f"{name}: {meaning}" for name, meaning in OPTIONS.items())
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help=listed or "there are none")
    parser.add_argument("--repeats", type=int, default=20, help="timed runs; 0 for none")
    arguments = parser.parse_args()
    options = dict(each.partition("=")[::2] for each in arguments.option)
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        parser.error(f"unknown option {unknown[0]!r}, expected one of {sorted(OPTIONS)}")

    inputs = np.load(arguments.inputs, allow_pickle=False)
    notes: list[str] = []
    start = time.perf_counter()
    run = load(arguments.model, arguments.calibration, options, notes)
    load_seconds = time.perf_counter() - start
    images = [inputs[index : index + 1] for index in range(len(inputs))]
    results = [run(image) for image in images]
    outputs = {name: np.concatenate([each[name] for each in results]).astype(np.float32) for name in results[0]}
    np.savez(arguments.outputs, **outputs)

    milliseconds = []
    for index in range(0 if SIMULATOR else arguments.repeats):
        start = time.perf_counter()
        run(images[index % len(images)])
        milliseconds.append(1000 * (time.perf_counter() - start))
    report = {
        "tool": TOOL,
        "version": VERSION,
        "milliseconds": statistics.median(milliseconds) if milliseconds else None,
        "load_seconds": load_seconds,
        "simulator": SIMULATOR,
        "notes": notes,
    }
    arguments.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
