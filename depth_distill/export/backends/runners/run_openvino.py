"""Run an ONNX file on OpenVINO's CPU plugin.

    python run_openvino.py --model model.int8.onnx --inputs inputs.npy --outputs outputs.npz --report report.json

It does not quantize: see run_nncf.py. Install with ``pip install -r requirements-openvino.txt``.
"""

from pathlib import Path

import numpy as np
import openvino
from runner_io import Arrays, Run, main

OPTIONS = {
    "threads": "threads of the runtime; 0, the default, is one per core",
    "low_precision": "1 for integer arithmetic, 0 for rounded floats; 1 by default unless activations are int8",
    "save": "file for OpenVINO's own model, .xml",
}


def load(model: Path, calibration: Path | None, options: dict[str, str], notes: list[str]) -> Run:
    """Load the model; returns a function that runs it on one input of batch 1."""
    if calibration is not None:
        raise SystemExit("OpenVINO does not quantize by itself: run_nncf.py does")
    network = openvino.Core().read_model(model)
    if "save" in options:
        openvino.save_model(network, options["save"], compress_to_fp16=False)
    return compiled(network, options, notes)


def compiled(network: openvino.Model, options: dict[str, str], notes: list[str]) -> Run:
    """Compile for the CPU with float32, because the errors of bfloat16 would count as drift of the model."""
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if int(options.get("threads", 0)):
        settings["INFERENCE_NUM_THREADS"] = int(options["threads"])
    signed = has_signed_activations(network)
    if options.get("low_precision", "0" if signed else "1") == "0":
        settings["LP_TRANSFORMS_MODE"] = "NO"
    if signed and "low_precision" not in options:
        notes.append(
            "activations are int8, for which OpenVINO's low-precision transforms have large errors: they are off "
            "(LP_TRANSFORMS_MODE=NO), so it computes with rounded floats and is no faster than FP32"
        )
    request = openvino.Core().compile_model(network, "CPU", settings).create_infer_request()
    names = [sorted(each.names)[0] for each in network.outputs]

    def run(image: np.ndarray) -> Arrays:
        request.infer([image])
        return {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(names)}

    return run


def has_signed_activations(network: openvino.Model) -> bool:
    """Whether a QuantizeLinear of the ONNX file has int8 outputs; stored weights have no QuantizeLinear."""
    return any(
        node.get_type_name() == "Convert"
        and node.get_output_element_type(0) == openvino.Type.i8
        and node.input_value(0).get_node().get_type_name() == "FakeQuantize"
        for node in network.get_ops()
    )


if __name__ == "__main__":
    main("openvino", openvino.__version__, load, OPTIONS, about=__doc__)
