"""Compile an ONNX file with IREE for this machine's CPU and run it.

    python run_iree.py --model model.int8.onnx --inputs inputs.npy --outputs outputs.npz --report report.json

It computes QDQ pairs as written, without fusing them, so it verifies the file but its latency is not representative.
It does not quantize. Install with ``pip install -r requirements-iree.txt``.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path

import iree.compiler.tools
import iree.runtime
import numpy as np
import onnx
from iree.compiler.tools.import_onnx import __main__ as import_onnx
from runner_io import Arrays, Run, main

OPTIONS = {"save": "file for the compiled model, .vmfb"}


def load(model: Path, calibration: Path | None, options: dict[str, str], notes: list[str]) -> Run:
    """Load the model; returns a function that runs it on one input of batch 1."""
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
    """Translate ONNX to MLIR and compile it to machine code."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "model.mlir")
        import_onnx.main(import_onnx.parse_arguments([str(model), "-o", str(source)]))
        return iree.compiler.tools.compile_file(
            str(source), target_backends=["llvm-cpu"], input_type="onnx", extra_args=["--iree-llvmcpu-target-cpu=host"]
        )


if __name__ == "__main__":
    main("iree", version("iree-base-compiler"), load, OPTIONS, about=__doc__)
