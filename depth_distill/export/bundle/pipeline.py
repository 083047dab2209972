"""From a checkpoint to a bundle, step by step; an old bundle is replaced once the new one is complete."""

import dataclasses
import platform
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import depth_distill
from depth_distill.codecs import HostCodec, TwoPartCodec, describe_codec, formula
from depth_distill.display.console import plain_console
from depth_distill.errors import ConfigError, DataError
from depth_distill.export.backends.backends import Backend, find_backend
from depth_distill.export.bundle.artifacts import BUNDLE, write_artifacts, write_decoding
from depth_distill.export.bundle.bundle import (
    Bundle,
    load_bundle,
    put_in_place,
    recover,
    require_replaceable,
    work_folder,
)
from depth_distill.export.bundle.decode_table import (
    PICTURE,
    DecodeTable,
    GivenTable,
    TableSource,
    expected_codes,
    find_table,
)
from depth_distill.export.bundle.high_precision_layers import HighPrecisionLayers, choose_high_precision_layers
from depth_distill.export.bundle.manifest import sha256, write_manifest
from depth_distill.export.bundle.reporting import Results, table_lines, write_results
from depth_distill.export.bundle.steps import StepRunner, resumable_passes, source_hash, tensor_hash
from depth_distill.export.bundle.verification import split_hash, verify
from depth_distill.export.check.npu_check import check_onnx
from depth_distill.export.onnx_io.encodings import scales
from depth_distill.export.onnx_io.file_spec import FileSpec, opset_for, require_opset
from depth_distill.loading.onnx_importer.files import opset_of, read_onnx
from depth_distill.loading.trained import LoadedRun, config_of, load_run
from depth_distill.quantization.head_choice import choose_head
from depth_distill.quantization.passes.auto import Auto
from depth_distill.quantization.passes.base import Pass, PassReport
from depth_distill.quantization.passes.outputs import SeparateOutputs
from depth_distill.quantization.passes.pair import Pair
from depth_distill.quantization.preparation import Prepared, Preparer
from depth_distill.quantization.recipe import DEFAULT_RECIPE, Recipe, RecipeLike, load_recipe
from depth_distill.quantization.recipe_search import Trial
from depth_distill.quantization.simulate.calibrate import weights_hash
from depth_distill.quantization.target.target import CalibratorName, NpuTarget, load_target

