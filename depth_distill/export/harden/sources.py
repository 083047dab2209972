"""What is hardened: an ONNX file of anybody's, the checkpoint of a run, or a config, as a graph and a way back."""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import fx, nn

from depth_distill.data.network_inputs import PixelFormat
from depth_distill.errors import ConfigError
from depth_distill.export.backends.runtime import only_input
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.restructured import is_restructured, restructured
from depth_distill.export.onnx_io.write_back import write_back
from depth_distill.loading.onnx_importer import ImportedOnnx, OnnxTensor, import_onnx
from depth_distill.loading.onnx_importer.files import has_external_weights, read_onnx
from depth_distill.loading.trained import LoadedRun, load_network_only
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import InputLayout, Interface
from depth_distill.quantization.passes.fold import fold
from depth_distill.types import ResizeMode

CHECKPOINT, CONFIGS = ".ckpt", (".yaml", ".yml")
_TYPES = (torch.float32, torch.uint8)


@dataclass(frozen=True)
class Source:
    """A network to harden.

    Attributes:
        file: where it comes from.
        network: the network.
        interface: what it takes and returns.
        shape: shape of one input, without the batch.
        takes_uint8: whether the input is pixels, 0 to 255, by its type.
        pixels: how pixels become the input, where the source knows.
        batch: number of samples that are run at once.
        untouched: writes the network as it is, as ONNX.
        write: writes a prepared graph of the network, as ONNX with the same inputs, outputs, names and opset.
        nodes: name of a layer in the ONNX file, by path of its module, where it is another.
        notes: what a person should know about the source.
    """

    file: Path
    network: nn.Module
    interface: Interface
    shape: tuple[int, ...]
    takes_uint8: bool
    pixels: PixelFormat | None
    batch: int
    untouched: Callable[[Path], object]
    write: Callable[[fx.GraphModule, Path], object]
    nodes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def resize_of(source: Source, asked: ResizeMode | None, bundled: InputLayout | None = None) -> ResizeMode:
    """How pictures of another aspect ratio come to the size of the input.

    Args:
        source: the network, which knows it if it is that of a run.
        asked: what an option says; None if nothing.
        bundled: the input of the bundle that the file is in, which knows it too.

    Raises:
        ConfigError: the option is for a network that knows it.
    """
    knows = source.pixels is not None or bundled is not None
    if knows and asked is not None:
        cure = "" if bundled is not None else f", or give --data.resize {asked}"
        raise ConfigError(f"{source.file} knows how its images are resized: leave out --resize{cure}")
    return asked or (bundled or source.interface.inputs).resize


def resize_option(source: Source, bundled: InputLayout | None = None) -> str | None:
    """How a person asks for another mode, in front of its name; None of a bundle, where it is settled."""
    if bundled is not None:
        return None
    return "--resize" if source.pixels is None else "--data.resize"


def open_source(file: Path, size: tuple[int, int] | None = None, overrides: Sequence[str] = ()) -> Source:
    """The network in a file.

    Args:
        file: an ``.onnx`` file, a ``.ckpt`` of a run, or a config.
        size: height and width of the input, for an ONNX file in which they are dynamic.
        overrides: options that change the network of a checkpoint or config.

    Raises:
        ConfigError: the file is none of these, cannot be read, or its network has several inputs or a fixed batch.
    """
    suffix = file.suffix.lower()
    if suffix == ".onnx":
        if overrides:
            raise ConfigError(f"{overrides[0]} is for a checkpoint or a config, and {file} is an ONNX file")
        return _of_onnx(file, size)
    if suffix not in (CHECKPOINT, *CONFIGS):
        raise ConfigError(f"{file}: expected an .onnx file, a {CHECKPOINT} of a run, or a config ({CONFIGS[0]})")
    if size is not None:
        raise ConfigError(f"--size is for an ONNX file with a dynamic size, and {file} has the one of its config")
    return _of_run(file, load_network_only(file, overrides=overrides))


def _of_run(file: Path, run: LoadedRun) -> Source:
    interface = run.interface
    inputs = interface.inputs
    spec = FileSpec.of(interface)

    def write(graph: nn.Module, path: Path) -> object:
        return export_float(graph, path, spec)

    mean, std = ((float(a), float(b), float(c)) for a, b, c in (inputs.mean, inputs.std))
    return Source(
        file,
        run.network,
        interface,
        (3, inputs.height, inputs.width),
        takes_uint8=False,
        pixels=PixelFormat(mean, std),
        batch=8,
        untouched=lambda path: write(fold(trace(run.network, image_size=(inputs.height, inputs.width))), path),
        write=write,
    )


