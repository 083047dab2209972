r"""Loss of each head from an 8-bit output, and from INT8 as a whole, by each tool chain.

    python tools/benchmarks/heads_table.py --checkpoint SINGLE.ckpt --backends onnxruntime nncf qnn rknn \
        --trained INTEGER_FRACTIONAL.ckpt --out benchmarks/heads

``--checkpoint`` are runs whose network has a single code; each is converted to thermometers and to a pair, behind the
passes of ``--recipe``. ``--trained`` are runs with other heads; each is decoded by every decoder of its codes. Columns:

* abs_rel of the float network, and of the INT8 network from ONNX Runtime's own PTQ of the float ONNX file, with the
  activations that the target substitutes;
* drift of depth by INT8 relative to the *same network in float* with the same decoder: mean and 99th percentile;
* the same for fake quantization with only the output rounded, and with all activations of the head rounded;
* carry rate: share of pixels whose whole part is wrong, for the INT8 network relative to the float depth, and for the
  float network relative to the ground truth;
* bytes of output per pixel;
* of each of ``--backends``, mean drift and carry rate after its own PTQ of the float file.

Writes ``heads_table.json``, ``heads_table.md`` and ``heads_table.png``, with a map of carries per two-part head.
Options that are not listed override the configs.
"""

import argparse
import copy
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn

from depth_distill.atomic import atomic_path, write_json
from depth_distill.codecs import HostIntegerFractional, HostSingle
from depth_distill.display.console import plain_console
from depth_distill.display.pictures import save_figure
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.backends import Backend, find_backend
from depth_distill.export.backends.vendor_ptq import vendor_network
from depth_distill.export.interface.calibration_set import write_calibration_set
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.substitution import unwritable
from depth_distill.loading.trained import LoadedRun, load_run
from depth_distill.models import DepthCodec, DepthNet, SingleHead, carry_errors
from depth_distill.models.codecs import ThermometerCodec
from depth_distill.quantization.head import with_head
from depth_distill.quantization.preparation import Prepared
from depth_distill.quantization.recipe import NAIVE, Recipe, load_recipe
from depth_distill.quantization.simulate.fake_quantize import quantizers, set_enabled
from depth_distill.quantization.target.target import NpuTarget, load_target
from depth_distill.runs import title_of

