"""A network with every kind of join, calibrated in milliseconds, and what the analyses are scored by."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target

TARGET = load_target("per-tensor-minmax")


class SmallNet(nn.Module):
    """A residual block with in-place activations and ``+=``, a concat skip over pooling and upsampling, a sigmoid."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.act2 = nn.ReLU(inplace=True)
        self.up = nn.Upsample(scale_factor=2)
        self.fuse = nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 1, 3, padding=1)
        self.output = nn.Sigmoid()
        for module in (self.stem, self.conv1, self.conv2, self.fuse, self.head):
            nn.init.kaiming_normal_(module.weight)  # activations, and so rounding errors, of the same size everywhere

    def forward(self, image):
        skip = self.act(self.stem(image))
        deep = self.pool(skip)
        inner = self.conv2(self.act1(self.conv1(deep)))
        inner += deep
        deep = self.act2(inner)
        fused = F.relu(self.fuse(torch.cat([self.up(deep), skip], dim=1)), inplace=True)
        return self.output(self.head(fused))


LAYERS = ("stem", "conv1", "conv2", "fuse", "head")
SITES = (
    "image", "stem.weight", "act", "conv1.weight", "act1", "conv2.weight", "conv2", "act2", "cat", "fuse.weight",
    "relu", "head.weight", "head", "output",
)  # fmt: skip


def images(*sizes):
    """Batches of 8 x 8 images; (2, 2) unless given."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(size, 3, 8, 8, generator=generator) for size in sizes or (2, 2))


def quantized_net(model=None, target=TARGET):
    return quantize_post_training(trace(model or SmallNet()), target, images(), progress=False)


def sabotaged(layer, factor=300.0):
    """Blow up the weights of one channel of a layer, which its bias and ReLU then silence.

    The range of the weights grows by ``factor``, that of the activations does not.
    """
    model = SmallNet()
    with torch.no_grad():
        model.get_submodule(layer).weight[3] *= factor
        model.get_submodule(layer).bias[3] = -1e3 * factor
    return model


def switch(network, setting):
    """Exactly these quantizers on, by hand."""
    for site, quantizer in quantizers(network).items():
        quantizer.enabled = site in setting
    return network


def switched(quantized, setting):
    """The same, of a copy."""
    return switch(copy.deepcopy(quantized).eval(), setting)


class Codes:
    """A scorer: how far codes are from given ones, relative to those; it keeps count of what it measured."""

    names = ("abs_rel", "worst")

    def __init__(self, batches, expected):
        self.images = tuple(batches)
        with torch.no_grad():
            self.expected = [expected(batch) for batch in self.images]
        self.measured = []

    def measure(self, position, codes):
        self.measured.append(position)
        error = ((codes - self.expected[position]).abs() / self.expected[position]).double().flatten(1)
        return torch.stack([error.mean(1), error.amax(1)], dim=1)

    def summarize(self, rows):
        return dict(zip(self.names, rows.mean(dim=0).tolist(), strict=True))

    def __call__(self, network):
        """The plain way: one full evaluation."""
        with torch.inference_mode():
            rows = [self.measure(position, network(batch)) for position, batch in enumerate(self.images)]
        return self.summarize(torch.cat(rows))


def drift(model=None, batches=None):
    """Codes of the float network as truth: its own score is 0."""
    return Codes(batches or images(), trace(model or SmallNet()))
