"""Post-training quantization by a vendor's tool chain, represented by ONNX Runtime's quantizer."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor, nn

from depth_distill.atomic import atomic_path
from depth_distill.errors import DataError
from depth_distill.export.backends.runtime import OnnxFile, as_input, input_of
from depth_distill.export.onnx_io.edits import to_opset
from depth_distill.export.onnx_io.file_spec import OUTPUT_NAME, FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.substitution import substitute_operators, unwritable
from depth_distill.loading.onnx_importer.files import opset_of, read_onnx
from depth_distill.quantization.target.target import NpuTarget

_TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
_FORMATS: dict[str, Any] = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}

_OLDEST = 13  # opset of its files


def vendor_ptq(
    float_onnx: Path,
    batches: Iterable[Tensor],
    path: Path,
    per_channel: bool = False,
    target: NpuTarget | None = None,
    substitutions: Mapping[str, str] | None = None,
) -> Path:
    """ONNX Runtime's ``quantize_static``: QDQ, min/max, one scale per tensor, uint8 activations, int8 weights.

    abs_rel after this PTQ is the main result of this project, because it does not depend on the package's own fake
    quantization.

    Args:
        float_onnx: any float file with one input and a batch of 1, such as that of ``export_float``.
        batches: inputs for calibration, ``(B, ...)``, as the file takes them; each is read once.
        path: path of the new file, which is written completely or not at all.
        per_channel: whether weights have one scale per output channel, as most current NPUs support; for reference.
        target: formats to use in place of these; one of which :func:`inexpressible` says nothing.
        substitutions: what is computed in place of which operator; those of the target unless given. They are made in
            the file before it is calibrated, as a tool chain makes them when it reads the file.

    Raises:
        ConfigError: the file has several inputs, or ONNX has no operator for a substitution.
        DataError: there are no calibration images.
    """
    model = read_onnx(float_onnx)
    reader = _Reader(float_onnx, batches, *input_of(float_onnx, model))
    formats = _formats(target) if target is not None else dict(_FORMATS, per_channel=per_channel)
    # Older ones have no scale per channel, and it would call Upsample an operator of opset 11.
    newer = to_opset(model, _OLDEST) if opset_of(model) < _OLDEST else model
    if substitutions is None:
        substitutions = {} if target is None else target.substitutions  # with its "no", which may spare gates
    given = substitute_operators(newer, substitutions) if substitutions else float_onnx if newer is model else newer
    with atomic_path(path) as temporary:
        # It advises a pre-processing step that does nothing for a folded network with static shapes.
        root, level = logging.getLogger(), logging.getLogger().level
        root.setLevel(logging.ERROR)
        try:
            quantize_static(
                given,
                temporary,
                reader,
                quant_format=QuantFormat.QDQ,
                calibrate_method=CalibrationMethod.MinMax,
                **formats,
            )
        except ValueError as error:
            if not reader.count:
                raise DataError("the calibration set is empty: expected at least one image") from error
            raise
        finally:
            root.setLevel(level)
    return path


def inexpressible(target: NpuTarget) -> str | None:
    """Why ONNX Runtime's quantizer cannot stand for the tool chain of a target; None if it can."""
    if target.weights.power_of_two or target.activations.power_of_two:
        return "its scales are powers of two"
    for kind, each in (("weights", target.weights), ("activations", target.activations)):
        if each.dtype not in _TYPES:
            return f"its {kind} are {each.dtype}"
    if target.dtypes:
        return f"it has dtypes of their own for {', '.join(target.dtypes)}"
    if target.calibrator != "minmax":
        return f"its calibrator is {target.calibrator}"
    if target.shared_scales:
        return f"it ties scales of {' and '.join(target.shared_scales)}"
    return unwritable(target.substitutions)


def _formats(target: NpuTarget) -> dict[str, Any]:
    return {
        "per_channel": target.weights.granularity == "per_channel",
        "activation_type": _TYPES[target.activations.dtype],
        "weight_type": _TYPES[target.weights.dtype],
        "extra_options": {
            "ActivationSymmetric": target.activations.symmetric,
            "WeightSymmetric": target.weights.symmetric,
        },
    }


def vendor_network(
    network: nn.Module,
    batches: Sequence[Tensor],
    folder: Path,
    per_channel: bool = False,
    output_names: Sequence[str] = (OUTPUT_NAME,),
    substitutions: Mapping[str, str] | None = None,
    target: NpuTarget | None = None,
) -> OnnxFile:
    """A float network after vendor PTQ: exported, quantized by :func:`vendor_ptq`, and ready to run, by output name.

    Args:
        network: float network with batch norm folded.
        batches: normalized calibration images ``(B, 3, H, W)``.
        folder: folder for ``float.onnx`` and ``vendor.onnx``.
        per_channel: see :func:`vendor_ptq`.
        output_names: name of each tensor that the network returns.
        substitutions: see :func:`vendor_ptq`; none unless given.
        target: see :func:`vendor_ptq`.

    Raises:
        ConfigError: ONNX has no operator for a substitution, see
            :func:`~depth_distill.export.onnx_io.substitution.unwritable`.
        DataError: there are no calibration images.
    """
    if not batches:
        raise DataError("the calibration set is empty: expected at least one image")
    spec = FileSpec.like(batches[0][:1], output_names=output_names)
    float_file = export_float(network, folder / "float.onnx", spec)
    path = folder / "vendor.onnx"
    return OnnxFile(vendor_ptq(float_file, batches, path, per_channel, target, substitutions or {}))


class _Reader(CalibrationDataReader):
    """Yields one image at a time, because the file has a static batch of 1."""

    def __init__(self, title: Path, batches: Iterable[Tensor], name: str, dtype: torch.dtype) -> None:
        self.count, self.title, self.name, self.dtype = 0, title, name, dtype
        self.images: Iterator[Tensor] = (image for batch in batches for image in batch)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.images, None)
        if image is None:
            return None
        self.count += 1
        value = as_input(image[None], self.dtype, f"{self.title}: the input {self.name!r}")
        return {self.name: value.numpy()}
