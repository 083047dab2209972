"""Shared by all runners: command line, calibration tensors, time, memory and report. It needs NumPy only.

Every runner is a script that runs in the environment of its toolkit and returns one file: a float ONNX file with other
weights, which then goes through the same PTQ as everybody's, or a quantized one, which is scored as it is.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FLOAT, QUANTIZED, OUTPUTS = "float", "quantized", "outputs"
"""Kinds of result: ``float.onnx``, ``quantized.onnx``, or ``outputs.npy`` where a toolkit writes no ONNX file."""

Quantize = Callable[["Job"], str]
"""Writes a result of one of these kinds, and returns the kind."""


class Job:
    """What to quantize, and where to.

    Attributes:
        model: float ONNX file with a batch of 1.
        calibration: folder of the calibration tensors.
        target: NPU profile; toolkits quantize for ``per-tensor-minmax``.
        method: one of the toolkit's methods.
        out: folder for the result.
        images: calibration tensors, ``(1, 3, H, W)`` each.
        inputs: what to run where the toolkit writes no ONNX file, ``(N, 3, H, W)``.
        notes: settings that had to be made, for the report.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.model: Path = options.model
        self.calibration: Path = options.calibration
        self.target: str = options.target
        self.method: str = options.method
        self.out: Path = options.out
        listed = (self.calibration / "tensors.txt").read_text(encoding="utf-8").split()
        self.images = [np.load(self.calibration / each, allow_pickle=False) for each in listed]
        self.inputs = np.load(options.inputs, allow_pickle=False)
        self.notes: list[str] = []

    def feeds(self, name: str = "image") -> list[dict[str, np.ndarray]]:
        """The calibration tensors by name of the input."""
        return [{name: image} for image in self.images]

    def save(self, model: Any, kind: str) -> str:
        """Write an ONNX model as the result; returns the kind."""
        import onnx

        onnx.save(getattr(model, "model", model), self.out / f"{kind}.onnx")
        return kind


class Reader:
    """A data reader as ONNX Runtime and its relatives take it."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self.all = feeds
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next tensor by name of the input; None at the end."""
        return next(self.left, None)

    def rewind(self) -> None:
        """Start again."""
        self.left: Iterator[dict[str, np.ndarray]] = iter(self.all)

    def __len__(self) -> int:
        return len(self.all)


def main(version: str, methods: Mapping[str, Quantize]) -> None:
    """Run one method, and write ``report.json`` with its time, without imports, and the peak of the memory."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="folder with tensors.txt")
    parser.add_argument("--inputs", type=Path, required=True, help=".npy file")
    parser.add_argument("--method", choices=list(methods), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", default="per-tensor-minmax")
    options = parser.parse_args()
    job = Job(options)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    kind = methods[options.method](job)
    report = {
        "kind": kind,
        "version": version,
        "cpu_seconds": _cpu_seconds() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # Linux counts in KiB
        "notes": job.notes,
    }
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _cpu_seconds() -> float:
    """Of this process and its children: on a shared machine it means more than a clock."""
    used = [resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
