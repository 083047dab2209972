"""Tool chains of NPU vendors as backends: each has a runner, a script that runs in its own environment.

The pinned dependencies of the tool chains conflict with each other and with PyTorch's, so each is installed in
``.backends/<environment>/`` of the working directory, or of ``DEPTH_DISTILL_BACKENDS``; ``make backends`` builds them.
An export bundle contains the same runners, so users run what was verified.
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
_TAIL_LINES = 12  # last lines of stderr to quote in an error: the reason comes last


@dataclass(frozen=True)
class BackendRun:
    """Result of running a model on a tool chain.

    Attributes:
        outputs: outputs for all inputs by ONNX output name, float32, ``(N, C, H, W)`` for maps.
        milliseconds: median latency per input; None for simulators, whose latency is meaningless.
        load_seconds: time to convert, quantize and load the model.
        version: version of the tool chain.
        simulator: whether the tool chain simulates a chip.
        notes: settings that the runner had to make, and those that it could not.
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
        name: name on the command line.
        title: name in reports.
        package: Python package that its environment must have.
        environment: folder of its environment; None for that of this Python.
        takes: supported kinds of model: ``float``, ``int8`` (QDQ), ``fp16``, ``mixed`` (FP16 layers in a QDQ file).
        quantizes: whether it has its own post-training quantization, of a float model with calibration tensors.
        simulator: whether it simulates a chip, so that its latency is meaningless.
        mixes: whether its own quantization can leave layers in FP16, with the runner's option ``fp16_layers``.
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
        """Why the tool chain cannot run here, and the remedy; None if it can."""
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
            inputs: all inputs, ``(N, ...)`` in the model's input dtype.
            calibration: folder with ``tensors.txt``, which lists .npy files of one input each. If given, the tool chain
                quantizes the float model with them by itself: min/max, one scale per tensor.
            options: options of the runner; its ``--help`` lists them.
            repeats: number of timed runs after the first; 0 for none.

        Raises:
            ConfigError: the tool chain is missing, cannot quantize, refuses the model, or
                returns NaN or infinity; the message has its reason.
        """
        reason = self.missing()
        if reason is not None:
            raise ConfigError(reason)
        if calibration is not None and not self.quantizes:
            able = ", ".join(each.name for each in BACKENDS.values() if each.quantizes)
            raise ConfigError(f"backend {self.name} has no quantization of its own; these have: {able}")
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
            # In a temporary folder: some tool chains write to their working directory. Ctrl-C kills the child.
            finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
            if finished.returncode != 0:
                tail = "\n".join(finished.stderr.strip().splitlines()[-_TAIL_LINES:])
                raise ConfigError(
                    f"backend {self.name} failed on {model} (exit code {finished.returncode}). Its last output:\n{tail}"
                )
            with np.load(folder / "outputs.npz", allow_pickle=False) as arrays:
                outputs = dict(arrays)
            for name, values in outputs.items():
                wrong = values.size - int(np.isfinite(values).sum())
                if wrong:
                    raise ConfigError(
                        f"backend {self.name} returned NaN or infinity for {model}: {wrong} of {values.size} values of "
                        f"{name!r}"
                    )
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

# A new backend is a line here, runners/run_<name>.py and, for its own environment, runners/requirements-<name>.txt.
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
        ConfigError: there is no such backend; the message has the nearest name.
    """
    if name not in BACKENDS:
        raise ConfigError(f"there is no backend {name!r}; {did_you_mean(name, BACKENDS)}")
    return BACKENDS[name]


def _environments() -> Path:
    return Path(os.environ.get(_ENVIRONMENTS, ".backends"))
