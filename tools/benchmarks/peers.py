r"""Toolkits side by side on the hard set: the same float file, the same images, one scorer.

    python tools/benchmarks/hard_set.py --data KITCHEN --out benchmarks/hard_set --packages PACKAGES
    python tools/benchmarks/peers.py --install quark    # an environment of its own, .peers/quark
    python tools/benchmarks/peers.py --set benchmarks/hard_set --out benchmarks/peers

A toolkit that returns a float file with other weights (equalization, bias correction) is measured by what a vendor's
PTQ makes of that file: ONNX Runtime's quantizer, min/max, one scale per tensor. One that returns a quantized network
is scored as it is. Whether weights have one scale per tensor is read from the quantized file, not believed. What fails
is a row with its error.

Deviation from FP32 (mm) and abs_rel are those of ``evaluation.Evaluator``, SQNR is that of ``depth-distill harden``.
Time is that of the processor in one process with one thread, without imports. ``OUT/peers.json`` is written after every
row, and rows in it are not measured again; ``OUT/peers.md`` has the tables.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from depth_distill.atomic import atomic_path, write_json
from depth_distill.codecs import codec_of
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.backends.vendor_ptq import inexpressible, vendor_ptq
from depth_distill.export.interface.calibration_set import read_calibration_set
from depth_distill.loading.onnx_importer import import_onnx
from depth_distill.models import DepthCodec
from depth_distill.quantization.analysis.deviation import DeviationScorer
from depth_distill.quantization.interface import Interface
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import NAIVE
from depth_distill.quantization.target.target import load_target
from depth_distill.suggestions import did_you_mean
from depth_distill.types import DepthBatch

sys.path.append(str(Path(__file__).parent))

from peers_table import PER_CHANNEL, UNTOUCHED, Row, tables

RUNNERS = Path(__file__).parent / "peer_runners"
_ENVIRONMENTS = "DEPTH_DISTILL_PEERS"
_TAIL = 200  # letters of an error
_ONE_THREAD = {f"{each}_NUM_THREADS": "1" for each in ("OMP", "MKL", "OPENBLAS")}

Codes = Callable[[Tensor], Tensor]
"""Images ``(B, 3, H, W)`` to codes."""


@dataclass(frozen=True)
class Peer:
    """A toolkit.

    Attributes:
        name: name of its environment and of its runner.
        title: name in tables.
        methods: methods of its runner.
        environment: whether it has an environment of its own.
    """

    name: str
    title: str
    methods: Sequence[str]
    environment: bool = True

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        folder = Path(os.environ.get(_ENVIRONMENTS, ".peers")) / self.name
        return folder.absolute() / "bin/python" if self.environment else Path(sys.executable)

    @property
    def requirements(self) -> Path:
        """What its environment is made of."""
        return RUNNERS / f"requirements-{self.name}.txt"


# From the cheapest, so that a run that is stopped early has something of everybody.
PEERS: Sequence[Peer] = (
    Peer("ours", "depth-distill", ("equalize", "best", "auto"), environment=False),
    Peer("onnxruntime", "ONNX Runtime", ("preprocess",), environment=False),
    Peer("aimet", "AIMET", ("cle",)),
    Peer("nncf", "NNCF", ("min_max", "fast_bias_correction", "smooth_quant")),
    Peer("quark", "Quark", ("cle", "cle_relu6_as_relu", "cle_bias_correction")),
    Peer("brevitas", "Brevitas", ("equalize",)),
    Peer("esp_ppq", "ESP-PPQ", ("min_max", "equalization", "equalization_bias_correction")),
    Peer("modelopt", "ModelOpt", ("max",)),
    Peer("mct", "MCT", ("ptq",)),
    Peer("ours", "depth-distill", ("robust", "blocks"), environment=False),
    Peer("aimet", "AIMET", ("seq_mse", "adaround")),
    Peer("quark", "Quark", ("adaround", "adaquant")),
    Peer("nncf", "NNCF", ("bias_correction",)),
)


class HardFile:
    """A network of the hard set, and the one scorer.

    Args:
        folder: folder of the network, written by ``hard_set.py``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "float.onnx"
        self.metadata: dict[str, Any] = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        self.target = load_target(self.metadata["target"])
        self.calibration = list(torch.from_numpy(read_calibration_set(folder / "calibration")).split(1))
        with np.load(folder / "held_out.npz", allow_pickle=False) as held_out:
            image, depth_m, valid = (torch.from_numpy(held_out[name]) for name in ("image", "depth_m", "valid"))
        self.images = image
        batches = [
            DepthBatch(*(each[i : i + 8] for each in (image, depth_m, valid, torch.arange(len(image)))))
            for i in range(0, len(image), 8)
        ]
        self.reference = reference = OnnxNetwork(self.file, threads=1)
        self.evaluator = Evaluator(batches, DepthCodec(codec_of(self.metadata["codec"])), (), reference)
        self.deviation = DeviationScorer([each.image for each in batches], lambda images: {"codes": reference(images)})

    def score(self, network: Codes) -> dict[str, float]:
        """Deviation from FP32 in mm, its 99th percentile, SQNR in dB and abs_rel."""
        codes = torch.cat([network(batch.image) for batch in self.evaluator.batches])
        left = iter(codes.split([len(each.image) for each in self.evaluator.batches]))
        metrics = self.evaluator.of_codes(codes)
        return {
            "deviation_mm": metrics["drift_mm"],
            "p99_mm": metrics["drift_p99_mm"],
            "sqnr_db": self.deviation(lambda _: {"codes": next(left)}).sqnr_db,
            "abs_rel": metrics["abs_rel"],
        }

    def of_float(self, file: Path, folder: Path, per_channel: bool = False) -> tuple[dict[str, float], str]:
        """Scores and granularity of what the target's PTQ makes of a float file."""
        if inexpressible(self.target) is not None:
            imported = import_onnx(file)
            (given,) = imported.inputs
            interface = Interface.raw(given.name, given.shape[1:], [each.name for each in imported.outputs])
            prepared = Preparer(imported.graph, Context(self.target, self.calibration, interface))(NAIVE)
            quantized = prepared.quantized
            return self.score(lambda images: torch.cat([quantized(each) for each in images.split(1)])), "per tensor"
        quantized_file = vendor_ptq(file, self.calibration, folder / "ptq.onnx", per_channel)
        return self.of_quantized(quantized_file, folder)

    def of_quantized(self, file: Path, folder: Path) -> tuple[dict[str, float], str]:
        """Scores and granularity of a quantized file, run as written: fused kernels saturate on some processors."""
        granularity = granularity_of(onnx.load(file))
        substitution = self.metadata["substitution"]
        if substitution is not None:
            file = substituted(file, folder / "substituted.onnx", *substitution)
        return self.score(OnnxNetwork(file, optimize=False, threads=1)), granularity


