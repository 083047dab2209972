r"""A tool chain that computes another sigmoid, from start to end: its cost, what diagnose names, what a table gives.

    python tools/benchmarks/substitution.py --checkpoint runs/A/.../last.ckpt runs/B/.../last.ckpt --out benchmarks/sub

For each checkpoint: the float file; the same with its last Sigmoid replaced by HardSigmoid, as some tool chains do by
default; both quantized by ONNX Runtime (one scale per tensor, min/max) on images of the training split. On the same
images, the outputs of each are given to ``diagnose`` and ``fit-decoder``. Scores are on the validation split, which
nobody has seen. Where fit-decoder refuses to write a table, the row is the same behind it as before.

Writes ``substitution.json`` and ``substitution.md``. Options that are not listed override the config of the run, such
as ``--data.root DIR``.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from rich.console import Console
from torch import Tensor

from depth_distill.atomic import atomic_path, write_json
from depth_distill.display.console import plain_console
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.backends.vendor_ptq import vendor_ptq
from depth_distill.export.device.case import Case
from depth_distill.export.device.decoder_fit import FitOptions, fit_decoder
from depth_distill.export.device.diagnosis import diagnose
from depth_distill.export.device.evidence import collect
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.loading.trained import LoadedRun, load_run
from depth_distill.models.codecs import DepthCodec
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold

CHAINS = ("HardSigmoid", "Sigmoid")
HEADER = ("network", "images", "last operator", "x FP32", "mm", "diagnose", "behind fit-decoder: x FP32", "mm")


@dataclass(frozen=True)
class Row:
    """A network on a tool chain.

    Attributes:
        network: codec and decoder.
        images: number of calibration images.
        chain: what the chain computes as the last operator.
        float_abs_rel: abs_rel in FP32 on the validation split.
        abs_rel: on the chain.
        mm: mean difference of depth from FP32 there.
        finding: what diagnose names.
        fitted: whether fit-decoder wrote a table.
        fitted_abs_rel: abs_rel behind the table.
        fitted_mm: mean difference behind it.
    """

    network: str
    images: int
    chain: str
    float_abs_rel: float
    abs_rel: float
    mm: float
    finding: str
    fitted: bool
    fitted_abs_rel: float
    fitted_mm: float

    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        before, after = self.abs_rel / self.float_abs_rel, self.fitted_abs_rel / self.float_abs_rel
        behind = (f"{after:.3f}", f"{self.fitted_mm:.1f}") if self.fitted else ("refused", "-")
        finding = self.finding.replace("_", " ")
        return (self.network, str(self.images), self.chain, f"{before:.3f}", f"{self.mm:.1f}", finding, *behind)


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="checkpoints of runs")
    parser.add_argument("--calibration-images", type=int, nargs="+", default=[8, 32, 128], metavar="N")
    parser.add_argument("--images", type=int, help="score on about this many images (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON and Markdown")
    options, overrides = parser.parse_known_args(args)
    return exit_code(lambda: _work(options, overrides, plain_console()))


def _work(options: argparse.Namespace, overrides: Sequence[str], console: Console) -> None:
    rows: list[Row] = []
    for checkpoint in options.checkpoint:
        run = load_run(checkpoint, overrides=[*overrides, "--data.num_workers=0"])
        evaluator = run.evaluator(options.images, run.network)
        float_abs_rel = evaluator(run.network)["abs_rel"]
        for count in options.calibration_images:
            for chain in CHAINS:
                rows.append(_measure(checkpoint, run, evaluator, float_abs_rel, count, chain))
                console.print(" | ".join(rows[-1].cells()), highlight=False, soft_wrap=True, markup=False)
                write_json(options.out / "substitution.json", [asdict(each) for each in rows])
                with atomic_path(options.out / "substitution.md") as temporary:
                    temporary.write_text(markdown(rows))
    console.print(f"written  {options.out / 'substitution'}.json and .md", soft_wrap=True, highlight=False)


def _measure(
    checkpoint: Path, run: LoadedRun, evaluator: Evaluator, float_abs_rel: float, count: int, chain: str
) -> Row:
    calibration = torch.cat(list(run.calibration_images(count)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = export_float(fold(trace(run.network)), folder / "float.onnx", FileSpec.of(run.interface))
        if chain != "Sigmoid":
            substitute_last(model, chain)
        network = OnnxNetwork(vendor_ptq(model, [calibration], folder / "int8.onnx"), optimize=False)
        _dump(folder, calibration, network)
        asked = FitOptions(network=checkpoint, images=folder / "images", device=folder / "npu")
        finding = diagnose(collect(Case(asked))).finding
        fit = fit_decoder(asked).fit
        codes = torch.cat([network(images) for images in evaluator.images])
    before = evaluator.of_codes(codes)
    after = evaluator.with_codec(DepthCodec(fit.codec)).of_codes(codes) if fit.helps else before
    return Row(
        f"{run.interface.codec}, {_decoder(run)}",
        count,
        chain,
        float_abs_rel,
        before["abs_rel"],
        before["drift_mm"],
        finding,
        fit.helps,
        after["abs_rel"],
        after["drift_mm"],
    )


def substitute_last(path: Path, operator: str) -> None:
    """Replace the last Sigmoid of a file, in place.

    Raises:
        ConfigError: there is none.
    """
    model = onnx.load(path)
    sigmoids = [node for node in model.graph.node if node.op_type == "Sigmoid"]
    if not sigmoids:
        raise ConfigError(f"{path} has no Sigmoid: this benchmark is for heads that end in one")
    sigmoids[-1].op_type = operator
    onnx.save(model, path)


def _dump(folder: Path, inputs: Tensor, network: OnnxNetwork) -> None:
    """Inputs and outputs as files, as a person has them."""
    for name in ("images", "npu"):
        (folder / name).mkdir()
    for index, each in enumerate(inputs):
        np.save(folder / "images" / f"{index:04d}.npy", each.numpy(), allow_pickle=False)
        np.save(folder / "npu" / f"{index:04d}.npy", network(each[None])[0].numpy(), allow_pickle=False)


def _decoder(run: LoadedRun) -> str:
    """The activation of the decoder, which tells the networks apart."""
    kinds = {type(each).__name__ for each in run.network.modules()}
    return "ELU" if "ELU" in kinds else "ReLU"


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [f"| {' | '.join(HEADER)} |", "| --- | ---: | --- | ---: | ---: | --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {' | '.join(each.cells())} |" for each in rows)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
