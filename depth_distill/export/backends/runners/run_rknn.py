"""Compile an ONNX file with Rockchip's RKNN-Toolkit2 and run it in its NPU simulator.

    python run_rknn.py --model model.float.onnx --calibration calibration/ --inputs inputs.npy --outputs outputs.npz \
        --report report.json
    python run_rknn.py --model model.int8.onnx --inputs ... (as above)

With --calibration, the tool chain quantizes the float model by itself: min/max (``normal``), one scale per tensor
(``layer``); with --option fp16_layers=NAME,NAME, the named layers stay in FP16 (hybrid quantization). A QDQ file keeps
its scales. The newest supported opset is 19. Install with ``pip install -r requirements-rknn.txt``.
"""

import os
import re
import tempfile
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
from rknn.api import RKNN
from runner_io import Arrays, Run, calibration_files, main

OPTIONS = {
    "platform": "rk3588 by default",
    "algorithm": "quantization algorithm: normal (min/max, the default), mmse or kl_divergence",
    "fp16_layers": "names of nodes that stay in FP16 with --calibration, separated by commas",
    "save": "file for the compiled model, .rknn",
}

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def load(model: Path, calibration: Path | None, options: dict[str, str], notes: list[str]) -> Run:
    """Load the model; returns a function that runs it on one input of batch 1."""
    graph = onnx.load(model).graph
    is_quantized = any(node.op_type == "QuantizeLinear" for node in graph.node)
    settings = {"target_platform": options.get("platform", "rk3588"), "quantized_method": "layer"}
    layers = [name for name in options.get("fp16_layers", "").split(",") if name]
    if layers and calibration is None:
        raise SystemExit("fp16_layers needs --calibration: other files have fixed types")
    if calibration is not None:
        settings["quantized_algorithm"] = options.get("algorithm", "normal")
        notes.append(f"quantized by RKNN: {settings['quantized_algorithm']}, one scale per tensor")
    elif not is_quantized:
        notes.append("not quantized: the NPU computes in FP16")
    rknn = RKNN(verbose=False)
    check(rknn.config(**settings), "config")
    check(rknn.load_onnx(model=str(model)), "load_onnx")
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder, "dataset.txt")
        if calibration is not None:
            dataset.write_text("\n".join(str(each.absolute()) for each in calibration_files(calibration)) + "\n")
        if layers:
            tensors = {layer: outputs_of(layer, graph) for layer in layers}
            rknn, left_out = hybrid(rknn, model.stem, tensors, dataset)
            notes.append(f"hybrid quantization: {len(layers) - len(left_out)} of the {len(layers)} layers in FP16")
            if left_out:
                notes.append(f"removed by RKNN's fusions, and so quantized: {', '.join(left_out)}")
        else:
            arguments = {} if calibration is None else {"dataset": str(dataset)}
            check(rknn.build(do_quantization=calibration is not None, **arguments), "build")
    if "save" in options:
        check(rknn.export_rknn(options["save"]), "export_rknn")
    check(rknn.init_runtime(), "init_runtime")
    output_names = [each.name for each in graph.output]

    def run(image: np.ndarray) -> Arrays:
        results = rknn.inference(inputs=[image], data_format=["nchw"])
        if results is None:
            raise SystemExit("RKNN's simulator returned nothing")
        return dict(zip(output_names, results, strict=True))

    return run


def outputs_of(layer: str, graph: onnx.GraphProto) -> list[str]:
    """Outputs of a node, and of all nodes between it and the next layers.

    An activation, addition or concatenation in INT8 behind the layer would round its FP16 output.
    """
    written = [node.output[0] for node in graph.node if node.name == layer]
    if not written:
        raise SystemExit(f"fp16_layers: the file has no node {layer!r}")
    for node in graph.node:  # in execution order
        if node.op_type not in LAYERS and set(written).intersection(node.input):
            written.append(node.output[0])
    return written


def hybrid(rknn: RKNN, stem: str, tensors: dict[str, list[str]], dataset: Path) -> tuple[RKNN, list[str]]:
    """Quantize all but the tensors of some layers; also returns the layers that RKNN's fusions removed.

    Between its two steps, RKNN expects one of its files to be edited, which it writes to the working directory.
    """
    before = Path.cwd()
    os.chdir(dataset.parent)
    try:
        check(rknn.hybrid_quantization_step1(dataset=str(dataset), proposal=False), "hybrid_quantization_step1")
        file = Path(f"{stem}.quantization.cfg")
        text = file.read_text(encoding="utf-8")
        known = {layer: [key for name in names for key in in_yaml(name, text)] for layer, names in tensors.items()}
        left_out = [layer for layer, keys in known.items() if not keys]
        if len(left_out) == len(tensors):
            raise SystemExit(f"fp16_layers: RKNN has no tensor of {', '.join(tensors)} after its fusions")
        none_yet = "custom_quantize_layers: {}\n"
        if none_yet not in text:
            raise SystemExit(f"fp16_layers: {file} of this RKNN has no line {none_yet.strip()!r} to fill in")
        wanted = "".join(f"    {key}: float16\n" for key in dict.fromkeys(chain(*known.values())))
        file.write_text(text.replace(none_yet, f"custom_quantize_layers:\n{wanted}", 1), encoding="utf-8")
        second = RKNN(verbose=False)  # step 2 refuses an instance that has a model
        files = {"model_input": f"{stem}.model", "data_input": f"{stem}.data", "model_quantization_cfg": str(file)}
        check(second.hybrid_quantization_step2(**files), "hybrid_quantization_step2")
        return second, left_out
    finally:
        os.chdir(before)


def in_yaml(name: str, text: str) -> list[str]:
    """Keys in RKNN's file of a tensor and of the tensors that RKNN derived from it; none if it was fused away.

    A resize becomes ``<name>_conv``, and a large layer ``<name>_tile0_conv``; in INT8 they would round FP16 values.
    YAML quotes names that are numbers. Names such as ``_i1`` are constants, whose types follow.
    """
    return re.findall(
        rf"^    ('?{re.escape(name)}'?|{re.escape(name)}_(?:conv|split|tile)\w*(?<!_i\d)):$", text, re.MULTILINE
    )


def check(code: int, call: str) -> None:
    """Exit if a call failed; RKNN prints the reason itself."""
    if code != 0:
        raise SystemExit(f"rknn.{call} failed with code {code}; see its output above")


if __name__ == "__main__":
    main("rknn", version("rknn-toolkit2"), load, OPTIONS, simulator=True, about=__doc__)
