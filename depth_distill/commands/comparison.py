"""A file of a bundle against its reference: run on a tool chain, or layer by layer as a device dumped it."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from depth_distill.atomic import atomic_path, write_json
from depth_distill.codecs.table_fit import deviations
from depth_distill.commands.device_options import reading_of
from depth_distill.display.charts import drift_bars
from depth_distill.display.console import wide_console
from depth_distill.display.pictures import save_figure
from depth_distill.errors import ConfigError, DataError
from depth_distill.export.backends.backends import find_backend
from depth_distill.export.backends.layer_runner import LayerRunner
from depth_distill.export.bundle.bundle import INTEGER_KINDS, Bundle, load_bundle
from depth_distill.export.compare.drift import Drift, DriftStatistics, output_drift
from depth_distill.export.compare.dumps import DumpFolder, dump_names
from depth_distill.export.device.calibration import CalibrationOutputs
from depth_distill.export.device.through_table import ThroughTable, through_table
from depth_distill.export.interface.calibration_set import read_calibration_set
from depth_distill.export.onnx_io.layers import layers_of
from depth_distill.loading.onnx_importer.files import read_onnx
from depth_distill.loading.trained import load_run


def compare(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run, compare, print and write; 1 if the drift is too large."""
    console = wide_console()
    bundle = load_bundle(options.bundle)
    if options.backend is not None:
        return _on_backend(options, overrides, bundle, console)
    if overrides:
        raise ConfigError(f"unknown options {' '.join(overrides)}; see --help")
    if options.device_outputs is not None:
        return _of_device(options, bundle, console)
    model = bundle.artifact(options.artifact)
    layers = [each for each in layers_of(read_onnx(model)) if each.activation is None]
    runner = LayerRunner(model, layers)
    every = read_calibration_set(bundle.calibration)
    images = every[: options.images]
    if options.dump_reference is not None:
        files = dump_names([each.name for each in layers])
        for index, image in enumerate(images):
            for name, values in runner.layer_outputs(image[None]).items():
                with atomic_path(options.dump_reference / f"{index:04d}" / f"{files[name]}.npy") as temporary:
                    np.save(temporary, values, allow_pickle=False)
        console.print(f"{len(layers)} layers of {len(images)} images written to {options.dump_reference}")
        return 0
    dumps = DumpFolder(options.dumps, layers, options.dump_dtype, options.dump_layout)
    drifts = _of_dumps(dumps, runner, images, len(every))
    title = f"{options.dumps} against {options.artifact} of {options.bundle}"
    beyond = [name for name, drift in drifts.items() if drift.relative > options.max_mean_drift]
    console.print(_table(title, drifts))
    verdict = f"drift begins at {beyond[0]}" if beyond else "every layer is within tolerance"
    console.print(f"{verdict} (mean drift {options.max_mean_drift:g} of the layer's range)", soft_wrap=True)
    if options.out is not None:
        rows = [(name, drift.relative, drift.sqnr_db) for name, drift in drifts.items()]
        save_figure(drift_bars(rows, title), options.out / "test_npu.png")
    _write(options, {"layers": {name: drift.to_dict() for name, drift in drifts.items()}, "beyond": beyond})
    return int(bool(beyond))


def _on_backend(options: argparse.Namespace, overrides: Sequence[str], bundle: Bundle, console: Console) -> int:
    backend = find_backend(options.backend)
    if options.quantize and options.artifact != "float":
        raise ConfigError("--quantize goes with --artifact float: the other files have their scales already")
    model = bundle.artifact(options.artifact)
    evaluator = None
    if options.checkpoint is not None:
        evaluator = load_run(options.checkpoint, options.config, overrides).evaluator(options.images)
        images = bundle.input.prepare(torch.cat(list(evaluator.images))).numpy()
    elif overrides:
        raise ConfigError(f"unknown options {' '.join(overrides)}: data options go with --checkpoint")
    else:
        images = read_calibration_set(bundle.calibration)[: options.images]
    of_recipe = dict(each.partition("=")[::2] for each in options.option)
    ran = backend.run(model, images, bundle.calibration if options.quantize else None, of_recipe)
    reference = find_backend("onnxruntime").run(model, images, options={"optimize": "0"}, repeats=0)
    drifts = judged = output_drift(reference.outputs, ran.outputs)
    behind_table = None
    if bundle.table is not None and (options.quantize or options.artifact in INTEGER_KINDS):
        behind_table = through_table(bundle, images, ran.outputs, reference.outputs)
        judged = behind_table.drifts
        drifts = {**drifts, **judged}
    title = f"{options.artifact} on {backend.title} {ran.version}, {len(images)} images"
    console.print(_table(title, drifts))
    for note in ran.notes:
        console.print(note, style="dim", highlight=False, soft_wrap=True)
    if ran.milliseconds is not None:
        console.print(f"{ran.milliseconds:.2f} ms per image", highlight=False)
    values: dict[str, object] = {"title": title, "outputs": {name: drift.to_dict() for name, drift in drifts.items()}}
    if evaluator is not None:
        plain, through = (
            evaluator.of_depth(torch.from_numpy(bundle.decode(ran.outputs, kind)))["abs_rel"]
            for kind in ("float", "int8" if behind_table is not None else "float")
        )
        change = f"{plain:.4f} -> {through:.4f} through the decode table" if behind_table else f"{plain:.4f}"
        console.print(f"abs_rel {change}, {evaluator.protocol}", highlight=False, soft_wrap=True)
        values |= {"abs_rel": through, **({"abs_rel_without_table": plain} if behind_table else {})}
    return _judge(options, values, behind_table, judged, console)


