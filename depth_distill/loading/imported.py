"""Networks that are not ours: any module of the user's own code as an image-to-codes network."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError, first_line
from depth_distill.loading import to_codes
from depth_distill.loading.meaning import Meaning, steps_of
from depth_distill.models import DepthCodec
from depth_distill.models.code_network import TracedNetwork, require_multiples
from depth_distill.models.foreign_checkpoint import fit_to, read_tensors
from depth_distill.quantization.graph.trace import UntraceableError, trace, traced_graph
from depth_distill.types import IMAGENET_MEAN, IMAGENET_STD, DepthRange


@dataclass(frozen=True)
class NetworkInput:
    """What a network was trained on: ``(pixel / 255 * scale - mean) / std``, a channel at a time.

    A network that normalizes inside takes ``mean: [0, 0, 0], std: [1, 1, 1]``, with ``scale: 255`` if it takes pixels
    from 0 to 255.

    Args:
        mean: mean of each channel, in the network's order of channels.
        std: standard deviation of each channel, in that order.
        scale: the value of a white pixel before ``mean`` and ``std``.
        colour_order: ``RGB``, or ``BGR`` as OpenCV reads images; the order is put into the first convolution.

    Raises:
        ConfigError: a number that is not positive.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    scale: float = 1.0
    colour_order: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        if not (self.scale > 0 and all(each > 0 for each in self.std)):
            raise ConfigError(f"input: scale and std must be positive, received {self.scale} and {list(self.std)}")

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of RGB in [0, 1], as ``data.image_mean`` and ``data.image_std`` give them."""
        turn = -1 if self.colour_order == "BGR" else 1
        mean, std = (tuple(each / self.scale for each in values[::turn]) for values in (self.mean, self.std))
        return mean, std


class ImportedNetwork(TracedNetwork):
    """Any ``nn.Module``, from the user's own code or an ONNX file, as a network from image to codes.

    The module is built, its weights are loaded, and it is traced to a graph; what leads to other outputs is removed,
    and the output is brought to codes (:mod:`depth_distill.loading.to_codes`). Layers keep the names that they have in
    the module. The checkpoint of a run has the weights of this graph, not those of the module.

    Args:
        module: class or function that builds the module, and its arguments: ``{class_path: my_project.DepthNet,
            init_args: {layers: 18}}``. Arguments may be modules that are described in the same way.
        meaning: what the output means.
        image_size: height and width of the images, ``${data.image_size}``.
        code: folder that the class is imported from, besides the current one.
        method: method that is called with an image.
        output: steps into what it returns: ``[0]``, ``[depth]``, or ``[[disp, 0]]`` for the key ``("disp", 0)``.
        outputs: such a path for each of several outputs, in the order of the codes.
        weights: checkpoint of the module; it is read without running code from it.
        weights_key: dictionary in it that has the weights, such as ``ema``; found unless given.
        prefix: what the names of the weights start with in the checkpoint.
        input: how images are normalized for the network.
        resize: how an output with fewer pixels than the image is enlarged inside the network.
        stride: image height and width must be multiples of this.

    Raises:
        ConfigError: any of these does not fit; the message names the key.
    """

    def __init__(
        self,
        module: dict[str, Any],
        meaning: Meaning,
        image_size: tuple[int, int],
        code: Path | None = None,
        method: str = "forward",
        output: list[Any] | None = None,
        outputs: list[list[Any]] | None = None,
        weights: Path | None = None,
        weights_key: str | None = None,
        prefix: str | None = None,
        input: NetworkInput = NetworkInput(),
        resize: Literal["nearest", "bilinear"] | None = None,
        stride: int = 1,
    ) -> None:
        if output is not None and outputs is not None:
            raise ConfigError("give either output, a path, or outputs, a list of paths")
        if code is not None and not code.is_dir():
            raise ConfigError(f"code: {code} is no folder")
        require_multiples(image_size, stride)
        built = build_module(module, code)
        notes = [] if weights is None else load_foreign_weights(built, weights, weights_key, prefix)
        graph, depends_on_size = _trace(built, method, image_size)
        super().__init__(graph, DepthCodec(meaning.host_codec))
        self.fixed_size = tuple(image_size) if depends_on_size else None  # type: ignore[assignment]
        self.meaning = meaning
        self.stride = stride
        self.alignment = meaning.aligned_by
        self.normalization = input.normalization
        self.notes = notes
        """What was done to the network, for tables."""
        paths = outputs if outputs is not None else [output or []]
        self.output_names = tuple(f"output_{place}" for place in range(len(paths)))
        """Names of the outputs where their meaning is unknown; otherwise they are the codes."""
        before = sum(each.numel() for each in self.graph.parameters())
        to_codes.select_output(self.graph, [steps_of(path) for path in paths], together=self.has_meaning)
        removed = before - sum(each.numel() for each in self.graph.parameters())
        if removed:
            self.notes.append(f"{removed:,} parameters of other outputs removed")
        example = torch.rand(1, 3, *image_size, generator=torch.Generator().manual_seed(0))
        returned = run_example(self.graph, example)
        if self.has_meaning:
            to_codes.fit_shape(self.graph, returned, image_size, self.codec.channels, resize)
        if input.colour_order == "BGR":
            self.notes.append(to_codes.take_bgr(self.graph))
            example = example.flip(1)
        self.notes.append(to_codes.bring_to_codes(self.graph, meaning.affine))
        if self.has_meaning:
            to_codes.require_same(self.graph, example, meaning.affine(to_codes.as_maps(returned, image_size, resize)))

    @property
    def has_meaning(self) -> bool:
        """Whether it is known what the output means."""
        return self.meaning.returns != "unknown"

    @property
    def depth_range(self) -> DepthRange:  # type: ignore[override]
        """Nearest and farthest depth; an error where the meaning is unknown."""
        return self.meaning.depth_range

    def extra_repr(self) -> str:
        """Codec and depth range, where there are any."""
        return super().extra_repr() if self.has_meaning else str(self.codec)


def build_module(description: Mapping[str, Any], code: Path | None = None) -> nn.Module:
    """The module that a class path and its arguments describe; weights that it draws at random are always the same.

    Args:
        description: ``{class_path: ..., init_args: {...}}``; so may arguments be.
        code: folder to import from, besides those that Python knows.

    Raises:
        ConfigError: the class cannot be imported or built, or builds no module.
    """
    if code is not None and str(code.absolute()) not in sys.path:
        sys.path.insert(0, str(code.absolute()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = _build(description, "module")
    if not isinstance(built, nn.Module):
        raise ConfigError(f"module: {description['class_path']} gives a {type(built).__name__}, expected an nn.Module")
    return built.eval()


def load_foreign_weights(module: nn.Module, weights: Path, key: str | None, prefix: str | None) -> list[str]:
    """Load a checkpoint of anybody's into a module; returns notes on what was read and skipped.

    Raises:
        ConfigError: see :func:`~depth_distill.models.foreign_checkpoint.read_tensors` and
            :func:`~depth_distill.models.foreign_checkpoint.fit_to`.
    """
    state = read_tensors(weights, key)
    fitted = fit_to(state, module, prefix)
    fitted.load_into(module)
    notes = [f"{len(fitted.tensors)} tensors from {weights.name}{f', {state.key}' if state.key else ''}", *fitted.notes]
    if state.skipped:
        notes.append(f"not read from {weights.name}: {', '.join(state.skipped)}")
    return notes


def run_example(graph: nn.Module, example: Tensor) -> Tensor:
    """What a network returns for an example.

    Raises:
        ConfigError: it cannot take an image of this size; the message has sizes that it can.
    """
    try:
        with torch.inference_mode():
            returned: Tensor = graph(example)
    except Exception as error:  # whatever the network raises
        size = tuple(example.shape[-2:])
        rule = size_rule(graph, *size)
        cure = (
            f"multiples of {rule} fit: choose another data.image_size, and give stride: {rule}"
            if rule
            else ("multiples of 2 to 128 nearby do not fit either")
        )
        reason = first_line(error)
        raise ConfigError(f"image_size: the network fails on {size[0]} x {size[1]} ({reason}); {cure}") from error
    return returned


def size_rule(network: nn.Module, height: int, width: int) -> int | None:
    """The smallest power of two whose multiples a network takes, found by trying; None if there is none."""
    for multiple in (2, 4, 8, 16, 32, 64, 128):
        sides = [(-(-side // multiple)) * multiple for side in (height, width)]
        tries = [(sides[0], sides[1]), (sides[0] + multiple, sides[1]), (sides[0], sides[1] + multiple)]
        if all(_runs(network, *size) for size in tries):
            return multiple
    return None


def _trace(module: nn.Module, method: str, image_size: tuple[int, int]) -> tuple[fx.GraphModule, bool]:
    """The graph of a module, and whether it is right at this image size only: shapes in an ONNX file are numbers."""
    if traced_graph(module) is not None:
        if getattr(module, "any_batch", True) is False:
            raise ConfigError(
                "module: the network takes one image at a time, because the batch of 1 is a number in it: export it "
                "with a dynamic batch; depth-distill harden takes the file as it is"
            )
        return trace(module), True
    try:
        return trace(module, method), False
    except UntraceableError:
        return trace(module, method, image_size), True


def _runs(network: nn.Module, height: int, width: int) -> bool:
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, height, width))
    except Exception:  # whatever the network raises
        return False
    return True


def _build(description: Any, where: str) -> Any:
    if isinstance(description, list):
        return [_build(each, f"{where}[{place}]") for place, each in enumerate(description)]
    if not isinstance(description, Mapping):
        return description
    if "class_path" not in description:
        return {key: _build(value, f"{where}.{key}") for key, value in description.items()}
    path, arguments = description["class_path"], description.get("init_args") or {}
    others = sorted(set(description) - {"class_path", "init_args"})
    if others or not isinstance(path, str) or not isinstance(arguments, Mapping):
        raise ConfigError(f"{where}: expected class_path and init_args, received {', '.join(map(str, description))}")
    builder = _imported(path, where)
    built = {key: _build(value, f"{where}.init_args.{key}") for key, value in arguments.items()}
    try:
        return builder(**built)
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's class raises
        raise ConfigError(
            f"{where}: {path} cannot be built ({type(error).__name__}: {error}); see init_args"
        ) from error


def _imported(path: str, where: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise ConfigError(
            f"{where}: {path} cannot be imported ({error}); run the command in the folder of your code, or give that "
            "folder as code"
        ) from error
    except (AttributeError, ValueError) as error:
        raise ConfigError(
            f"{where}: there is no {name!r} in {module or 'the path: give package.module.Class'}"
        ) from error
    except Exception as error:  # whatever the user's code raises when it is imported
        raise ConfigError(f"{where}: importing {module} fails ({type(error).__name__}: {error})") from error
