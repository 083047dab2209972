"""Whether a model to write computes what it should, by running it in ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.loading.onnx_importer.files import opset_of
from depth_distill.loading.onnx_importer.session import open_session, run_session, session_options
from depth_distill.quantization.interface import INPUT_NAME

_TOLERANCE = 1e-4  # of the largest value: sums of thousands of float32 products in another order differ by 1e-6 to 1e-5
_SAME = 0.999  # part of the values, where rounding turns the last bit of a sum into a step
_STEPS = ("QuantizeLinear", "Round", "Floor", "Ceil", "Sign", "ArgMax", "ArgMin", "Greater", "Less", "TopK", "Cast")


def require_same_as_network(model: onnx.ModelProto, network: nn.Module, spec: FileSpec, path: Path) -> None:
    """Require the model to compute the same from a random image as the network.

    No value may differ by more than 1e-4 of the largest one; where the model rounds, one in a thousand may.

    Raises:
        ConfigError: they differ, or ONNX Runtime does not run the model; the message has the name of the file.
    """
    image, training = _random_image(spec), network.training
    try:
        with torch.no_grad():
            outputs = network.eval()(image)
    finally:
        network.train(training)
    expected = [each.numpy() for each in ([outputs] if isinstance(outputs, Tensor) else outputs)]
    sizes = [_TOLERANCE * float(np.nanmax(np.abs(each), initial=0)) for each in expected]
    rounds = any(node.op_type in _STEPS for node in model.graph.node)
    _require(_run(model, image, spec, path), expected, sizes, _SAME if rounds else 1.0, spec, path, "the network")


def require_same_codes(older: onnx.ModelProto, model: onnx.ModelProto, spec: FileSpec, path: Path) -> None:
    """Require a QDQ model in an older opset to compute the same codes from a random image, but for ties of rounding.

    At least 99.9 % of the values of each output must be within one step.

    Raises:
        ConfigError: they differ, or ONNX Runtime does not run the model; the message has the name of the file.
    """
    image = _random_image(spec)
    expected = _run(model, image, spec, path)
    sizes = [max(_step(model, name), _TOLERANCE * float(np.abs(each).max(initial=0)))
             for name, each in zip(spec.output_names, expected, strict=True)]  # fmt: skip
    newer = f"the file with opset {opset_of(model)}"
    _require(_run(older, image, spec, path), expected, sizes, _SAME, spec, path, newer)


def _random_image(spec: FileSpec) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if spec.uint8_input:
        return torch.randint(0, 256, spec.example.shape, generator=generator).float()
    return torch.randn(spec.example.shape, generator=generator)


def _run(model: onnx.ModelProto, image: Tensor, spec: FileSpec, path: Path) -> list[np.ndarray]:
    # As written: fused operators would compute something else.
    options, name = session_options(optimize=False, threads=1), f"{path.name} with opset {opset_of(model)}"
    pixels = image.numpy().astype(np.uint8) if spec.uint8_input else image.numpy()
    session = open_session(model.SerializeToString(), name, options)
    return run_session(session, {INPUT_NAME: pixels}, name, spec.output_names)


def _require(
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    sizes: Sequence[float],
    share: float,
    spec: FileSpec,
    path: Path,
    other: str,
) -> None:
    for name, ours, theirs, size in zip(spec.output_names, found, expected, sizes, strict=True):
        if ours.shape != theirs.shape:
            raise ConfigError(f"{path.name}: {name} has the shape {ours.shape}, but {theirs.shape} in {other}")
        with np.errstate(invalid="ignore"):
            distance = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        is_same = (distance <= size * (1 + 1e-6)) | (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        if is_same.mean() < share:
            raise ConfigError(
                f"{path.name}: {name} differs from that of {other} by up to {np.nanmax(distance):.3g} on a random "
                f"image, at most {size:.3g} is allowed; please report this network, or write it with another opset"
            )


def _step(model: onnx.ModelProto, output: str) -> float:
    """Quantization step of an output, 0 where it is not quantized."""
    stored = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if output in node.output and node.op_type == "DequantizeLinear" and node.input[1] in stored:
            return float(numpy_helper.to_array(stored[node.input[1]]).max())
    return 0.0