def _of_device(options: argparse.Namespace, bundle: Bundle, console: Console) -> int:
    """What a device returned for the calibration images, against the float file."""
    if options.device_unit == "metres":
        raise ConfigError("npu-compare compares codes: for depth in metres, take depth-distill fit-decoder")
    every = read_calibration_set(bundle.calibration)
    run = find_backend("onnxruntime").run
    exact = run(bundle.artifact("float"), every, options={"optimize": "0"}, repeats=0).outputs
    height, width = next(iter(exact.values())).shape[-2:]
    returned = CalibrationOutputs(options.device_outputs, reading_of(options))
    said = returned.outputs(bundle.layout, len(every), (height, width))
    title = f"{options.device_outputs} against the float file, {len(every)} images"
    drifts = judged = output_drift(exact, said)
    behind_table = None
    if bundle.table is not None and options.artifact in INTEGER_KINDS:
        behind_table = through_table(bundle, every, said, exact)
        judged = behind_table.drifts
        drifts = {**drifts, **judged}
    console.print(_table(title, drifts))
    values: dict[str, object] = {"title": title, "outputs": {name: drift.to_dict() for name, drift in drifts.items()}}
    if behind_table is None:
        apart = deviations(bundle.decode(said, "float"), bundle.decode(exact, "float"))
        console.print(f"depth, from that of the float file: {apart}, without decode table", highlight=False)
        values["deviation"] = asdict(apart)
    return _judge(options, values, behind_table, judged, console)


def _judge(
    options: argparse.Namespace,
    values: dict[str, object],
    behind_table: ThroughTable | None,
    judged: dict[str, Drift],
    console: Console,
) -> int:
    if behind_table is not None:
        console.print(behind_table.line, highlight=False, soft_wrap=True)
        values["decode_table"] = behind_table.to_dict()
    _write(options, values)
    beyond = [name for name, drift in judged.items() if drift.mean > options.max_mean_drift]
    verdict = f"too far off: {', '.join(beyond)}" if beyond else "within tolerance"
    console.print(f"{verdict} (mean drift {options.max_mean_drift:g})", highlight=False)
    return int(bool(beyond))


def _write(options: argparse.Namespace, values: dict[str, object]) -> None:
    for file in (options.out and options.out / "test_npu.json", options.json):
        if file is not None:
            write_json(file, values)


def _of_dumps(dumps: DumpFolder, runner: LayerRunner, images: NDArray[np.generic], count: int) -> dict[str, Drift]:
    """Drift of each dumped layer, in the order of the graph; ``count`` is the number of calibration images."""
    unknown = [index for index in dumps.images if index >= count]
    if unknown:
        raise DataError(
            f"{dumps.folder / f'{unknown[0]:04d}'} is of no image: the bundle has {count} calibration images, 0000 to "
            f"{count - 1:04d}"
        )
    numbers = [index for index in dumps.images if index < len(images)]
    if not numbers:
        raise DataError(f"there are dumps of images {dumps.images}, but --images is {len(images)}")
    gathered: dict[str, DriftStatistics] = {}
    for index in numbers:
        expected = runner.layer_outputs(images[index][None])
        for layer in runner.layers:
            found = dumps.read(index, layer, expected[layer.name].shape)
            if found is not None:
                statistics = gathered.setdefault(layer.name, DriftStatistics(f"layer {layer.name}"))
                statistics.add(expected[layer.name], found)
    return {layer.name: gathered[layer.name].drift() for layer in runner.layers if layer.name in gathered}


def _table(title: str, drifts: dict[str, Drift]) -> Table:
    table = Table(title=title)
    table.add_column("tensor")
    for heading in ("mean", "median", "p99", "p99.9", "max", "SQNR [dB]", "mean / range"):
        table.add_column(heading, justify="right")
    for name, drift in drifts.items():
        cells = (drift.mean, drift.p50, drift.p99, drift.p999, drift.max)
        table.add_row(name, *(f"{cell:.5f}" for cell in cells), f"{drift.sqnr_db:.1f}", f"{drift.relative:.5f}")
    return table
