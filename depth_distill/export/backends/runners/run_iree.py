"""Compile an ONNX file with IREE for this machine's CPU and run it.

    python run_iree.py --model model.int8.onnx --inputs inputs.npy --outputs outputs.npz --report report.json

It takes QDQ pairs literally, without fusing them, so it checks what the file says rather than how fast it runs. It
does not quantize. Install with ``pip install -r requirements-iree.txt``.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import iree.compiler.tools
import iree.runtime
import numpy as np
import onnx
from iree.compiler.tools.import_onnx import __main__ as import_onnx

TOOL = "iree"
VERSION = version("iree-base-compiler")
SIMULATOR = False
OPTIONS = {"save": "file for the compiled model, .vmfb"}

Arrays = dict[str, np.ndarray]
Run = Callable[[np.ndarray], Arrays]


def load(model: Path, calibration: Path | None, options: dict[str, str], notes: list[str]) -> Run:
    """Make the model ready to run; what it returns takes one input of batch 1."""
    if calibration is not None:
        raise SystemExit("IREE does not quantize")
    compiled = translate(model)
    if "save" in options:
        Path(options["save"]).write_bytes(compiled)
    graph = onnx.load(model, load_external_data=False).graph
    config = iree.runtime.Config("local-sync")  # one thread
    module = iree.runtime.VmModule.copy_buffer(config.vm_instance, compiled)
    context = iree.runtime.SystemContext(config=config)
    context.add_vm_module(module)
    entry = context.modules[module.name][graph.name]
    names = [each.name for each in graph.output]

    def run(image: np.ndarray) -> Arrays:
        found = entry(image)
        results = found if isinstance(found, tuple | list) else (found,)
        return {name: result.to_host() for name, result in zip(names, results, strict=True)}

    return run


def translate(model: Path) -> bytes:
    """ONNX to MLIR to machine code."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "model.mlir")
        import_onnx.main(import_onnx.parse_arguments([str(model), "-o", str(source)]))
        return iree.compiler.tools.compile_file(
            str(source), target_backends=["llvm-cpu"], input_type="onnx", extra_args=["--iree-llvmcpu-target-cpu=host"]
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