COLUMNS = (
    "bytes/pixel", "abs_rel float", "abs_rel INT8", "INT8 drift, mean [mm]", "99 % [mm]", "output alone, mean [mm]",
    "99 % [mm]", "head alone, mean [mm]", "carries by INT8", "carries in float",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A prepared network, the codecs that can decode its codes, by title, and its run."""

    prepared: Prepared
    readings: Mapping[str, DepthCodec]
    run: LoadedRun


@dataclass
class QuantizedCodes:
    """Codes per batch of a network in float, after vendor PTQ, and with only its output or its head rounded."""

    float: list[Tensor]
    vendor: list[Tensor]
    output: list[Tensor]
    head: list[Tensor] = field(default_factory=list)


class BehindSigmoid(nn.Module):
    """A thermometer head after the sigmoid of a single head: the obvious construction, for comparison."""

    def __init__(self, single: SingleHead, num_codes: int) -> None:
        super().__init__()
        single = copy.deepcopy(single)
        self.codec = ThermometerCodec(single.codec.depth_range, single.codec.encoding, num_codes)
        self.conv, self.sigmoid = single.conv, single.output
        self.repeat = nn.Conv2d(1, num_codes, 1)
        self.clip = nn.Hardtanh(0.0, 1.0)
        nn.init.constant_(self.repeat.weight, num_codes)
        self.repeat.bias = nn.Parameter(-torch.arange(num_codes).float())

    def forward(self, features: Tensor) -> Tensor:
        """Codes ``(B, num_codes, H, W)``."""
        return self.clip(self.repeat(self.sigmoid(self.conv(features))))


def variants(
    run: LoadedRun,
    num_codes: Sequence[int],
    target: NpuTarget,
    calibration_images: int,
    base: Recipe = NAIVE,
    behind_sigmoid: bool = False,
) -> Iterator[Variant]:
    """A network with a single code, its pair and its thermometers; any other network as it is."""
    network, images = run.network, run.calibration_images(calibration_images)
    prepare = run.preparer(target, images)
    host = network.codec.host
    if not isinstance(host, HostSingle):
        hosts = host.decoders if isinstance(host, HostIntegerFractional) else (host,)
        yield Variant(prepare(base), {str(each): DepthCodec(each) for each in hosts}, run)
        return
    sigmoid = network.head.output if isinstance(network, DepthNet) else None
    ends = "" if sigmoid is None else ", sigmoid" if isinstance(sigmoid, nn.Sigmoid) else ", clip"
    yield Variant(prepare(base), {f"{host}{ends}": network.codec}, run)
    for head in ("pair", *(f"thermometer:{count}" for count in num_codes)):
        finer = prepare(with_head(base, head))
        codec = finer.interface.codec
        yield Variant(finer, {str(codec): DepthCodec(codec)}, run)
    if behind_sigmoid and isinstance(sigmoid, nn.Sigmoid) and num_codes:
        made = copy.deepcopy(network)
        head_behind = BehindSigmoid(network.head, max(num_codes))  # type: ignore[arg-type]
        made.head = head_behind.eval()
        changed = dataclasses.replace(run, network=made)
        prepared = changed.preparer(target, images)(base)
        yield Variant(prepared, {f"{head_behind.codec}, behind the sigmoid": head_behind.codec}, changed)


class HeadMeasurements:
    """Measures the columns of the table for a network."""

    def __init__(self, images: int | None, folder: Path, backends: Sequence[Backend] = ()) -> None:
        self.images, self.folder, self.backends = images, folder, backends

    def rows(self, variant: Variant) -> Iterator[tuple[dict[str, Any], Tensor | None]]:
        """A row per decoder and, for a two-part codec, the carry rate of each pixel ``(H, W)``."""
        batches = variant.run.evaluator(self.images).batches
        codes = self._codes(variant.prepared, [batch.image for batch in batches])
        for name, codec in variant.readings.items():
            evaluator = Evaluator(batches, codec, variant.run.bands_m)
            evaluator.reference_m = tuple(codec.decode(each) for each in codes.float)
            scores = {
                kind: evaluator.of_codes(torch.cat(getattr(codes, kind)))
                for kind in ("float", "vendor", "output", "head")
            }
            row = {
                "head": name,
                "bytes_per_pixel": codec.channels,
                "float_abs_rel": scores["float"]["abs_rel"],
                "int8_abs_rel": scores["vendor"]["abs_rel"],
                "drift_mm": scores["vendor"]["drift_mm"],
                "drift_p99_mm": scores["vendor"]["drift_p99_mm"],
                "output_drift_mm": scores["output"]["drift_mm"],
                "output_drift_p99_mm": scores["output"]["drift_p99_mm"],
                "head_drift_mm": scores["head"]["drift_mm"],
                "protocol": evaluator.protocol,
                "carry_rate": None,
                "float_carry_rate": None,
                "backends": self._by_backends(variant.prepared, evaluator),
            }
            yield self._with_carries(row, evaluator, codes)

    def _codes(self, prepared: Prepared, images: list[Tensor]) -> QuantizedCodes:
        outputs, quantized = prepared.interface.outputs, prepared.quantized
        vendor = vendor_network(
            prepared.graph,
            prepared.batches,
            self.folder,
            output_names=outputs.names,
            substitutions=prepared.context.target.substitutions,
        )
        with torch.inference_mode():

            def run(network: Callable[[Tensor], Any]) -> list[Tensor]:
                return [outputs.codes(network(each)) for each in images]

            codes = QuantizedCodes(run(prepared.graph), run(vendor), [])
            set_enabled(quantized, False)
            set_enabled(quantized, True, kinds=["output"])
            codes.output = run(quantized)
            in_head = [
                site
                for site, each in quantizers(quantized).items()
                if each.kind == "output" or (site.startswith("head.") and each.kind != "weight")
            ]
            set_enabled(quantized, True, in_head)
            codes.head = run(quantized)
            set_enabled(quantized, True)
        return codes

    def _by_backends(self, prepared: Prepared, evaluator: Evaluator) -> dict[str, dict[str, Any]]:
        """Drift and carries of each tool chain's own PTQ of the float file; the reason where it refuses."""
        if not self.backends:
            return {}
        inputs, outputs = prepared.interface.inputs, prepared.interface.outputs
        file = export_float(prepared.graph, self.folder / "head.onnx", FileSpec.of(prepared.interface))
        calibration = torch.cat([each.cpu() for each in prepared.context.images])
        folder = self.folder / "calibration"
        shutil.rmtree(folder, ignore_errors=True)
        write_calibration_set(inputs.prepare(calibration).numpy(), inputs.pixels(calibration).numpy(), "image", folder)
        images = inputs.prepare(torch.cat([each.image for each in evaluator.batches])).numpy()
        found: dict[str, dict[str, Any]] = {}
        for backend in self.backends:
            try:
                ran = backend.run(file, images, folder, repeats=0)
            except ConfigError as error:
                found[backend.name] = {"error": str(error)}
                continue
            codes = outputs.codes({name: torch.from_numpy(each) for name, each in ran.outputs.items()})
            score = evaluator.of_codes(codes)
            assert evaluator.reference_m is not None
            wrong = carry_errors(evaluator.codec, codes, torch.cat(list(evaluator.reference_m)))
            found[backend.name] = {
                "version": ran.version,
                "drift_mm": score["drift_mm"],
                "drift_p99_mm": score["drift_p99_mm"],
                "abs_rel": score["abs_rel"],
                "carry_rate": None if wrong is None else float(wrong.float().mean()),
            }
        return found

    def _with_carries(
        self, row: dict[str, Any], evaluator: Evaluator, codes: QuantizedCodes
    ) -> tuple[dict[str, Any], Tensor | None]:
        assert evaluator.reference_m is not None
        by_int8, in_float = [], []
        for batch, exact, integer, reference_m in zip(
            evaluator.batches, codes.float, codes.vendor, evaluator.reference_m, strict=True
        ):
            wrong = carry_errors(evaluator.codec, integer, reference_m)
            untrue = carry_errors(evaluator.codec, exact, batch.depth_m)
            if wrong is None or untrue is None:
                return row, None
            by_int8.append(wrong)
            in_float.append(untrue[batch.valid])
        carries = torch.cat(by_int8).float()
        row["carry_rate"] = float(carries.mean())
        row["float_carry_rate"] = float(torch.cat(in_float).float().mean())
        return row, carries.mean(dim=(0, 1))


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", required=True, help=".ckpt files of runs with a single code"
    )
    parser.add_argument("--trained", type=Path, nargs="*", default=[], help=".ckpt files of runs with other heads")
    parser.add_argument(
        "--num-codes", type=int, nargs="*", default=[2, 4, 8, 16], help="numbers of codes of the thermometer heads"
    )
    parser.add_argument(
        "--behind-sigmoid", action="store_true", help="a thermometer behind the sigmoid as well, for comparison"
    )
    parser.add_argument("--recipe", default="naive", help="passes before the head is converted")
    parser.add_argument("--backends", nargs="*", default=[], help="tool chains whose own PTQ is measured as well")
    parser.add_argument("--target", default="per-tensor-minmax", help="name of an NPU profile, or its .yaml file")
    parser.add_argument("--images", type=int, help="validate on about this many images; all if not given")
    parser.add_argument("--calibration-images", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON, Markdown and picture")
    options, overrides = parser.parse_known_args(args)
    return exit_code(lambda: _work(options, overrides, plain_console()))


def _work(options: argparse.Namespace, overrides: Sequence[str], console: Console) -> None:
    target = load_target(options.target)
    reason = unwritable(target.substitutions)
    if reason is not None:
        raise ConfigError(f"--target {target.name}: no file can be written as it computes the network: {reason}")
    rows: list[dict[str, Any]] = []
    maps: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        measure = HeadMeasurements(options.images, Path(folder), [find_backend(name) for name in options.backends])
        for checkpoint in (*options.checkpoint, *options.trained):
            run = title_of(checkpoint)
            loaded = load_run(checkpoint, overrides=overrides)
            base = load_recipe(options.recipe)
            arguments = (options.num_codes, target, options.calibration_images, base, options.behind_sigmoid)
            for variant in variants(loaded, *arguments):
                for row, carries in measure.rows(variant):
                    rows.append({"run": run, **row})
                    of_backends = [f"{name} {_of_backend(row, name)}" for name in row["backends"]]
                    console.print(
                        " | ".join([run, row["head"], *cells(row), *of_backends]), highlight=False, soft_wrap=True
                    )
                    if carries is not None:
                        maps[f"{run}\n{row['head']}"] = carries
    values = {"target": target.name, "recipe": options.recipe, "calibration_images": options.calibration_images}
    write_json(options.out / "heads_table.json", {**values, "rows": rows})
    with atomic_path(options.out / "heads_table.md") as temporary:
        temporary.write_text(markdown(rows))
    save_figure(_picture(rows, maps), options.out / "heads_table.png")
    console.print(f"written  {options.out / 'heads_table'}.json, .md and .png", soft_wrap=True, highlight=False)


def cells(row: dict[str, Any]) -> list[str]:
    """The cells of a row, in the order of ``COLUMNS``."""
    rates = ["" if row[key] is None else f"{row[key]:.3%}" for key in ("carry_rate", "float_carry_rate")]
    return [
        str(row["bytes_per_pixel"]),
        f"{row['float_abs_rel']:.4f}",
        f"{row['int8_abs_rel']:.4f}",
        *(f"{row[key]:.2f}" for key in ("drift_mm", "drift_p99_mm", "output_drift_mm", "output_drift_p99_mm")),
        f"{row['head_drift_mm']:.2f}",
        *rates,
    ]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One table per run."""
    lines = []
    for run in dict.fromkeys(row["run"] for row in rows):
        mine = [row for row in rows if row["run"] == run]
        lines += [f"### {run} ({mine[0]['protocol']})", ""]
        lines += ["| head | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
        lines += [f"| {row['head']} | {' | '.join(cells(row))} |" for row in mine] + [""]
        names = list(dict.fromkeys(name for row in mine for name in row["backends"]))
        if names:
            titles = {name: f"{find_backend(name).title} {_version(mine, name)}".strip() for name in names}
            lines += ["| head | " + " | ".join(titles[name] for name in names) + " |"]
            lines += ["| --- |" + " ---: |" * len(names)]
            lines += [f"| {row['head']} | {' | '.join(_of_backend(row, name) for name in names)} |" for row in mine]
            lines += [""]
    return "\n".join(lines)


def _version(rows: Sequence[dict[str, Any]], name: str) -> str:
    return next((row["backends"][name]["version"] for row in rows if "version" in row["backends"].get(name, {})), "")


def _of_backend(row: dict[str, Any], name: str) -> str:
    """Mean drift in mm, and the carries if the head has any to get wrong."""
    found = row["backends"].get(name, {})
    if "drift_mm" not in found:
        return "refused"
    carries = "" if found["carry_rate"] is None else f"; {found['carry_rate']:.3%} carries"
    return f"{found['drift_mm']:.2f} mm ({found['drift_p99_mm']:.1f}){carries}"


def _picture(rows: Sequence[dict[str, Any]], maps: dict[str, Tensor]) -> Figure:
    """Chart of the drift of every head, and maps of the carry errors of two-part heads."""
    height = 1.5 + 0.35 * len(rows)
    figure = Figure(figsize=(11, height + (2.8 if maps else 0)), layout="constrained")
    top, *below = figure.subfigures(2 if maps else 1, 1, height_ratios=[height, 2.8] if maps else None, squeeze=False)[
        :, 0
    ]
    ax = top.subplots()
    ways = {"drift_mm": "INT8, ONNX Runtime's PTQ", "head_drift_mm": "head alone", "output_drift_mm": "output alone"}
    for index, (key, label) in enumerate(ways.items()):
        places = [place + 0.27 * (index - 1) for place in range(len(rows))]
        ax.barh(places, [row[key] for row in rows], height=0.25, label=label)
    ax.axvline(0.5, color="black", linestyle=":", label="0.5 mm")
    ax.set_xscale("log")
    ax.set_yticks(range(len(rows)), [f"{row['head']} ({row['run']})" for row in rows], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel("mean drift from the same network in float [mm]")
    ax.grid(axis="x", alpha=0.3, which="both")
    top.legend(fontsize=8, ncols=4, loc="outside upper center")
    for part in below:
        for each, (name, carries) in zip(part.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
            drawn = each.imshow(carries.numpy(), cmap="magma", vmin=0, vmax=max(float(carries.max()), 1e-3))
            each.set_title(f"carry rate\n{name}", fontsize=6)
            each.set_axis_off()
            part.colorbar(drawn, ax=each, fraction=0.035).ax.tick_params(labelsize=6)
    return figure


if __name__ == "__main__":
    sys.exit(main())