def _of_onnx(file: Path, size: tuple[int, int] | None) -> Source:
    name, dtype = only_input(file)
    if dtype not in _TYPES:
        raise ConfigError(
            f"{file}: the input {name!r} is {str(dtype).removeprefix('torch.')}, expected float32 or uint8: convert "
            "the file to float32"
        )
    imported = import_onnx(file, None if size is None else {name: (1, *_channels(file, name), *size)})
    (given,) = imported.inputs
    shape = _sample_shape(file, given)
    notes = []
    if imported.stripped_pairs:
        notes.append(
            f"{file} is quantized already: its {imported.stripped_pairs} Q/DQ pairs of activations are taken out, so "
            "that the tool chain measures ranges again"
        )
    interface = Interface.raw(given.name, shape, [each.name for each in imported.outputs])

    def write(graph: fx.GraphModule, path: Path) -> object:
        if is_restructured(imported, graph):
            return restructured(imported, graph, shape, path)
        return onnx.save(_written_back(imported, graph), path)

    return Source(
        file,
        imported.graph,
        interface,
        shape,
        takes_uint8=given.dtype == torch.uint8,
        pixels=None,
        batch=8 if imported.any_batch else 1,
        untouched=lambda path: _copy(imported, path),
        write=write,
        nodes=imported.layers,
        notes=tuple(notes),
    )


def _sample_shape(file: Path, given: OnnxTensor) -> tuple[int, ...]:
    if not given.shape or given.shape[0] != 1:
        raise ConfigError(
            f"{file}: the input {given.name!r} has the shape {list(given.shape)}, expected a batch of 1 or a dynamic "
            "one in front: export the file with a batch of 1"
        )
    return given.shape[1:]


def _channels(file: Path, name: str) -> tuple[int, ...]:
    """Number of channels of an input with four dimensions; 3 if it is dynamic, too."""
    graph = read_onnx(file, weights=False).graph
    shape = next(each for each in graph.input if each.name == name).type.tensor_type.shape.dim
    if len(shape) != 4:
        raise ConfigError(f"{file}: the input {name!r} has {len(shape)} dimensions; --size is for (N, C, H, W)")
    return (shape[1].dim_value or 3,)


def _copy(imported: ImportedOnnx, path: Path) -> None:
    """The file as it is; one with weights in files beside it becomes whole."""
    if imported.stripped_pairs:
        onnx.save(_written_back(imported, imported.graph), path)
    elif has_external_weights(imported.file):
        onnx.save(imported.model, path)
    else:
        shutil.copyfile(imported.file, path)


def _written_back(imported: ImportedOnnx, graph: fx.GraphModule) -> onnx.ModelProto:
    """The file with the values of a graph; where a ReLU6 became a ReLU, so does the Clip of the file."""
    restored, tensors = _with_relu6(imported, graph)
    model = write_back(imported, restored)
    bounds: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Clip" and node.output[0] in tensors:
            bounds.update(node.input[1:])
            node.op_type = "Relu"
            del node.input[1:], node.attribute[:]
    bounds -= {name for node in model.graph.node for name in node.input}
    for each in [each for each in model.graph.initializer if each.name in bounds]:
        model.graph.initializer.remove(each)
    for node in [node for node in model.graph.node if node.op_type == "Constant" and node.output[0] in bounds]:
        model.graph.node.remove(node)
    return model


def _with_relu6(imported: ImportedOnnx, graph: fx.GraphModule) -> tuple[fx.GraphModule, set[str]]:
    """A copy in which each ReLU6 of the file is one again, and the tensors that these compute."""
    restored = copy.deepcopy(graph)
    before, after = dict(imported.graph.named_modules()), dict(graph.named_modules())
    modules = {name for name, each in before.items() if type(each) is nn.ReLU6 and type(after.get(name)) is nn.ReLU}
    for name in modules:
        restored.set_submodule(name, nn.ReLU6())
    nodes = {node.name: node for node in restored.graph.nodes}
    tensors = set()
    for node in imported.graph.graph.nodes:
        if node.op == "call_module" and str(node.target) in modules:
            tensors.add(imported.tensors[node.name])
        elif node.op == "call_function" and node.target is F.relu6 and nodes[node.name].target is F.relu:
            nodes[node.name].target = F.relu6
            tensors.add(imported.tensors[node.name])
    restored.recompile()
    return restored, tensors
