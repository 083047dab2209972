"""From a checkpoint to a bundle, step by step; an old bundle is replaced once the new one is complete."""

import dataclasses
import platform
import resource
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

import depth_distill
from depth_distill.codecs import describe_codec, formula
from depth_distill.display.console import plain_console
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.export.backends.backends import Backend, find_backend
from depth_distill.export.bundle.artifacts import BUNDLE, write_artifacts, write_decoding
from depth_distill.export.bundle.before_after import compare
from depth_distill.export.bundle.bundle import (
    Bundle,
    load_bundle,
    put_in_place,
    recover,
    require_replaceable,
    work_folder,
)
from depth_distill.export.bundle.decode_table import table_step
from depth_distill.export.bundle.high_precision_layers import HighPrecisionLayers, choose_high_precision_layers
from depth_distill.export.bundle.manifest import write_manifest
from depth_distill.export.bundle.network import prepare_candidates
from depth_distill.export.bundle.options import ExportOptions
from depth_distill.export.bundle.reporting import Results, table_lines, write_results
from depth_distill.export.bundle.steps import StepRunner, source_hash
from depth_distill.export.bundle.verification import split_hash, verify
from depth_distill.export.check.npu_check import check_onnx
from depth_distill.export.onnx_io.encodings import scales
from depth_distill.export.onnx_io.file_spec import FileSpec, opset_for, require_opset
from depth_distill.export.onnx_io.qdq import require_writable
from depth_distill.hashes import sha256
from depth_distill.loading.onnx_importer.files import opset_of, read_onnx
from depth_distill.loading.teacher import network_title, teacher_of
from depth_distill.loading.trained import LoadedRun, config_of, load_run
from depth_distill.quantization.preparation import Prepared
from depth_distill.quantization.recipe import DEFAULT_RECIPE, RecipeLike, load_recipe
from depth_distill.quantization.target.target import NpuTarget, load_target

_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript", "timm", "numpy")


def export_bundle(options: ExportOptions, target: NpuTarget, console: Console) -> Bundle:
    """Export a checkpoint as a bundle.

    Steps that were finished by an interrupted call for the same ``out`` are not repeated unless something that they
    depend on changed: weights, images, options, or this package.

    Raises:
        StepError: a step failed; the message has its name, and an old bundle is unchanged.
        ConfigError: ``out`` exists and is not a bundle, the opset does not exist, or the target has formats that no
            INT8 file holds.
    """
    out = options.out.absolute()
    if options.opset is not None:
        require_opset(options.opset)
    require_writable(target)
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
    for note in run.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    candidates = prepare_candidates(options, target, run, steps, console)
    reference = candidates.asked.reference
    evaluator = steps.run(
        "read validation images", None, lambda: run.evaluator(options.images, reference=reference), value=False
    )
    split = split_hash(evaluator)
    scored = compare(candidates, evaluator, split, steps, options.keep_recipe)
    if scored.reason:
        console.print(f"warning {scored.reason}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    prepared = scored.prepared
    high_precision = _choose(options, target, run, prepared, split, steps)
    spec = FileSpec.of(prepared.interface, opset_for(target) if options.opset is None else options.opset)
    written = write_artifacts(prepared, high_precision.layers, spec, steps)
    folder = work / BUNDLE
    table = table_step(options.decode_table, prepared, run.network.codec.host, folder, written, steps)
    if table is not None:
        interface = prepared.interface
        prepared = dataclasses.replace(
            prepared, interface=dataclasses.replace(interface, table=table.codec(interface.codec))
        )
    written = write_decoding(prepared, written, table, steps)
    findings = steps.run("check operators", None, lambda: _check(folder, written, target, options), value=False)
    fitted_on = (options.decode_table,) if isinstance(options.decode_table, Backend) else ()
    backends = tuple(dict.fromkeys((*options.backends, *fitted_on)))  # what the table does is scored in any case
    verified = verify(backends, evaluator, scored, prepared, folder, written, high_precision.layers, steps, table)
    assert run.data.val is not None  # scores are those of its images
    verified["split_images"] = len(run.data.val)
    opsets = {kind: opset_of(read_onnx(folder / name, weights=False)) for kind, name in written.items()}
    manifest = {"opset": spec.opset, "opsets": opsets, **_manifest(options, target, prepared, written, folder)}
    passes = [
        (each.name, report.summary) for each, report in zip(prepared.recipe.passes, prepared.reports, strict=True)
    ]
    config = config_of(options.checkpoint, options.config)
    results = Results(
        _title(config, run, target),
        manifest,
        scored,
        steps.run("score the teacher", None, lambda: _teacher(config, run, evaluator), value=False),
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
    manifest["comparison"] = scored.to_dict()
    manifest["verdict"] = steps.run(
        "write report", None, lambda: write_results(folder, results, prepared, run, evaluator), value=False
    )
    lines = table_lines(table, verified["rows"])
    manifest["metrics"] = {**verified, **({"decode_table": lines} if lines else {})}
    manifest["steps_seconds"] = {**steps.seconds}
    manifest["peak_memory_mb"] = peak_memory_mb()
    steps.run("write manifest", None, lambda: write_manifest(folder, manifest), value=False)
    steps.run("put the bundle in place", None, lambda: put_in_place(folder, out), value=False)
    shutil.rmtree(work, ignore_errors=True)
    return load_bundle(out)


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


def _title(config: Path, run: LoadedRun, target: NpuTarget) -> str:
    """Network, data and target, for the title of the report."""
    data = run.data.val
    root = getattr(data, "root", None)
    where = type(data).__name__ if root is None else Path(root).name
    return f"{network_title(config)}, {run.network.codec.host}, on {where}, for {target.name}"


def _teacher(config: Path, run: LoadedRun, evaluator: Evaluator) -> dict[str, float] | str:
    """Metrics of the teacher of a student, or why there are none."""
    teacher = teacher_of(config, run)
    if isinstance(teacher, str):
        return teacher
    return evaluator.with_codec(teacher.network.codec)(teacher.network.to(run.device))


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
