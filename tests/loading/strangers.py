"""Networks of the kind that others bring: a residual encoder and a monodepth2-style decoder, in small."""

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.downsample(x)
        return self.relu(y)


class Encoder(nn.Module):
    def __init__(self, widths=(8, 12, 16, 24)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = Residual(widths[0], widths[1], 1)
        self.layer2 = Residual(widths[1], widths[2], 2)
        self.layer3 = Residual(widths[2], widths[3], 2)
        self.widths = widths

    def forward(self, image):
        first = self.relu(self.bn1(self.conv1(image)))
        second = self.layer1(self.maxpool(first))
        third = self.layer2(second)
        return [first, second, third, self.layer3(third)]


class ConvBlock(nn.Module):
    def __init__(self, inputs, outputs, pad, activation):
        super().__init__()
        padding = 0 if pad == "reflect" else 1
        self.pad = nn.ReflectionPad2d(1) if pad == "reflect" else nn.Identity()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=padding)
        self.nonlin = nn.ELU(inplace=True) if activation == "elu" else nn.ReLU(inplace=True)

    def forward(self, x):
        return self.nonlin(self.conv(self.pad(x)))


class Monodepth(nn.Module):
    """Sigmoid disparity, 1 is near, at several scales, as ``{("disp", scale): ...}``."""

    def __init__(self, pad="reflect", activation="elu", scales=(0, 1, 2), channels=1):
        super().__init__()
        self.encoder = Encoder()
        self.scales = scales
        widths = self.encoder.widths
        decoder = (8, 8, 12, 16)
        self.upconv = nn.ModuleDict()
        self.dispconv = nn.ModuleDict()
        for scale in (3, 2, 1, 0):
            inputs = widths[-1] if scale == 3 else decoder[scale + 1]
            self.upconv[f"{scale}_0"] = ConvBlock(inputs, decoder[scale], pad, activation)
            skip = widths[scale - 1] if scale > 0 else 0
            self.upconv[f"{scale}_1"] = ConvBlock(decoder[scale] + skip, decoder[scale], pad, activation)
        for scale in scales:
            self.dispconv[str(scale)] = nn.Conv2d(decoder[scale], channels, 3, padding=1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, image):
        features = self.encoder(image)
        x, outputs = features[-1], {}
        for scale in (3, 2, 1, 0):
            x = self.upconv[f"{scale}_0"](x)
            # The decoder starts at stride 16.
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            if scale > 0:
                x = torch.cat([x, features[scale - 1]], 1)
            x = self.upconv[f"{scale}_1"](x)
            if scale in self.scales:
                outputs[("disp", scale)] = self.sigmoid(self.dispconv[str(scale)](x))
        return outputs


class TwoHeads(Monodepth):
    """Integer and fraction as two one-channel outputs."""

    def __init__(self, pad="zeros", activation="relu"):
        super().__init__(pad, activation, scales=(0,), channels=2)

    def infer(self, image):
        both = self.forward(image)[("disp", 0)]
        return both[:, 0:1], both[:, 1:2]


def randomized(module, seed=0):
    """The module with random statistics in its batch norms, which a fresh one has not."""
    torch.manual_seed(seed)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias, 0, 0.2)
            nn.init.normal_(each.running_mean, 0, 0.2)
            nn.init.uniform_(each.running_var, 0.5, 1.5)
    return module.eval()
