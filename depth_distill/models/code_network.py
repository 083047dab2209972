"""Base class of all networks: an image in, codes out, and a codec that decodes them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, fx, nn

from depth_distill.device import in_autocast, without_autocast
from depth_distill.errors import ConfigError
from depth_distill.models.codecs import DepthCodec
from depth_distill.types import Alignment, DepthRange


class CodeNetwork(nn.Module, ABC):
    """A network for monocular metric depth. The output of ``forward`` is the output of the NPU.

    Attributes:
        depth_range: nearest and farthest depth, spanned by the codes.
        stride: image height and width must be multiples of this.
        alignment: how depth is fitted to the ground truth before it is scored; ``none`` of a metric network.
        fixed_size: (height, width) of the images of a network that is right at this size only; None of any other.
        normalization: mean and standard deviation per channel, in [0, 1], that images must be normalized with; None of
            a network that is trained with those of the data.
    """

    depth_range: DepthRange
    stride: int
    alignment: Alignment = "none"
    fixed_size: tuple[int, int] | None = None
    normalization: tuple[Sequence[float], Sequence[float]] | None = None

    @property
    @abstractmethod
    def codec(self) -> DepthCodec:
        """Decodes this network's codes to metres."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Codes ``(B, codec.channels, H, W)`` in [0, 1] of a normalized image ``(B, 3, H, W)``."""

    def extra_repr(self) -> str:
        """Codec and depth range, which give the same codes a different meaning."""
        return f"{self.codec}, {self.depth_range}"

    def predict_depth(self, image: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres of a normalized image ``(B, 3, H, W)``.

        Raises:
            ConfigError: height or width is not a multiple of the stride.
        """
        self.check_image_size(*image.shape[-2:])
        return self.codec.decode(self(image).float())

    def check_image_size(self, height: int, width: int) -> None:
        """Check that the decoder can restore this size from the encoder's pyramid.

        Raises:
            ConfigError: height or width is not a multiple of the stride, or not that of a network with a fixed size.
        """
        require_multiples((height, width), self.stride)
        if self.fixed_size is not None and (height, width) != tuple(self.fixed_size):
            raise ConfigError(
                f"image size {height} x {width} (H x W) does not fit this network, whose graph was made at "
                f"{self.fixed_size[0]} x {self.fixed_size[1]} and depends on it: give that as data.image_size, or "
                "import the network again at the other size"
            )

    def check_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Check that images are normalized as the network was trained.

        Args:
            mean: ``data.image_mean``.
            std: ``data.image_std``.

        Raises:
            ConfigError: they are not.
        """
        if self.normalization is None:
            return
        for key, given, wanted in zip(("mean", "std"), (mean, std), self.normalization, strict=True):
            if any(abs(a - b) > 1e-6 for a, b in zip(given, wanted, strict=True)):
                raise ConfigError(
                    f"data.image_{key} is {list(given)}, but the network was trained with "
                    f"{[round(each, 6) for each in wanted]} (its input says so): give it that"
                )


class TracedNetwork(CodeNetwork):
    """A network that is a traced graph.

    Args:
        graph: maps images to codes.
        codec: what turns the codes of the graph into metres.
    """

    def __init__(self, graph: fx.GraphModule, codec: DepthCodec) -> None:
        super().__init__()
        self.graph = graph
        self._codec = codec

    @property
    def codec(self) -> DepthCodec:
        """Decodes this network's codes to metres."""
        return self._codec

    def traced(self) -> fx.GraphModule:
        """The graph that the network is."""
        return self.graph

    def forward(self, image: Tensor) -> Tensor:
        """Codes ``(B, codec.channels, H, W)`` in [0, 1] of a normalized image ``(B, 3, H, W)``."""
        codes: Tensor = self.graph(image)
        return codes


class GraphNetwork(TracedNetwork):
    """A network after the passes of ``quantization``.

    Attributes:
        shortened: whether autocast may shorten numbers in the graph. Under fake quantization it must not: bfloat16 does
            not hold what was rounded to a grid.

    Args:
        graph: maps images to codes.
        source: the network that the graph was traced from; its depth range and stride are taken over.
        codec: what turns the codes of the graph into metres; that of ``source`` unless given.
    """

    def __init__(self, graph: fx.GraphModule, source: CodeNetwork, codec: DepthCodec | None = None) -> None:
        super().__init__(graph, codec or source.codec)
        self.depth_range = source.depth_range
        self.stride = source.stride
        self.alignment = source.alignment
        self.fixed_size = source.fixed_size
        self.normalization = source.normalization
        self.shortened = True

    def forward(self, image: Tensor) -> Tensor:
        """Codes ``(B, codec.channels, H, W)`` in [0, 1] of a normalized image ``(B, 3, H, W)``."""
        if self.shortened or not in_autocast(image.device):
            return super().forward(image)
        with without_autocast(image.device):
            return super().forward(image)


def require_multiples(image_size: tuple[int, int], stride: int) -> None:
    """Check an image size against a network's stride.

    Raises:
        ConfigError: height or width is not a multiple of it.
    """
    if any(side % stride for side in image_size):
        height, width = image_size
        fits = [max(stride, round(side / stride) * stride) for side in image_size]
        raise ConfigError(
            f"image size {height} x {width} (H x W) does not fit this network: both must be multiples of its "
            f"stride {stride}; the nearest size that fits is {fits[0]} x {fits[1]}"
        )
