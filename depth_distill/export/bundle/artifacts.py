"""The files of a bundle: networks, decoders, calibration images, encodings and runners."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx

from depth_distill.atomic import write_json
from depth_distill.codecs import HostCodec, describe_codec
from depth_distill.export.backends.backends import RUNNERS
from depth_distill.export.bundle.decode_table import DecodeTable, integers_of, write_bundle_decoders
from depth_distill.export.bundle.steps import StepRunner, tensor_hash
from depth_distill.export.interface.calibration_set import write_calibration_set
from depth_distill.export.onnx_io.encodings import aimet_encodings, scales
from depth_distill.export.onnx_io.file_spec import OPSET, FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.half import export_half, export_mixed
from depth_distill.export.onnx_io.metric_onnx import append_decoder, export_with_decoder
from depth_distill.export.onnx_io.opsets.rewriting import OpsetError
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.quantization.analysis.mixed_precision import mixed_network
from depth_distill.quantization.interface import INPUT_NAME, OutputLayout
from depth_distill.quantization.preparation import Prepared

BUNDLE = "bundle"
"""The new bundle, inside the folder of the steps."""
METRIC_INT8 = "model.metric_int8.onnx"


def write_artifacts(
    prepared: Prepared, high_precision_layers: Sequence[str], spec: FileSpec, steps: StepRunner
) -> dict[str, str]:
    """Write everything but the decoders, the manifest and the report.

    What the target's tool chain reads has the opset of the spec, or is refused. A file for hosts or for comparison
    that this opset cannot express has the oldest one that can.

    Args:
        prepared: the network that a recipe prepared.
        high_precision_layers: layers of the mixed file in FP16; without any, there is no mixed file.
        spec: input, outputs and opset of the files.
        steps: runs the writing of each file as one step.

    Returns:
        Names of the network files by kind: ``float``, ``int8``, ``fp16``, ``mixed`` (if there are FP16 layers) and
        ``metric``.

    Raises:
        StepError: a file cannot be written; the message has its name.
    """
    folder = steps.folder / BUNDLE
    codec, outputs = prepared.interface.codec, prepared.interface.outputs
    description = describe_codec(codec)
    floats = [prepared.fingerprint, spec.opset]
    integers = [*floats, prepared.scales]
    chosen = list(high_precision_layers)
    kinds: dict[str, tuple[list[Any], Callable[[Path, FileSpec], object]]] = {
        "float": (floats, lambda path, form: export_float(prepared.graph, path, form)),
        "int8": (integers, lambda path, form: export_qdq(prepared.quantized, path, form)),
        "fp16": (floats, lambda path, form: export_half(folder / "model.float.onnx", path)),
        "mixed": ([*integers, chosen], lambda path, form: export_mixed(_mixed(prepared, chosen), chosen, path, form)),
        "metric": (
            [*floats, description],
            lambda path, form: export_with_decoder(prepared.graph, codec, outputs, path, form),
        ),
    }
    written = {kind: f"model.{kind}.onnx" for kind in kinds if kind != "mixed" or chosen}
    imports_scales = prepared.context.target.scales == "imported"
    strict = {"float", "fp16"} | ({"int8", "mixed"} if imports_scales else set())
    for kind, name in written.items():
        depends_on, make = kinds[kind]
        newest = spec.opset if kind in strict else max(spec.opset, OPSET)
        why = steps.run(
            f"write {name}",
            depends_on,
            partial(write_at_oldest, make, folder / name, spec, newest),
            [f"{BUNDLE}/{name}"],
        )
        if why:
            steps.console.print(f"       {why}", style="dim", highlight=False, soft_wrap=True)
    kept = {*written.values(), METRIC_INT8}  # see write_decoding
    for leftover in set(folder.glob("model.*.onnx")) - {folder / name for name in kept}:
        leftover.unlink()
    steps.run(
        "write calibration images",
        [[tensor_hash(each) for each in prepared.context.images], prepared.interface.inputs.to_dict()],
        lambda: _write_calibration(prepared, folder / "calibration"),
        [f"{BUNDLE}/calibration"],
    )
    steps.run(
        "write encodings",
        integers,
        lambda: write_json(folder / "encodings.json", aimet_encodings(folder / written["int8"])),
        [f"{BUNDLE}/encodings.json"],
    )
    steps.run("write runners", None, lambda: _write_runners(folder), value=False)
    return written


def write_decoding(
    prepared: Prepared, written: Mapping[str, str], table: DecodeTable | None, steps: StepRunner
) -> dict[str, str]:
    """Write ``decode.py`` and ``decode.h``, and with a decode table also the INT8 network that has it inside.

    Args:
        prepared: the network that a recipe prepared, with the table in its interface.
        written: names of the network files by kind.
        table: what was fitted; None where no table was asked for.
        steps: runs the writing of each file as one step.

    Returns:
        ``written``, and ``metric_int8`` where there is a table and the opset of the file can express it.
    """
    folder, interface = steps.folder / BUNDLE, prepared.interface
    codec, found, layout = interface.codec, interface.table, interface.outputs
    depends_on = [describe_codec(interface.device_codec), str(layout), prepared.fingerprint, prepared.scales]
    names = [f"{BUNDLE}/{name}.{suffix}" for name in ("decode", "decode_float")[: 1 if found is None else 2]
             for suffix in ("py", "h")]  # fmt: skip
    integers = integers_of(scales(folder / written["int8"]), layout)
    source = "" if table is None else table.source
    steps.run(
        "write decoders",
        [*depends_on, source],
        partial(_write, lambda path: write_bundle_decoders(codec, found, layout, path, integers, source), folder),
        names,
    )
    if found is None:
        (folder / METRIC_INT8).unlink(missing_ok=True)
        return dict(written)
    why = steps.run(
        f"write {METRIC_INT8}",
        depends_on,
        lambda: write_metric_int8(folder / written["int8"], interface.device_codec, layout),
        [f"{BUNDLE}/{METRIC_INT8}"],
    )
    if why:
        steps.console.print(f"       {why}", style="dim", highlight=False, soft_wrap=True)
        return dict(written)
    return {**written, "metric_int8": METRIC_INT8}


def write_metric_int8(int8: Path, codec: HostCodec, layout: OutputLayout) -> str:
    """Write the INT8 network with its decoder beside the INT8 file.

    Returns:
        Why that is not possible; empty if it was.
    """
    try:
        append_decoder(int8, codec, layout, int8.with_name(METRIC_INT8))
    except OpsetError as error:
        int8.with_name(METRIC_INT8).unlink(missing_ok=True)
        return f"left out: {error}"
    return ""


def write_at_oldest(make: Callable[[Path, FileSpec], object], path: Path, spec: FileSpec, newest: int) -> str:
    """Write a file with the opset of the spec, or with the next one that can express it.

    Args:
        make: writes the file for a spec.
        path: path of the file.
        spec: input, outputs and the opset to begin with.
        newest: newest opset to try.

    Returns:
        Why the file has a newer opset; empty if it has that of the spec.

    Raises:
        OpsetError: no opset up to ``newest`` can express the file.
    """
    why, opset = "", spec.opset
    while True:
        try:
            make(path, replace(spec, opset=opset))
        except OpsetError as error:
            if error.needed > newest:
                raise
            opset = max(error.needed, opset + 1)
            why = f"written with opset {opset}: {error}"
        else:
            return why


def _mixed(prepared: Prepared, layers: Sequence[str]) -> fx.GraphModule:
    return mixed_network(prepared.quantized, layers, prepared.batches, calibrator=prepared.context.chosen_calibrator)


def _write_calibration(prepared: Prepared, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    images, inputs = torch.cat([each.cpu() for each in prepared.context.images]), prepared.interface.inputs
    write_calibration_set(inputs.prepare(images).numpy(), inputs.pixels(images).numpy(), INPUT_NAME, folder)


def _write_runners(folder: Path) -> None:
    shutil.rmtree(folder / "runners", ignore_errors=True)
    (folder / "runners").mkdir()
    for each in sorted(RUNNERS.iterdir()):
        if each.is_file():
            shutil.copyfile(each, folder / "runners" / each.name)  # not its mode: the bundle's follows the umask


def _write(make: Callable[[Path], object], path: Path) -> None:
    make(path)
