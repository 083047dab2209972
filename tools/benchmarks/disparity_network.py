"""A stand-in for the networks that this package is asked about: somebody's own code, in no way made for it.

A ResNet18 of torchvision, a decoder as in monodepth2 (Godard et al. 2019) with ELU and reflection padding, or with ReLU
and zero padding, and a sigmoid "disparity" at four scales, of which 1 is near. 14.8 M parameters. It imports nothing of
this package; the benchmarks bring it in as a user would, see docs/your_network.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

_DECODER = (16, 32, 64, 128, 256)


class Encoder(nn.Module):
    """Five stages of a ResNet18."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = resnet18()
        self.resnet.fc = nn.Identity()
        self.channels = (64, 64, 128, 256, 512)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features at strides 2, 4, 8, 16 and 32."""
        net = self.resnet
        features = [net.relu(net.bn1(net.conv1(image)))]
        features.append(net.layer1(net.maxpool(features[-1])))
        features.append(net.layer2(features[-1]))
        features.append(net.layer3(features[-1]))
        features.append(net.layer4(features[-1]))
        return features


class Conv3x3(nn.Module):
    """Padding and a convolution."""

    def __init__(self, inputs: int, outputs: int, reflect: bool) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1) if reflect else nn.ZeroPad2d(1)
        self.conv = nn.Conv2d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same size."""
        result: Tensor = self.conv(self.pad(x))
        return result


class ConvBlock(nn.Module):
    """A convolution and its activation."""

    def __init__(self, inputs: int, outputs: int, elu: bool) -> None:
        super().__init__()
        self.conv = Conv3x3(inputs, outputs, reflect=elu)
        self.nonlin = nn.ELU(inplace=True) if elu else nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same size."""
        result: Tensor = self.nonlin(self.conv(x))
        return result


class DisparityNetwork(nn.Module):
    """Disparity in [0, 1] at four scales, as ``{("disp", scale): (B, 1, H / 2^scale, W / 2^scale)}``.

    Args:
        elu: ELU and reflection padding in the decoder; ReLU and zero padding if not.
    """

    def __init__(self, elu: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.convs = nn.ModuleDict()
        for scale in range(4, -1, -1):
            inputs = self.encoder.channels[-1] if scale == 4 else _DECODER[scale + 1]
            self.convs[f"upconv_{scale}_0"] = ConvBlock(inputs, _DECODER[scale], elu)
            skip = self.encoder.channels[scale - 1] if scale > 0 else 0
            self.convs[f"upconv_{scale}_1"] = ConvBlock(_DECODER[scale] + skip, _DECODER[scale], elu)
        for scale in range(4):
            self.convs[f"dispconv_{scale}"] = Conv3x3(_DECODER[scale], 1, reflect=elu)
        self.sigmoid = nn.Sigmoid()

    def forward(self, image: Tensor) -> dict[tuple[str, int], Tensor]:
        """Disparity of a normalized image ``(B, 3, H, W)``, by name and scale."""
        features, outputs = self.encoder(image), {}
        x = features[-1]
        for scale in range(4, -1, -1):
            x = self.convs[f"upconv_{scale}_0"](x)
            parts = [F.interpolate(x, scale_factor=2, mode="nearest")]
            if scale > 0:
                parts.append(features[scale - 1])
            x = self.convs[f"upconv_{scale}_1"](torch.cat(parts, 1))
            if scale < 4:
                outputs[("disp", scale)] = self.sigmoid(self.convs[f"dispconv_{scale}"](x))
        return outputs
