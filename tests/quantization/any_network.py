"""A network that is not about depth: four channels in, two outputs of different size and scale out."""

import torch
from torch import nn

INPUT, SHAPE, OUTPUTS = "features", (4, 16, 16), ("classes", "boxes")


class TwoHeads(nn.Module):
    def __init__(self, bounded=False):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.classes, self.boxes = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 2, 3, stride=2)
        self.relu, self.last = nn.ReLU(), nn.ReLU6() if bounded else nn.ReLU()

    def forward(self, x):
        x = self.last(self.second(self.relu(self.first(x))))
        return self.classes(x), 1000 * self.boxes(x)


def two_heads(bounded=False):
    torch.manual_seed(0)
    return TwoHeads(bounded).eval()


def samples(count, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