def granularity_of(model: onnx.ModelProto) -> str:
    """``per tensor`` if every weight of a QDQ file has one scale; otherwise how many have several."""
    sizes = {each.name: int(np.prod(each.dims, dtype=int)) for each in model.graph.initializer}
    ranks = {each.name: len(each.dims) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = next((each.t for each in node.attribute if each.name == "value"), None)
            if value is not None:
                sizes[node.output[0]], ranks[node.output[0]] = numpy_helper.to_array(value).size, len(value.dims)
    made_by = {output: node for node in model.graph.node for output in node.output}
    several, weights = 0, 0
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        source = node.input[0]
        if source not in ranks and made_by.get(source) is not None and made_by[source].op_type == "QuantizeLinear":
            source = made_by[source].input[0]  # weights in float behind a pair
        if ranks.get(source, 0) < 2:
            continue
        weights += 1
        several += sizes.get(node.input[1], 1) > 1
    if not weights:
        return "no quantized weights"
    return "per tensor" if not several else f"per channel, {several} of {weights} weights"


def substituted(file: Path, path: Path, operator: str, by: str) -> Path:
    """A copy in which the last operator of a kind is another, as a tool chain computes it."""
    model = onnx.load(file)
    found = [node for node in model.graph.node if node.op_type == operator]
    if not found:
        raise ConfigError(f"{file} has no {operator}: the toolkit replaced it")
    found[-1].op_type = by
    onnx.save(model, path)
    return path


def measure(network: HardFile, peer: Peer, method: str, timeout_s: float) -> Row:
    """One row; an error becomes part of it."""
    row = Row(network.metadata["name"], peer.title, method, date=date.today().isoformat())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            report = _run(network, peer, method, folder, timeout_s)
            row.kind, row.version, row.notes = report["kind"], report["version"], report["notes"]
            row.cpu_seconds, row.peak_mb = report["cpu_seconds"], report["peak_mb"]
            row.scores, row.granularity = _scored(network, folder, row.kind)
        except Exception as error:  # whatever a toolkit, or ONNX Runtime for its file, raises: it stands in the table
            row.error = " ".join(str(error).split())[-_TAIL:] or type(error).__name__
    return row


def _scored(network: HardFile, folder: Path, kind: str) -> tuple[dict[str, float], str]:
    if kind == "float":
        return network.of_float(folder / "float.onnx", folder)
    if kind == "quantized":
        if inexpressible(network.target) is not None:
            raise ConfigError(f"its quantized file is not for {network.target.name}")
        return network.of_quantized(folder / "quantized.onnx", folder)
    if network.metadata["substitution"] is not None or inexpressible(network.target) is not None:
        raise ConfigError(f"a toolkit that gives outputs instead of a file does not compute as {network.target.name}")
    codes = torch.from_numpy(np.load(folder / "outputs.npy", allow_pickle=False))
    left = iter(codes)
    return network.score(lambda images: torch.stack([next(left) for _ in images])), "not in a file"


def _run(network: HardFile, peer: Peer, method: str, folder: Path, timeout_s: float) -> dict[str, Any]:
    if not peer.python.exists():
        raise ConfigError(f"not installed: python tools/benchmarks/peers.py --install {peer.name}")
    np.save(folder / "inputs.npy", network.images.numpy(), allow_pickle=False)
    command = [str(peer.python), *(["-E"] if peer.environment else []), str(RUNNERS / f"run_{peer.name}.py")]
    paths = {"model": network.file, "calibration": network.folder / "calibration", "out": folder}
    for key, value in paths.items():
        command += [f"--{key}", str(value.absolute())]
    command += ["--inputs", str(folder / "inputs.npy"), "--method", method, "--target", network.metadata["target"]]
    # In a temporary folder: some toolkits write to their working directory.
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **_ONE_THREAD}, capture_output=True, text=True, errors="replace",
        timeout=timeout_s,
    )  # fmt: skip
    if done.returncode != 0:
        raise ConfigError(done.stderr.strip() or f"exit code {done.returncode}")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def references(network: HardFile) -> list[Row]:
    """The untouched file after the target's PTQ, and with one scale per channel."""
    rows = []
    for method, per_channel in (("one scale per tensor", False), (PER_CHANNEL, True)):
        row = Row(network.metadata["name"], UNTOUCHED, method, kind="float", date=date.today().isoformat())
        with tempfile.TemporaryDirectory() as folder:
            if not (per_channel and inexpressible(network.target)):
                row.scores, row.granularity = network.of_float(network.file, Path(folder), per_channel)
            else:
                row.error = f"ONNX Runtime's quantizer cannot stand for {network.target.name}"
        rows.append(row)
    return rows


