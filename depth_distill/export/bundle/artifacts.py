"""The files of a bundle: networks, decoders, calibration images, encodings and recipes."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from depth_distill.atomic import write_json
from depth_distill.codecs import HostCodec, describe_codec
from depth_distill.export.backends.backends import RECIPES
from depth_distill.export.bundle.preparation import Prepared, tensor_hash
from depth_distill.export.bundle.steps import Steps
from depth_distill.export.interface.calibration_set import write_calibration_set
from depth_distill.export.interface.decoders import write_decoders
from depth_distill.export.onnx_io.encodings import aimet_encodings
from depth_distill.export.onnx_io.float_onnx import INPUT_NAME, export_float
from depth_distill.export.onnx_io.half import export_half, export_mixed
from depth_distill.export.onnx_io.metric_onnx import export_with_decoder
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.quantization.analysis.mixed_precision import mixed_network

BUNDLE = "bundle"
"""The new bundle, inside the folder of the steps."""


def write_artifacts(
    prepared: Prepared, codec: HostCodec, high_precision_layers: Sequence[str], opset: int, steps: Steps
) -> dict[str, str]:
    """Write everything but the manifest and the report.

    Returns:
        Names of the network files by kind: ``float``, ``int8``, ``fp16``, ``mixed`` (if there are such layers) and
        ``metric``.

    Raises:
        StepError: naming the file.
    """
    folder = steps.folder / BUNDLE
    names, example, uint8 = prepared.outputs.names, prepared.example, prepared.inputs.uint8
    floats = [prepared.fingerprint, opset]
    integers = [*floats, prepared.ranges]
    description = describe_codec(codec)
    written: dict[str, str] = {}

    def write(kind: str, depends_on: list[object], make: Callable[[Path], object]) -> None:
        name = f"model.{kind}.onnx"
        steps.run(f"write {name}", depends_on, lambda: _none(make(folder / name)), [f"{BUNDLE}/{name}"])
        written[kind] = name

    write("float", floats, lambda path: export_float(prepared.graph, example, path, opset, names, uint8))
    write("int8", integers, lambda path: export_qdq(prepared.quantized, example, path, opset, names, uint8))
    write("fp16", floats, lambda path: export_half(folder / written["float"], path))
    if high_precision_layers:
        write(
            "mixed",
            [*integers, list(high_precision_layers)],
            lambda path: export_mixed(
                mixed_network(prepared.quantized, high_precision_layers, prepared.batches, "fp16", prepared.calibrator),
                high_precision_layers,
                example,
                path,
                opset,
                names,
                uint8,
            ),
        )
    write(
        "metric",
        [*floats, description],
        lambda path: export_with_decoder(prepared.graph, codec, prepared.outputs, example, path, opset, uint8),
    )
    for leftover in set(folder.glob("model.*.onnx")) - {folder / name for name in written.values()}:
        leftover.unlink()
    steps.run(
        "write decoders",
        [description, str(prepared.outputs)],
        lambda: _none(write_decoders(codec, prepared.outputs, folder)),
        [f"{BUNDLE}/decode.py", f"{BUNDLE}/decode.h"],
    )
    steps.run(
        "write calibration images",
        [tensor_hash(prepared.calibration), prepared.inputs.to_dict()],
        lambda: _write_calibration(prepared, folder / "calibration"),
        [f"{BUNDLE}/calibration"],
    )
    steps.run(
        "write encodings",
        integers,
        lambda: write_json(folder / "encodings.json", aimet_encodings(folder / written["int8"])),
        [f"{BUNDLE}/encodings.json"],
    )
    steps.run("write recipes", None, lambda: _write_recipes(folder), value=False)
    return written


def _write_calibration(prepared: Prepared, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    tensors = prepared.inputs.prepare(prepared.calibration).numpy()
    pixels = prepared.inputs.pixels(prepared.calibration).numpy()
    write_calibration_set(tensors, pixels, INPUT_NAME, folder)


def _write_recipes(folder: Path) -> None:
    shutil.rmtree(folder / "recipes", ignore_errors=True)
    shutil.copytree(RECIPES, folder / "recipes", ignore=shutil.ignore_patterns("__pycache__"))


def _none(_: object) -> None:
    """What the record of a step keeps of a path."""
