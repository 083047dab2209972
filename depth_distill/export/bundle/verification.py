"""Run every file of a bundle on every tool chain, and score all with the same metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator, InterfaceScorer
from depth_distill.export.backends.backends import Backend, BackendRun, find_backend
from depth_distill.export.backends.latency import latencies
from depth_distill.export.backends.operator_counts import count_operators
from depth_distill.export.bundle.artifacts import write_at_oldest
from depth_distill.export.bundle.before_after import UNTOUCHED, BeforeAfter
from depth_distill.export.bundle.bundle import INTEGER_KINDS
from depth_distill.export.bundle.decode_table import DecodeTable
from depth_distill.export.bundle.report import RuntimeRow, TableScore
from depth_distill.export.bundle.steps import StepRunner, tensor_hash
from depth_distill.export.compare.drift import layer_drift
from depth_distill.export.onnx_io.file_spec import OPSET, FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.metric_onnx import METRES
from depth_distill.hashes import sha256
from depth_distill.models import DepthCodec
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.preparation import Prepared

_KIND_OF_METRIC = {"metric": "float", "metric_int8": "int8"}
_LAYER_IMAGES = 8  # enough for means over thousands of values per layer


@dataclass(frozen=True)
class Trial:
    """One file on one tool chain.

    Attributes:
        artifact: ``float``, ``int8``, ``fp16``, ``mixed``, ``metric`` or ``metric_int8``; or ``untouched``, the float
            file of the network as it came, which is not in the bundle.
        backend: the tool chain.
        quantize: the tool chain quantizes the float file itself, as an NPU vendor's PTQ does.
        high_precision_layers: layers that it keeps in FP16 in that case.
    """

    artifact: str
    backend: Backend
    quantize: bool = False
    high_precision_layers: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Title of the trial's step."""
        return f"{self.artifact} on {self.backend.name}" + ", its own PTQ" * self.quantize + self._mix

    @property
    def runtime(self) -> str:
        """Runtime column of the trial's row."""
        return self.backend.title + " PTQ" * self.quantize + self._mix

    @property
    def returns_integers(self) -> bool:
        """Whether the codes are those of integer arithmetic, which a decode table is for."""
        return self.quantize or self.artifact in INTEGER_KINDS

    @property
    def options(self) -> dict[str, str]:
        """Options of the backend's runner."""
        return {"fp16_layers": ",".join(self.high_precision_layers)} if self.high_precision_layers else {}

    @property
    def _mix(self) -> str:
        count = len(self.high_precision_layers)
        return f", {count} layer{'s' * (count != 1)} in FP16" if count else ""


def trials(
    artifacts: Sequence[str],
    backends: Sequence[Backend],
    high_precision_layers: tuple[str, ...] = (),
    table_backend: str | None = None,
) -> tuple[Trial, ...]:
    """Every file on every backend that takes it, and the float file on every backend with its own PTQ.

    Args:
        artifacts: kinds of files.
        backends: tool chains.
        high_precision_layers: layers to keep in FP16; backends whose own PTQ supports this get one more trial.
        table_backend: name of the tool chain that the decode table inside of ``metric_int8`` was fitted on, if any.
    """
    found = []
    for artifact in artifacts:
        for backend in backends:
            kind = _KIND_OF_METRIC.get(artifact, artifact)
            # Decoding to metres needs exponentials and rounding that NPUs lack: these files are for hosts.
            on_host = not (artifact in _KIND_OF_METRIC and backend.simulator)
            if kind in backend.takes and on_host and (artifact != "metric_int8" or backend.name == table_backend):
                found.append(Trial(artifact, backend))
            if artifact == "float" and backend.quantizes:
                found.append(Trial(artifact, backend, quantize=True))
                if backend.mixes and high_precision_layers:
                    found.append(Trial(artifact, backend, True, high_precision_layers))
    return tuple(found)


