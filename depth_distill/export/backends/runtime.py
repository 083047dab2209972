"""ONNX files as networks, so that the same code evaluates a checkpoint and a file."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from depth_distill.errors import ConfigError, DataError
from depth_distill.export.onnx_io.edits import with_own_zero_points
from depth_distill.loading.onnx_importer.files import TORCH_TYPES, declared_inputs, read_onnx
from depth_distill.loading.onnx_importer.session import open_session, run_session, session_options
from depth_distill.quantization.interface import InputLayout, OutputLayout

_SHARED = "replace the existing tensor"  # of an error where two weights share a zero point


class OnnxNetwork:
    """Runs an ONNX file on the CPU: images ``(B, 3, H, W)`` to codes ``(B, C, H, W)``, one image at a time.

    Args:
        path: ONNX file with one input, an image, and a static batch of 1.
        optimize: whether ONNX Runtime fuses operators, which turns QDQ pairs into integer arithmetic.
        threads: number of threads of ONNX Runtime; 0 is one per core.
        inputs: layout of the input; normalized images unless given.
        outputs: layout of the outputs; codes as the first output unless given.

    Raises:
        ConfigError: the file does not exist, ONNX Runtime refuses it, it does not take one image, or it is called with
            images of another size.
        DataError: when it is called: an output has NaN or infinity.
    """

    def __init__(
        self,
        path: Path,
        optimize: bool = True,
        threads: int = 0,
        inputs: InputLayout | None = None,
        outputs: OutputLayout | None = None,
    ) -> None:
        self.session = open_file(path, session_options(optimize, threads))
        self.path = path
        self.inputs = inputs
        self.outputs = outputs
        taken = [(each.name, each.shape) for each in self.session.get_inputs()]
        if len(taken) != 1 or len(taken[0][1]) != 4:
            shapes = ", ".join(f"{name} {shape}" for name, shape in taken) or "nothing"
            raise ConfigError(f"{path} takes {shapes}, expected one image [1, 3, H, W]")
        self.input_name: str = taken[0][0]
        self.image_size: tuple[int, int] = tuple(taken[0][1][2:])

    def __call__(self, image: Tensor) -> Tensor:
        """Codes of normalized images, computed on the CPU."""
        if tuple(image.shape[-2:]) != self.image_size:
            raise ConfigError(
                f"{self.path} takes images of {self.image_size[0]} x {self.image_size[1]} (H x W), "
                f"received {image.shape[-2]} x {image.shape[-1]}"
            )
        feeds = image if self.inputs is None else self.inputs.prepare(image.cpu())
        if feeds.is_floating_point():
            feeds = feeds.float()
        runs = [run_session(self.session, {self.input_name: each[None].cpu().numpy()}, self.path) for each in feeds]
        together = [torch.cat([torch.from_numpy(run[position]) for run in runs]) for position in range(len(runs[0]))]
        for output, values in zip(self.session.get_outputs(), together, strict=True):
            wrong = values.numel() - int(values.isfinite().sum())
            if wrong:
                raise DataError(f"{self.path}: {wrong} of {values.numel()} values of {output.name!r} are not finite")
        return together[0] if self.outputs is None else self.outputs.codes(together)


class OnnxFile:
    """Runs any ONNX file with one input on the CPU, one sample at a time: every output by its name.

    Args:
        path: ONNX file; its batch is 1 or dynamic.
        optimize: whether ONNX Runtime fuses operators, which turns QDQ pairs into integer arithmetic.
        threads: number of threads of ONNX Runtime; 0 is one per core.

    Raises:
        ConfigError: the file does not exist, has several inputs, or ONNX Runtime refuses it.
    """

    def __init__(self, path: Path, optimize: bool = True, threads: int = 0) -> None:
        model = read_onnx(path, weights=False)  # its weights are looked for in its folder only
        self.input_name, self.dtype = input_of(path, model)
        self.path = path
        self.session = _session_of(path, session_options(optimize, threads))
        self.output_names: tuple[str, ...] = tuple(each.name for each in self.session.get_outputs())

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        """Every output for inputs ``(B, ...)``, one sample's behind the other's."""
        values = as_input(batch, self.dtype, f"{self.path}: the input {self.input_name!r}")
        runs = [run_session(self.session, {self.input_name: each[None].numpy()}, self.path) for each in values]
        columns = zip(*runs, strict=True)
        return {
            name: torch.cat([torch.from_numpy(np.atleast_1d(value)) for value in values])
            for name, values in zip(self.output_names, columns, strict=True)
        }


def only_input(path: Path) -> tuple[str, torch.dtype]:
    """Name and type of the one input of an ONNX file.

    Raises:
        ConfigError: the file does not exist, or its input is not one tensor of numbers.
    """
    return input_of(path, read_onnx(path, weights=False))


def input_of(path: Path, model: onnx.ModelProto) -> tuple[str, torch.dtype]:
    """As :func:`only_input`, of a file that was read."""
    inputs = declared_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise ConfigError(f"{path} has {len(inputs)} inputs ({names}), expected one")
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in TORCH_TYPES:
        name = onnx.TensorProto.DataType.Name(kind).lower()
        raise ConfigError(f"{path}: the input {inputs[0].name!r} is of type {name}, expected float, double or integers")
    return inputs[0].name, TORCH_TYPES[kind]


def as_input(values: Tensor, dtype: torch.dtype, title: str) -> Tensor:
    """Values on the CPU in the type of an input: floats rounded to its width, or whole numbers that it can hold.

    Raises:
        ConfigError: an input of integers would lose what is given, such as pixels in [0, 1].
    """
    converted = values.to("cpu", dtype)
    if not dtype.is_floating_point and not torch.equal(converted.to(values.dtype), values.cpu()):
        wanted = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"{title} is {wanted}, received values from {values.min().item():.4g} to {values.max().item():.4g} that "
            f"{wanted} cannot hold: give whole numbers in its range, such as pixels from 0 to 255"
        )
    return converted


def open_file(path: Path, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    """A session of a file on the CPU.

    Args:
        path: ONNX file.
        options: see :func:`~depth_distill.loading.onnx_importer.session.session_options`.

    Raises:
        ConfigError: the file cannot be read, or ONNX Runtime refuses it.
    """
    read_onnx(path, weights=False)  # its weights are looked for in its folder only
    return _session_of(path, options)


def _session_of(path: Path, options: onnxruntime.SessionOptions | None) -> onnxruntime.InferenceSession:
    try:
        return open_session(path, path, options)
    except ConfigError as error:
        if _SHARED not in str(error.__cause__):
            raise
        return open_session(with_own_zero_points(read_onnx(path)).SerializeToString(), path, options)
