"""Quantize a float ONNX file with NNCF and run it on OpenVINO's CPU plugin.

    python run_nncf.py --model model.float.onnx --calibration calibration/ --inputs inputs.npy --outputs outputs.npz \
        --report report.json

Min/max, one scale a tensor, symmetric int8 weights, asymmetric uint8 activations, quantized outputs; NNCF's bias
correction is off, and so is its reserve against overflow. Install with ``pip install -r requirements-openvino.txt``.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino

os.environ["NNCF_CI"] = "1"  # without it, NNCF sends usage statistics
import nncf
from nncf.quantization.advanced_parameters import QuantizationParameters
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

TOOL = "nncf"
VERSION = f"{nncf.__version__} (openvino {openvino.__version__})"
SIMULATOR = False
OPTIONS = {
    "threads": "threads of the runtime; 0, the default, is one a core",
    "save": "file for the quantized model, .xml",
}

Arrays = dict[str, np.ndarray]
Run = Callable[[np.ndarray], Arrays]


def load(model: Path, calibration: Path | None, options: dict[str, str], notes: list[str]) -> Run:
    """Make the model ready to run; what it returns takes one input of batch 1."""
    if calibration is None:
        raise SystemExit("NNCF quantizes a float model: give --calibration, or use run_openvino.py")
    network = quantize(openvino.Core().read_model(model), calibration)
    if "save" in options:
        openvino.save_model(network, options["save"], compress_to_fp16=False)
    notes.append("quantized by NNCF: min/max, per tensor, uint8 activations, int8 weights, no bias correction")
    # Where the model does not say INT8, bfloat16 would pass for its drift.
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if int(options.get("threads", 0)):
        settings["INFERENCE_NUM_THREADS"] = int(options["threads"])
    request = openvino.Core().compile_model(network, "CPU", settings).create_infer_request()
    names = [sorted(each.names)[0] for each in network.outputs]

    def run(image: np.ndarray) -> Arrays:
        request.infer([image])
        return {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(names)}

    return run


def quantize(network: openvino.Model, calibration: Path) -> openvino.Model:
    """Quantize on all calibration tensors, as plainly as NNCF can."""
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