class Verifier:
    """Runs trials on the images of an evaluator.

    Args:
        evaluator: labelled images; its reference is the float network, from which depth drift is measured.
        interface: input and outputs of the files.
        calibration: folder of calibration tensors.
        float_metrics: metrics of the float network.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        interface: Interface,
        calibration: Path,
        float_metrics: Mapping[str, float],
    ) -> None:
        self.evaluator = evaluator
        self.interface = interface
        self.calibration = calibration
        self.float_metrics = float_metrics
        self.images = interface.inputs.prepare(torch.cat([each.cpu() for each in evaluator.images])).numpy()
        self._references: dict[str, NDArray[np.float32]] = {}

    def run(self, trial: Trial, files: Mapping[str, Path]) -> dict[str, Any]:
        """A :class:`~depth_distill.export.bundle.report.RuntimeRow` as plain data.

        If the tool chain refuses the file, the row has the reason and no numbers.
        """
        try:
            calibration = self.calibration if trial.quantize else None
            ran = trial.backend.run(files[trial.artifact], self.images, calibration, trial.options)
        except ConfigError as error:
            row = RuntimeRow(trial.artifact, trial.runtime, error=str(error), simulator=trial.backend.simulator)
            return asdict(row)
        return asdict(self._row(trial, ran, files))

    def _row(self, trial: Trial, ran: BackendRun, files: Mapping[str, Path]) -> RuntimeRow:
        behind_table = None
        if trial.artifact in _KIND_OF_METRIC:
            drift, score = None, self.evaluator.of_depth(torch.from_numpy(ran.outputs[METRES]))
        else:
            codes = self._codes(ran)
            drift = float(np.abs(codes.numpy() - self._reference(trial, files)).mean())
            score = self.evaluator.of_codes(codes)
            if self.interface.table is not None and trial.returns_integers:
                behind = self.evaluator.with_codec(DepthCodec(self.interface.table)).of_codes(codes)
                behind_table = TableScore.of(behind, self.float_metrics)
        return RuntimeRow(
            trial.artifact,
            trial.runtime,
            version=ran.version,
            abs_rel=score["abs_rel"],
            ratio=score["abs_rel"] / self.float_metrics["abs_rel"],
            drift_codes=drift,
            drift_mm=score["drift_mm"],
            drift_rel=score["drift_rel"],
            with_table=behind_table,
            milliseconds=ran.milliseconds,
            simulator=ran.simulator,
            notes=ran.notes,
        )

    def _codes(self, ran: BackendRun) -> Tensor:
        return self.interface.outputs.codes({name: torch.from_numpy(each) for name, each in ran.outputs.items()})

    def _reference(self, trial: Trial, files: Mapping[str, Path]) -> NDArray[np.float32]:
        """Codes of the same file on ONNX Runtime without optimization."""
        if trial.artifact not in self._references:
            ran = find_backend("onnxruntime").run(
                files[trial.artifact], self.images, options={"optimize": "0"}, repeats=0
            )
            self._references[trial.artifact] = self._codes(ran).numpy()
        return self._references[trial.artifact]


def verify(
    backends: Sequence[Backend],
    evaluator: Evaluator,
    scored: BeforeAfter,
    prepared: Prepared,
    folder: Path,
    written: Mapping[str, str],
    high_precision_layers: tuple[str, ...],
    steps: StepRunner,
    table: DecodeTable | None = None,
) -> dict[str, Any]:
    """Score every file on every backend, and the untouched network on those that quantize it themselves.

    Args:
        backends: tool chains.
        evaluator: the validation split; its reference is the trained network.
        scored: the scores of the float network and of its fake-quantized graph.
        prepared: the networks that the files were written from, with the decode table, if any, in their interface.
        folder: folder of the files.
        written: names of the files by kind.
        high_precision_layers: layers in FP16, if any.
        steps: runs each trial as one resumable step.
        table: what is known about the decode table.

    Returns:
        JSON: ``protocol``, ``images``, metrics of ``float`` and ``fake_quantized``, ``rows`` and ``untouched`` (see
        :class:`~depth_distill.export.bundle.report.RuntimeRow`), ``latency_ms`` on ONNX Runtime by file,
        ``operator_counts`` by file, and ``layers`` (see :class:`~depth_distill.export.compare.drift.LayerDrift`).
    """
    files = {kind: folder / name for kind, name in written.items()}
    hashes = {kind: sha256(path) for kind, path in files.items()}
    state = [prepared.fingerprint, prepared.scales, split_hash(evaluator)]
    scorer = InterfaceScorer(evaluator, prepared.interface)
    floats = dict(scored.floats)
    verifier = Verifier(scorer.evaluator, prepared.interface, folder / "calibration", floats)
    rows = []
    tables = None if prepared.interface.table is None else prepared.interface.table.tables
    for trial in trials(tuple(written), backends, high_precision_layers, None if table is None else table.backend):
        depends_on = [state, hashes[trial.artifact], trial.backend.name, trial.quantize, trial.high_precision_layers]
        depends_on += [tables] if trial.returns_integers else []
        rows.append(steps.run(f"run {trial.title}", depends_on, partial(verifier.run, trial, files)))
    untouched = _verify_untouched(backends, evaluator, scored, prepared, folder, steps)
    timed = {kind: path for kind, path in files.items() if kind not in _KIND_OF_METRIC}
    milliseconds = steps.run(
        "time files on ONNX Runtime",
        hashes,
        lambda: latencies(timed, verifier.images[:1]),
    )
    counts = steps.run(
        "count operators",
        hashes,
        lambda: {kind: count_operators(path).to_dict() for kind, path in timed.items()},
    )
    layers = steps.run(
        "compare layer by layer",
        [hashes["float"], hashes["int8"], state],
        lambda: [
            each.to_dict() for each in layer_drift(files["float"], files["int8"], verifier.images[:_LAYER_IMAGES])
        ],
    )
    return {
        "protocol": evaluator.protocol,
        "images": len(verifier.images),
        "float": floats,
        "fake_quantized": dict(scored.after.metrics),
        "rows": _with_latency_ratios(rows),
        "untouched": untouched,
        "latency_ms": milliseconds,
        "operator_counts": counts,
        "layers": layers,
    }


def _verify_untouched(
    backends: Sequence[Backend],
    evaluator: Evaluator,
    scored: BeforeAfter,
    prepared: Prepared,
    folder: Path,
    steps: StepRunner,
) -> list[dict[str, Any]]:
    """Rows of the network as it came, quantized by the tool chains; none where that is what is exported."""
    network = scored.untouched
    able = [each for each in backends if each.quantizes]
    if network is None or network.recipe == prepared.recipe or not able:
        return []
    path, spec = steps.folder / f"{UNTOUCHED}.onnx", FileSpec.of(network.interface, OPSET)
    steps.run(
        "write the untouched network",
        network.fingerprint,
        lambda: write_at_oldest(lambda file, form: export_float(network.graph, file, form), path, spec, OPSET),
        [path.name],
    )
    scorer = InterfaceScorer(evaluator, network.interface)
    verifier = Verifier(scorer.evaluator, network.interface, folder / "calibration", scored.floats)
    rows = []
    for backend in able:
        trial = Trial(UNTOUCHED, backend, quantize=True)
        depends_on = [network.fingerprint, split_hash(evaluator), sha256(path), backend.name]
        rows.append(steps.run(f"run {trial.title}", depends_on, partial(verifier.run, trial, {UNTOUCHED: path})))
    return rows


def split_hash(evaluator: Evaluator) -> list[str]:
    """Hashes of everything that scores on a split depend on: images, ground truth and protocol."""
    batches = evaluator.batches
    return [
        tensor_hash(torch.cat([batch.image for batch in batches])),
        tensor_hash(torch.cat([batch.depth_m * batch.valid for batch in batches])),
        evaluator.protocol,
    ]


def _with_latency_ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the latency of each relative to the float file on the same runtime."""
    floats = {
        (row["runtime"], row["version"]): row["milliseconds"]
        for row in rows
        if row["artifact"] == "float" and row["milliseconds"]
    }
    return [
        {
            **row,
            "latency_ratio": row["milliseconds"] / base
            if row["milliseconds"] and (base := floats.get((row["runtime"].partition(" PTQ")[0], row["version"])))
            else None,
        }
        for row in rows
    ]
