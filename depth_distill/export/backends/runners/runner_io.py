"""Shared by all runners: command line, inputs and outputs, latency and report.

It is in the same folder as the runners, so that they can import it wherever the folder is copied, and needs NumPy only.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
"""Outputs by name."""
Run = Callable[[np.ndarray], Arrays]
"""Runs a loaded model on one input of batch 1."""
Load = Callable[[Path, Path | None, dict[str, str], list[str]], Run]
"""Loads a model, given its file, the folder of calibration tensors to quantize it with, options, and a list to which
notes for the report are appended."""


def calibration_files(folder: Path) -> list[Path]:
    """The files listed in ``tensors.txt``."""
    return [folder / line for line in (folder / "tensors.txt").read_text(encoding="utf-8").splitlines() if line]


def main(
    tool: str, version: str, load: Load, options: Mapping[str, str], simulator: bool = False, about: str | None = None
) -> None:
    """Run every input once for its outputs, then ``--repeats`` times for the latency.

    Args:
        tool: name of the tool chain.
        version: version of the tool chain.
        load: loads the model.
        options: description of each ``--option`` by name.
        simulator: whether the tool chain simulates a chip; its latency is meaningless then and not measured.
        about: text of ``--help``.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="ONNX file with one input and a batch of 1")
    parser.add_argument("--inputs", type=Path, required=True, help=".npy file with N inputs")
    parser.add_argument(
        "--outputs", type=Path, required=True, help=".npz file to write: each output for all N inputs, float32"
    )
    parser.add_argument("--report", type=Path, required=True, help=".json file to write: version, latency, notes")
    parser.add_argument(
        "--calibration",
        type=Path,
        help="quantize the float model with the tensors in this folder, listed in its tensors.txt",
    )
    listed = "; ".join(f"{name}: {meaning}" for name, meaning in options.items())
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help=listed or "there are none")
    parser.add_argument("--repeats", type=int, default=20, help="number of timed runs; 0 for none")
    arguments = parser.parse_args()
    chosen = dict(each.partition("=")[::2] for each in arguments.option)
    unknown = sorted(set(chosen) - set(options))
    if unknown:
        parser.error(f"unknown option {unknown[0]!r}, expected one of {sorted(options)}")

    inputs = np.load(arguments.inputs, allow_pickle=False)
    notes: list[str] = []
    start = time.perf_counter()
    run = load(arguments.model, arguments.calibration, chosen, notes)
    load_seconds = time.perf_counter() - start
    images = [inputs[index : index + 1] for index in range(len(inputs))]
    results = [run(image) for image in images]
    outputs = {name: np.concatenate([each[name] for each in results]).astype(np.float32) for name in results[0]}
    np.savez(arguments.outputs, **outputs)

    milliseconds = []
    for index in range(0 if simulator else arguments.repeats):
        start = time.perf_counter()
        run(images[index % len(images)])
        milliseconds.append(1000 * (time.perf_counter() - start))
    report = {
        "tool": tool,
        "version": version,
        "milliseconds": statistics.median(milliseconds) if milliseconds else None,
        "load_seconds": load_seconds,
        "simulator": simulator,
        "notes": notes,
    }
    arguments.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