_BATCH = 16  # calibration images per batch
_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript", "timm", "numpy")


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        checkpoint: checkpoint of a ``fit``.
        out: folder of the bundle; an old bundle there is replaced at the end.
        config: config of the checkpoint; the one in its run folder unless given.
        overrides: command-line options that change data or network, such as ``--data.root DIR``.
        recipe: passes that prepare the network.
        separate_outputs: whether there is one output per code; by default only for integer and fraction.
        calibration_images: number of calibration images, from the training split unless the config names others.
        device: where recipe, calibration and the float network are computed; files are written on the CPU.
        calibrator: how activation ranges are measured; the target's own calibrator unless given.
        opset: opset of the files; by default the newest one that this package writes and the target reads.
        high_precision_layers: layers of ``model.mixed.onnx`` in FP16, or a file from ``depth-distill mixed-precision``;
            by default the fewest that reach ``target_abs_rel``.
        target_abs_rel: abs_rel of the mixed network to reach; 1.02 times that of the float network unless given.
        search_images: approximate number of images for the search of these layers.
        images: approximate number of validation images for verification; all unless given.
        backends: tool chains to verify the files on.
        decode_table: a tool chain to fit a decode table on, outputs of a device for the calibration images, or a table
            that was fitted before; there is none unless given.
        refuse: whether an operator that the target refuses is an error; otherwise it is a warning in the report.
        keep_head: whether the network ends as it does even where the target computes another function there; see
            :func:`~depth_distill.quantization.head_choice.choose_head`.
        command: command line, for the manifest.
    """

    checkpoint: Path
    out: Path
    config: Path | None = None
    overrides: Sequence[str] = ()
    recipe: Recipe = field(default_factory=lambda: load_recipe(DEFAULT_RECIPE))
    separate_outputs: bool | None = None
    calibration_images: int = 64
    device: str = "cpu"
    calibrator: CalibratorName | None = None
    opset: int | None = None
    high_precision_layers: Path | Sequence[str] | None = None
    target_abs_rel: float | None = None
    search_images: int = 100
    images: int | None = None
    backends: Sequence[Backend] = ()
    decode_table: TableSource | None = None
    refuse: bool = True
    keep_head: bool = False
    command: str = ""


def export_bundle(options: ExportOptions, target: NpuTarget, console: Console) -> Bundle:
    """Export a checkpoint as a bundle.

    Steps that were finished by an interrupted call for the same ``out`` are not repeated unless something that they
    depend on changed: weights, images, options, or this package.

    Raises:
        StepError: a step failed; the message has its name, and an old bundle is unchanged.
        ConfigError: ``out`` exists and is not a bundle, or the opset does not exist.
    """
    out = options.out.absolute()
    if options.opset is not None:
        require_opset(options.opset)
    require_replaceable(out)
    recover(out)
    work = work_folder(out)
    # The files depend on the target and on the version of this package.
    steps = StepRunner(work, console, [target.to_dict(), source_hash(Path(depth_distill.__file__).parent)])
    console.print(f"exporting {options.checkpoint} for {target.name}", soft_wrap=True, highlight=False)
    run = steps.run(
        "load checkpoint",
        None,
        lambda: load_run(options.checkpoint, options.config, options.overrides, options.device),
        value=False,
    )
    prepared = _prepare(options, target, run, steps, console)
    evaluator = steps.run(
        "read validation images", None, lambda: run.evaluator(options.images, reference=prepared.reference), value=False
    )
    high_precision = _choose(options, target, run, prepared, split_hash(evaluator), steps)
    spec = FileSpec.of(prepared.interface, opset_for(target) if options.opset is None else options.opset)
    written = write_artifacts(prepared, high_precision.layers, spec, steps)
    folder = work / BUNDLE
    table = _decode_table(options, run, prepared, written, steps)
    if table is not None:
        interface = prepared.interface
        prepared = dataclasses.replace(
            prepared, interface=dataclasses.replace(interface, table=table.codec(interface.codec))
        )
    written = write_decoding(prepared, written, table, steps)
    findings = steps.run("check operators", None, lambda: _check(folder, written, target, options), value=False)
    fitted_on = (options.decode_table,) if isinstance(options.decode_table, Backend) else ()
    backends = tuple(dict.fromkeys((*options.backends, *fitted_on)))  # what the table does is scored in any case
    verified = verify(backends, evaluator, prepared, folder, written, high_precision.layers, steps, table)
    opsets = {kind: opset_of(read_onnx(folder / name, weights=False)) for kind, name in written.items()}
    manifest = {"opset": spec.opset, "opsets": opsets, **_manifest(options, target, prepared, written, folder)}
    passes = [
        (each.name, report.summary) for each, report in zip(prepared.recipe.passes, prepared.reports, strict=True)
    ]
    results = Results(
        manifest,
        verified,
        high_precision,
        passes,
        findings,
        {**steps.seconds},
        peak_memory_mb(),
        tuple(steps.kept),
        table,
    )
    if table is not None:
        manifest |= table.to_manifest(prepared.interface.codec)
    steps.run("write report", None, lambda: write_results(folder, results, prepared, run), value=False)
    lines = table_lines(table, verified["rows"])
    manifest["metrics"] = {**verified, **({"decode_table": lines} if lines else {})}
    manifest["steps_seconds"] = {**steps.seconds}
    manifest["peak_memory_mb"] = peak_memory_mb()
    steps.run("write manifest", None, lambda: write_manifest(folder, manifest), value=False)
    steps.run("put the bundle in place", None, lambda: put_in_place(folder, out), value=False)
    shutil.rmtree(work, ignore_errors=True)
    return load_bundle(out)


def _prepare(
    options: ExportOptions, target: NpuTarget, run: LoadedRun, steps: StepRunner, console: Console
) -> Prepared:
    """Run the recipe and calibrate, step by step."""
    images = steps.run(
        "read calibration images", None, lambda: _calibration_images(run, options.calibration_images), value=False
    )

    def show(pass_: Pass, report: PassReport) -> None:
        if report.table is not None:
            console.print(report.table)
        else:
            console.print(f"       {report.summary}", style="dim", highlight=False, soft_wrap=True)

    preparer = run.preparer(target, images, options.calibrator, resumable_passes(steps), show)
    recipe = _chosen(options, target, run, images, steps, console)
    prepared = preparer(with_outputs(recipe, run.network.codec.host, options.separate_outputs))
    depends_on = [prepared.fingerprint, [tensor_hash(each) for each in images], prepared.context.chosen_calibrator]
    ranges = steps.run("calibrate", depends_on, prepared.calibrate)
    return dataclasses.replace(prepared, ranges={site: (low, high) for site, (low, high) in ranges.items()})


def _chosen(
    options: ExportOptions,
    target: NpuTarget,
    run: LoadedRun,
    images: Sequence[Tensor],
    steps: StepRunner,
    console: Console,
) -> Recipe:
    """The recipe of the options, with an end that the target computes, and with the passes that ``auto`` stands for."""
    recipe = _with_head(options, target, run, images, steps, console)
    if not recipe.has(Auto.name):
        return recipe

    def show(trial: Trial) -> None:
        console.print(f"       {', '.join(trial.cells())}", style="dim", highlight=False, soft_wrap=True)

    def choose() -> list[dict[str, Any]]:
        return run.chosen_recipe(
            recipe,
            target,
            images,
            options.calibrator,
            show,
            keep_head=True,  # its end is chosen already
        ).to_entries()

    depends_on = [
        recipe.to_dict(),
        weights_hash(run.network),
        [tensor_hash(each) for each in images],
        options.calibrator,
    ]
    return Recipe.from_entries(steps.run("choose the recipe", depends_on, choose), recipe.name)


def _with_head(
    options: ExportOptions,
    target: NpuTarget,
    run: LoadedRun,
    images: Sequence[Tensor],
    steps: StepRunner,
    console: Console,
) -> Recipe:
    """The recipe, with another end where the target would substitute the activation there."""
    if not target.substituted:
        return options.recipe

    def choose() -> dict[str, Any]:
        def prepare(calibration: Sequence[Tensor]) -> Preparer:
            return run.preparer(target, calibration, options.calibrator)

        found = choose_head(options.recipe, images, prepare, options.keep_head)
        return {"passes": found.recipe.to_entries(), "line": found.line}

    hashes = [tensor_hash(each) for each in images]
    depends_on = [options.recipe.to_dict(), weights_hash(run.network), hashes, options.calibrator, options.keep_head]
    found = steps.run("choose the head", depends_on, choose)
    if found["line"]:
        kept = found["passes"] == options.recipe.to_entries()
        word, style = ("warning", "yellow") if kept else ("head", "")
        console.print(f"{word:7} {found['line']}", style=style, highlight=False, soft_wrap=True)
    return Recipe.from_entries(found["passes"], options.recipe.name)


def with_outputs(recipe: Recipe, codec: HostCodec, separate: bool | None = None) -> Recipe:
    """The recipe, with separate outputs if ``separate``; by default only for integer and fraction.

    Raises:
        ConfigError: the recipe has the pass ``separate_outputs`` or ``pair``, but ``separate`` is False.
    """
    if recipe.has(Pair.name):
        if separate is False:
            raise ConfigError(f"recipe {recipe} has the pass pair, whose two outputs cannot be one: leave one out")
        separate = bool(separate)
    if separate is False and recipe.has(SeparateOutputs.name):
        raise ConfigError(f"recipe {recipe} has the pass separate_outputs, but one output is requested: choose one")
    separate = isinstance(codec, TwoPartCodec) if separate is None else separate
    return recipe.with_passes(SeparateOutputs()) if separate and not recipe.has(SeparateOutputs.name) else recipe


def _calibration_images(run: LoadedRun, count: int) -> list[Tensor]:
    batches = run.calibration_images(count)
    if not batches:
        raise DataError("the calibration set is empty: expected at least one image")
    images = torch.cat(list(batches))
    wrong = [index for index, each in enumerate(images) if not bool(each.isfinite().all())]
    if wrong:
        raise DataError(
            f"calibration image {wrong[0]} has NaN or infinity ({len(wrong)} of {len(images)} have): "
            "repair or leave out these files, and check data.image_mean and data.image_std"
        )
    return list(images.split(_BATCH))


def export(
    checkpoint: str | Path,
    out: str | Path,
    recipe: RecipeLike = DEFAULT_RECIPE,
    target: str | Path | NpuTarget = "per-tensor-minmax",
    console: Console | None = None,
    **options: Any,
) -> Bundle:
    """Export a bundle from Python: ``depth_distill.export("last.ckpt", "bundle", recipe="robust")``.

    Args:
        checkpoint: path of a ``.ckpt`` file of a ``fit``.
        out: folder of the bundle; an old bundle there is replaced at the end.
        recipe: name of a shipped recipe, path of a recipe file, list of passes, or a ``Recipe``.
        target: name or file of an NPU profile, or a profile.
        console: console for progress; nothing is printed unless given.
        options: further fields of :class:`ExportOptions`; files are verified on ONNX Runtime unless ``backends`` is
            given, and ``decode_table`` may be the name of a tool chain.

    Raises:
        StepError: a step failed; the message has its name, and an old bundle is unchanged.
        ConfigError: there is no such recipe or target, or ``out`` exists and is not a bundle.
    """
    profile = target if isinstance(target, NpuTarget) else load_target(target)
    chosen = {"backends": (find_backend("onnxruntime"),), "recipe": load_recipe(recipe), **options}
    if isinstance(chosen.get("decode_table"), str):
        chosen["decode_table"] = find_backend(chosen["decode_table"])
    described = f"depth_distill.export({str(checkpoint)!r}, {str(out)!r}, recipe={str(chosen['recipe'])!r})"
    settings = ExportOptions(Path(checkpoint), Path(out), command=described, **chosen)
    return export_bundle(settings, profile, console or plain_console(quiet=True))


def peak_memory_mb() -> float:
    """Peak memory of this process so far, in MB of 1e6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if platform.system() == "Darwin" else peak * 1024 / 1e6


