"""Tool chains of NPU vendors as backends: each has a runner, a script that runs in an environment of its own.

The pins of the tool chains clash with each other and with PyTorch's, so each lives in ``.backends/<environment>/`` of
the working directory, or where ``DEPTH_DISTILL_BACKENDS`` points; ``make backends`` builds them. What runs there is
the runner that an export bundle carries, so what was verified is what the user gets.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depth_distill.errors import ConfigError
from depth_distill.suggestions import did_you_mean

RUNNERS = Path(__file__).parent / "runners"
_ENVIRONMENTS = "DEPTH_DISTILL_BACKENDS"
_TAIL_LINES = 12  # of stderr, in an error: the reason comes last


@dataclass(frozen=True)
class BackendRun:
    """What a tool chain made of a model.

    Attributes:
        outputs: by ONNX output name, float32; the inputs' outputs one behind the other, ``(N, C, H, W)`` for maps.
        milliseconds: median latency of one input; None for simulators, where it means nothing.
        load_seconds: to convert, quantize and load the model.
        version: of the tool chain.
        simulator: it stands in for a chip.
        notes: what the runner had to set, and what it could not.
    """

    outputs: dict[str, np.ndarray]
    milliseconds: float | None
    load_seconds: float
    version: str
    simulator: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Backend:
    """A tool chain.

    Attributes:
        name: as on the command line.
        title: as in reports.
        package: the Python package that its environment must have.
        environment: folder of its environment; None is this Python's own.
        takes: kinds of model: ``float``, ``int8`` (QDQ), ``fp16``, ``mixed`` (FP16 layers in a QDQ file).
        quantizes: it has post-training quantization of its own, for a float model and calibration tensors.
        simulator: it stands in for a chip, so that its latency means nothing.
        mixes: its own quantization leaves the layers that its runner's option ``fp16_layers`` names in FP16.
    """

    name: str
    title: str
    package: str
    environment: str | None
    takes: frozenset[str]
    quantizes: bool = False
    simulator: bool = False
    mixes: bool = False

    @property
    def runner(self) -> Path:
        """The script that runs in the environment."""
        return RUNNERS / f"run_{self.name}.py"

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return Path(sys.executable) if self.environment is None else _environments() / self.environment / "bin/python"

    def missing(self) -> str | None:
        """Why it cannot run here, and the cure; None where it can."""
        if self.environment is None:
            if importlib.util.find_spec(self.package) is None:
                return f"{self.package} is not installed: pip install 'depth-distill[export]'"
            return None
        folder = _environments() / self.environment
        if any(folder.glob(f"lib/python*/site-packages/{self.package}")) and self.python.exists():
            return None
        return f"{self.title} is not in {folder}: run `make backends`, or set {_ENVIRONMENTS} to where it was built"

    def run(
        self,
        model: Path,
        inputs: np.ndarray,
        calibration: Path | None = None,
        options: Mapping[str, str] | None = None,
        repeats: int = 20,
    ) -> BackendRun:
        """Run a model with one input and a batch of 1.

        Args:
            model: ONNX file.
            inputs: ``(N, ...)`` of the model's input dtype, one behind the other.
            calibration: folder with ``tensors.txt``, which lists .npy files of one input each: the tool chain
                quantizes the float model on them itself, min/max, one scale per tensor.
            options: of the runner; its ``--help`` lists them.
            repeats: timed runs behind the first; 0 for none.

        Raises:
            ConfigError: the tool chain is missing, cannot quantize, or refuses the model; with its own reason.
        """
        reason = self.missing()
        if reason is not None:
            raise ConfigError(reason)
        if calibration is not None and not self.quantizes:
            able = ", ".join(each.name for each in BACKENDS.values() if each.quantizes)
            raise ConfigError(f"backend {self.name} has no quantization of its own; {able} have")
        if not model.is_file():
            raise ConfigError(f"{model} does not exist")
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-") as name:
            folder = Path(name)
            np.save(folder / "inputs.npy", inputs, allow_pickle=False)
            command = [
                str(self.python.absolute()),
                *([] if self.environment is None else ["-E"]),  # PYTHONPATH would mix two environments
                *(str(self.runner), "--model", str(model.absolute()), "--repeats", str(repeats)),
                *("--inputs", "inputs.npy", "--outputs", "outputs.npz", "--report", "report.json"),
                *([] if calibration is None else ["--calibration", str(calibration.absolute())]),
            ]
            for key, value in (options or {}).items():
                command += ["--option", f"{key}={value}"]
            # In a folder of its own, as some tool chains leave files where they run. Ctrl-C kills the child.
            finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
            if finished.returncode != 0:
                tail = "\n".join(finished.stderr.strip().splitlines()[-_TAIL_LINES:])
                raise ConfigError(
                    f"backend {self.name} failed on {model} (exit code {finished.returncode}). Its last words:\n{tail}"
                )
            with np.load(folder / "outputs.npz", allow_pickle=False) as arrays:
                outputs = dict(arrays)
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return BackendRun(
            outputs,
            report["milliseconds"],
            report["load_seconds"],
            report["version"],
            report["simulator"],
            tuple(report["notes"]),
        )


_EVERY_KIND = frozenset({"float", "int8", "fp16", "mixed"})

# A new one is a line here, runners/run_<name>.py and, for an environment of its own, runners/requirements-<name>.txt.
BACKENDS: Mapping[str, Backend] = {
    each.name: each
    for each in (
        Backend("onnxruntime", "ONNX Runtime", "onnxruntime", None, _EVERY_KIND, quantizes=True),
        Backend("openvino", "OpenVINO", "openvino", "openvino", _EVERY_KIND),
        Backend("nncf", "NNCF on OpenVINO", "nncf", "openvino", frozenset(), quantizes=True),
        Backend("qnn", "Qualcomm QNN", "onnxruntime_qnn", "qnn", _EVERY_KIND, quantizes=True, simulator=True),
        Backend("rknn", "Rockchip RKNN", "rknn", "rknn", _EVERY_KIND - {"fp16"}, True, True, mixes=True),
        Backend("iree", "IREE", "iree", "iree", _EVERY_KIND),
    )
}


def find_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        ConfigError: there is none; with the nearest name.
    """
    if name not in BACKENDS:
        raise ConfigError(f"there is no backend {name!r}; {did_you_mean(name, BACKENDS)}")
    return BACKENDS[name]


def _environments() -> Path:
    return Path(os.environ.get(_ENVIRONMENTS, ".backends"))
