"""Depth networks of the hard set that no encoder of timm gives: a plain vision transformer."""

import torch
from torch import Tensor, nn

from depth_distill.models import CodeNetwork, DepthCodec, SingleCodec
from depth_distill.types import DepthRange

_PATCH = 8


class Block(nn.Module):
    """Self-attention and a perceptron, each behind a layer norm (Dosovitskiy et al. 2021), on ``(B, N, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.expand, self.act, self.reduce = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.heads, self.scale = heads, (width // heads) ** -0.5

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape."""
        normed = self.norm1(tokens)
        query, key, value = (self._split(each(normed)) for each in (self.query, self.key, self.value))
        weights = torch.softmax(torch.matmul(query * self.scale, key.transpose(-2, -1)), dim=-1)
        tokens = tokens + self.out(torch.matmul(weights, value).transpose(1, 2).flatten(2))
        return tokens + self.reduce(self.act(self.expand(self.norm2(tokens))))

    def _split(self, tokens: Tensor) -> Tensor:
        """``(B, tokens, width)`` to ``(B, heads, tokens, width / heads)``."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class TransformerDepth(CodeNetwork):
    """A plain vision transformer with 8 x 8 patches and three upsampling convolutions.

    Args:
        image_size: height and width, multiples of 8, that the position embedding is for.
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads.
        depth_range: nearest and farthest depth.
    """

    stride = _PATCH

    def __init__(
        self,
        image_size: tuple[int, int] = (96, 128),
        width: int = 96,
        depth: int = 4,
        heads: int = 3,
        depth_range: DepthRange = DepthRange(0.5, 15.0),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.depth_range, self.fixed_size = depth_range, (image_size[0], image_size[1])
        self.grid = (image_size[0] // _PATCH, image_size[1] // _PATCH)
        self.patches = nn.Conv2d(3, width, _PATCH, stride=_PATCH)
        self.position = nn.Parameter(0.02 * torch.randn(1, self.grid[0] * self.grid[1], width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        layers: list[nn.Module] = []
        for inputs, outputs in ((width, 64), (64, 32), (32, 16)):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.GELU()]
        self.decoder = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid())
        self._codec = SingleCodec(depth_range, "log")

    @property
    def codec(self) -> DepthCodec:
        """Log depth."""
        return self._codec

    def forward(self, image: Tensor) -> Tensor:
        """Codes ``(B, 1, H, W)``."""
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.position
        tokens = self.norm(self.blocks(tokens))
        return self.last(self.decoder(tokens.transpose(1, 2).unflatten(2, self.grid)))