def _choose(
    options: ExportOptions,
    target: NpuTarget,
    run: LoadedRun,
    prepared: Prepared,
    split: Sequence[str],
    steps: StepRunner,
) -> HighPrecisionLayers:
    named = options.high_precision_layers
    depends_on = [
        prepared.fingerprint,
        prepared.scales,
        named.read_text() if isinstance(named, Path) and named.is_file() else named,
        options.target_abs_rel,
        options.search_images,
        split,
    ]

    def choose() -> dict[str, Any]:
        return dataclasses.asdict(
            choose_high_precision_layers(
                prepared,
                target,
                lambda: run.evaluator(options.search_images, reference=prepared.reference),
                named,
                options.target_abs_rel,
                steps.folder / "sensitivity",
            )
        )

    found = steps.run("choose FP16 layers", depends_on, choose)
    return HighPrecisionLayers(tuple(found["layers"]), found["reason"])


def _decode_table(
    options: ExportOptions, run: LoadedRun, prepared: Prepared, written: Mapping[str, str], steps: StepRunner
) -> DecodeTable | None:
    """The decode table that the options ask for, fitted on the calibration images."""
    source, folder = options.decode_table, steps.folder / BUNDLE
    if source is None or isinstance(source, GivenTable):  # nothing is fitted: a picture would be of another table
        (folder / PICTURE).unlink(missing_ok=True)
    if source is None:
        return None
    chosen = source

    def find() -> dict[str, Any]:
        expected = expected_codes(prepared, run.network.codec.host)
        return dataclasses.asdict(find_table(chosen, prepared, expected, folder, written))

    if isinstance(source, Backend):
        title = f"fit decode table on {source.name}"
        depends_on: Any = [sha256(folder / written[kind]) for kind in ("float", "int8")] + [source.name]
        depends_on += [tensor_hash(each) for each in prepared.context.images]
        found = steps.run(title, depends_on, find, [f"{BUNDLE}/{PICTURE}"])
    else:
        found = steps.run(f"decode table of {source.title}", None, find, value=False)
    table = DecodeTable(**{**found, "tables": tuple(tuple(each) for each in found["tables"])})
    steps.console.print(f"       {table.line}", style="dim", highlight=False, soft_wrap=True)
    return table