def install(name: str) -> None:
    """Make the environment of a toolkit.

    Raises:
        ConfigError: there is no such toolkit, or pip fails.
    """
    known: Mapping[str, Peer] = {each.name: each for each in PEERS if each.environment}
    if name not in known:
        raise ConfigError(f"there is no toolkit {name!r}; {did_you_mean(name, known)}")
    peer = known[name]
    venv.create(peer.python.parents[1], with_pip=True)
    done = subprocess.run([str(peer.python), "-m", "pip", "install", "--quiet", "-r", str(peer.requirements)])
    if done.returncode != 0:
        raise ConfigError(f"{name} could not be installed, see above")


def main() -> int:
    """Measure what is asked for and was not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", metavar="NAME", help="make the environment of a toolkit, and stop")
    parser.add_argument("--set", type=Path, help="folder that hard_set.py wrote")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--network", action="append", metavar="NAME", help="this network only")
    parser.add_argument("--peer", action="append", metavar="NAME", help="this toolkit only")
    parser.add_argument("--method", action="append", metavar="NAME", help="this method only; also one not in the list")
    parser.add_argument("--again", action="store_true", help="measure rows with an error once more")
    parser.add_argument("--timeout", type=float, default=1800, metavar="S", help="longest time of one row, in seconds")
    options = parser.parse_args()
    if options.install:
        install(options.install)
        return 0
    if options.set is None or options.out is None:
        parser.error("give --set and --out")
    results = options.out / "peers.json"
    if options.again:
        _write(results, [each for each in _read(results) if not each.error])
    folders = sorted(each.parent for each in options.set.glob("*/metadata.json"))
    networks = {
        each.name: HardFile(each) for each in folders if not options.network or each.name in options.network
    }  # one by one would be slower: toolkits are many

    def is_measured(network: HardFile, peer: str, method: str) -> bool:
        key = (network.metadata["name"], peer, method)
        return any((row.network, row.peer, row.method) == key for row in _read(results))

    def add(new: Sequence[Row]) -> None:
        for row in new:
            found = row.error or f"{row.scores['deviation_mm']:.2f} mm, {row.cpu_seconds:.0f} s"
            print(f"{row.network:14} {row.peer:14} {row.method:30} {found}", flush=True)
        _write(results, [*_read(results), *new])  # read again: several may run at once, each for some toolkits

    for network in networks.values():
        if not is_measured(network, UNTOUCHED, PER_CHANNEL):
            add(references(network))
    for peer in PEERS:
        if options.peer and peer.name not in options.peer:
            continue
        for method in options.method or peer.methods:
            for network in networks.values():
                if not is_measured(network, peer.title, method):
                    add([measure(network, peer, method, options.timeout)])
    return 0


def _read(results: Path) -> list[Row]:
    return [Row(**each) for each in json.loads(results.read_text(encoding="utf-8"))] if results.exists() else []


def _write(results: Path, rows: Sequence[Row]) -> None:
    write_json(results, [asdict(each) for each in rows])
    with atomic_path(results.with_suffix(".md")) as temporary:
        temporary.write_text(tables(rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_code(main))
