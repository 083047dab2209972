"""ONNX files as networks, so that the same code evaluates a checkpoint and a file."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from depth_distill.errors import ConfigError
from depth_distill.export.onnx_io.edits import with_own_zero_points
from depth_distill.quantization.interface import INPUT_NAME, InputLayout, OutputLayout

_SHARED = "replace the existing tensor"  # of an error where two weights share a zero point
_DTYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
}


class OnnxNetwork:
    """Runs an ONNX file on the CPU: images ``(B, 3, H, W)`` to codes ``(B, C, H, W)``, one image at a time.

    Args:
        path: ONNX file with the input ``image`` and a static batch of 1.
        optimize: whether ONNX Runtime fuses operators, which turns QDQ pairs into integer arithmetic.
        threads: number of threads of ONNX Runtime; 0 is one per core.
        inputs: layout of the input; normalized images unless given.
        outputs: layout of the outputs; codes as the first output unless given.

    Raises:
        ConfigError: the file does not exist, ONNX Runtime refuses it, or it is called with images of another size.
    """

    def __init__(
        self,
        path: Path,
        optimize: bool = True,
        threads: int = 0,
        inputs: InputLayout | None = None,
        outputs: OutputLayout | None = None,
    ) -> None:
        if not path.is_file():
            raise ConfigError(f"{path} does not exist")
        self.session = open_session(path, session_options(optimize, threads), path)
        self.path = path
        self.inputs = inputs
        self.outputs = outputs
        self.image_size: tuple[int, int] = tuple(self.session.get_inputs()[0].shape[-2:])

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
        runs = [self.session.run(None, {INPUT_NAME: each[None].cpu().numpy()}) for each in feeds]
        together = [torch.cat([torch.from_numpy(run[position]) for run in runs]) for position in range(len(runs[0]))]
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
        self.input_name, self.dtype = only_input(path)
        self.session = open_session(path, session_options(optimize, threads), path)
        self.output_names: tuple[str, ...] = tuple(each.name for each in self.session.get_outputs())

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        """Every output for inputs ``(B, ...)``, one sample's behind the other's."""
        feeds = [{self.input_name: each[None].to(self.dtype).cpu().numpy()} for each in batch]
        runs = [self.session.run(None, feed) for feed in feeds]
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
    if not path.is_file():
        raise ConfigError(f"{path} does not exist")
    graph = onnx.load(path, load_external_data=False).graph
    stored = {each.name for each in graph.initializer}  # old files list these as inputs, too
    inputs = [each for each in graph.input if each.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise ConfigError(f"{path} has {len(inputs)} inputs ({names}), expected one")
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in _DTYPES:
        raise ConfigError(f"{path}: the input {inputs[0].name!r} is of type {onnx.TensorProto.DataType.Name(kind)}")
    return inputs[0].name, _DTYPES[kind]


def session_options(optimize: bool = True, threads: int = 0) -> onnxruntime.SessionOptions:
    """Options of a session that prints errors only.

    Args:
        optimize: whether ONNX Runtime fuses operators; otherwise it runs them one by one, as written in the file.
        threads: number of threads of ONNX Runtime; 0 is one per core.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Without it, x64 CPUs without VNNI saturate sums of uint8 x int8 products at 16 bits, which an NPU does not.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_session(model: Path | bytes, options: onnxruntime.SessionOptions, title: Path) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Args:
        model: ONNX file, or the content of one.
        options: see :func:`session_options`.
        title: path of the model for the error message.

    Raises:
        ConfigError: ONNX Runtime refuses the model.
    """
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        if _SHARED in str(error) and not isinstance(model, bytes):
            return open_session(with_own_zero_points(onnx.load(model)).SerializeToString(), options, title)
        raise ConfigError(f"ONNX Runtime cannot load {title}: {error}") from error