def _check(folder: Path, written: Mapping[str, str], target: NpuTarget, options: ExportOptions) -> list[dict[str, str]]:
    """Findings of the operator check in the file for the target's tool chain."""
    check = check_onnx(folder / written["float" if target.scales == "vendor" else "int8"], target)
    violations = [each for each in check.findings if each.severity == "violation"]
    if violations and options.refuse:
        lines = "\n".join(f"  {each}" for each in violations)
        raise ConfigError(
            f"{target.name} refuses {len(violations)} operators (--allow-violations exports anyway):\n{lines}"
        )
    return [dataclasses.asdict(each) for each in check.findings]


def _manifest(
    options: ExportOptions,
    target: NpuTarget,
    prepared: Prepared,
    written: Mapping[str, str],
    folder: Path,
) -> dict[str, Any]:
    codec, inputs, outputs = prepared.interface.codec, prepared.interface.inputs, prepared.interface.outputs
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": options.command,
        "checkpoint": {"name": options.checkpoint.name, "sha256": sha256(options.checkpoint)},
        "config": config_of(options.checkpoint, options.config).name,
        "target": target.to_dict(),
        "recipe": prepared.recipe.to_dict(),
        "input": inputs.to_dict(),
        "outputs": {
            "names": list(outputs.names),
            "channels": list(outputs.channels),
            "logits": outputs.logits,
        },
        "codec": describe_codec(codec),
        "formula": formula(codec),
        "artifacts": dict(written),
        "scales": scales(folder / written["int8"]),
        "calibration": {
            "folder": "calibration",
            "images": sum(len(each) for each in prepared.context.images),
            "calibrator": prepared.context.chosen_calibrator,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }
