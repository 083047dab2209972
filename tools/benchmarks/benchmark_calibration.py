r"""Peak memory of calibration by this package and by ONNX Runtime's MinMax calibrator, on few and on many images.

    python tools/benchmarks/benchmark_calibration.py --checkpoint runs/.../last.ckpt \
        --images 50 760 --out benchmarks/calibration

Every measurement runs in its own process, which streams images from disk, so that peaks are separate. Start-up (the
same process without calibration) is measured as well. Writes ``benchmark_calibration.json``. Options that are not
listed override the config of the run.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from depth_distill.atomic import write_json
from depth_distill.display.console import plain_console
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.vendor_ptq import vendor_ptq
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.loading.trained import load_run
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.simulate.calibrate import calibrate
from depth_distill.quantization.simulate.fake_quantize import fake_quantize
from depth_distill.quantization.target.target import load_target

TOOLS = ("start-up", "depth-distill", "onnxruntime")


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a .ckpt of a run")
    parser.add_argument("--images", type=int, nargs="+", default=[50, 760])
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    parser.add_argument("--worker", choices=TOOLS, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args(args)
    if options.worker:
        return exit_code(lambda: _measure(options, overrides))

    table = Table(title="Peak resident memory of a process that calibrates [MB]")
    table.add_column("")
    for images in options.images:
        table.add_column(f"{images} images", justify="right")
        table.add_column("s", justify="right")
    found: dict[str, dict[int, dict[str, float]]] = {}
    for tool in TOOLS:
        found[tool] = {}
        for images in options.images:
            argv = ["--checkpoint", str(options.checkpoint), "--images", str(images), "--worker", tool, *overrides]
            done = subprocess.run([sys.executable, __file__, *argv], capture_output=True, text=True)
            if done.returncode:
                plain_console(stderr=True).print(done.stderr, markup=False)
                return done.returncode
            found[tool][images] = json.loads(done.stdout.splitlines()[-1])
        cells = [(f"{each['peak_mb']:.0f}", f"{each['seconds']:.1f}") for each in found[tool].values()]
        table.add_row(tool, *(cell for pair in cells for cell in pair))
    plain_console().print(table)
    if options.out is not None:
        write_json(options.out / "benchmark_calibration.json", found)
    return 0


def _measure(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Work of one process; prints its seconds and peak memory as JSON."""
    (images,) = options.images
    trained = load_run(options.checkpoint, overrides=[*overrides, "--data.num_workers=0"])
    trained.data.calibration_size = images
    batches = (batch.image for batch in trained.data.calibration_dataloader())
    graph_module = fold(trace(trained.network))
    started = time.perf_counter()
    if options.worker == "depth-distill":
        calibrate(fake_quantize(graph_module, load_target("per-tensor-minmax")), batches, progress=False)
    elif options.worker == "onnxruntime":
        with tempfile.TemporaryDirectory() as folder:
            example = next(iter(trained.data.val_dataloader())).image[:1]
            file = export_float(graph_module, Path(folder) / "float.onnx", FileSpec.like(example))
            started = time.perf_counter()
            vendor_ptq(file, batches, Path(folder) / "vendor.onnx")
    seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}))


if __name__ == "__main__":
    sys.exit(main())
