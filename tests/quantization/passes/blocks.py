"""An inverted bottleneck whose channels have ranges of their own, as pretrained depthwise networks have."""

import torch
from torch import nn


class Bottleneck(nn.Module):
    """Expansion, depthwise convolution, projection, and a shortcut around them."""

    def __init__(self, channels=16, activation=nn.ReLU6, spread=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.expand = nn.Conv2d(4, channels, 1)
        self.act1 = activation()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.act2 = activation()
        self.project = nn.Conv2d(channels, 4, 1)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(0.4 * torch.randn(value.shape, generator=generator))
            # Where the expansion is strong, the depthwise convolution is weak: channels are alike behind the two.
            scales = torch.exp(spread * torch.randn(channels, generator=generator)).view(-1, 1, 1, 1)
            self.expand.weight.mul_(scales / scales.max())
            self.expand.bias.mul_(scales.flatten() / scales.max())
            self.depthwise.weight.div_(scales / scales.max())

    def forward(self, image):
        x = self.stem(image)
        return x + self.project(self.act2(self.depthwise(self.act1(self.expand(x)))))


def images(count=8, size=12, seed=1):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
