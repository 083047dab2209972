"""The networks of ``any_network.py``: families that are not this package's own, small enough for a minute each."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = (96, 128)
"""Height and width of the images, in pixels, unless a network needs others."""


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        group: heading that the row stands under.
        name: its name; unique.
        build: gives the module, or the path of an ONNX file that a package ships.
        needs: packages that must be importable.
        size: height and width of the images, in pixels.
        opset: opset of the ONNX file, for a network that comes in as a file only; None if it is given as a module.
        exporter: exporter of torch that writes that file.
    """

    group: str
    name: str
    build: Callable[[], nn.Module | Path]
    needs: tuple[str, ...] = ()
    size: tuple[int, int] = SIZE
    opset: int | None = None
    exporter: str = "torchscript"

    @property
    def is_file(self) -> bool:
        """Whether the network comes in as an ONNX file, not as a module."""
        return self.opset is not None

    @property
    def missing(self) -> str:
        """The first package that is not there; empty if none is missing."""
        return next((each for each in self.needs if not _importable(each)), "")


def entries() -> list[Entry]:
    """All networks, in the order in which they are measured."""
    return [*_users(), *_smp(), *_transformers(), *_files(), *_timm(), *_large_files()]


def _users() -> list[Entry]:
    group = "Depth networks of users"
    ours = "disparity_network.DisparityNetwork"
    return [
        Entry(group, "disparity network, ELU, reflect", lambda: _made(ours, elu=True)),
        Entry(group, "disparity network, ReLU, zero", lambda: _made(ours, elu=False)),
        Entry(group, "monodepth2: ResnetEncoder, DepthDecoder", _monodepth2, ("monodepth2",)),
        Entry(group, "FastDepth-like", FastDepthLike),
    ]


def _smp() -> list[Entry]:
    def build(name: str, encoder: str) -> Callable[[], nn.Module]:
        return lambda: _made(f"segmentation_models_pytorch.{name}", encoder_name=encoder, encoder_weights=None)

    return [
        Entry("segmentation_models_pytorch", f"SMP {name}, {encoder}", build(name, encoder), (_SMP,))
        for name in ("Unet", "FPN", "DeepLabV3Plus")
        for encoder in ("resnet18", "mobilenet_v2")
    ]


def _transformers() -> list[Entry]:
    group = "transformers, tiny random configurations"
    size = (112, 112)
    return [
        Entry(group, "DepthAnything (DINOv2, 4 layers)", _depth_anything, ("transformers",), size),
        Entry(group, "DPT (ViT, 4 layers)", _dpt, ("transformers",), (128, 128)),
    ]


def _files() -> list[Entry]:
    """Exports of both exporters at several opsets, and the shipped files that are small."""
    group = "ONNX files"

    def smp(name: str, encoder: str) -> Callable[[], nn.Module]:
        return lambda: _made(f"segmentation_models_pytorch.{name}", encoder_name=encoder, encoder_weights=None)

    def timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
        return lambda: _made("timm.create_model", name, **arguments)

    def torchvision(name: str, **arguments: Any) -> Callable[[], nn.Module]:
        return lambda: _made(f"torchvision.models.{name}", weights=None, **arguments)

    return [
        Entry(group, "U-Net (SMP, ResNet18)", smp("Unet", "resnet18"), (_SMP,), opset=11),
        Entry(group, "FPN (SMP, MobileNetV2)", smp("FPN", "mobilenet_v2"), (_SMP,), opset=13),
        Entry(group, "MobileNetV2 (torchvision)", torchvision("mobilenet_v2"), opset=11),
        Entry(group, "MobileNetV3 small (timm)", timm("mobilenetv3_small_100"), opset=17),
        Entry(group, "EfficientNet-B0 (timm)", timm("efficientnet_b0"), opset=13),
        Entry(group, "ConvNeXt atto (timm)", timm("convnext_atto"), opset=17),
        Entry(group, "RepVGG-A0 (timm)", timm("repvgg_a0"), opset=11),
        Entry(group, "YOLO-like: C2f, SPPF, three scales, SiLU", YoloLike, opset=17),
        Entry(group, "YOLO-like, ReLU", lambda: YoloLike(nn.ReLU), opset=18, exporter="dynamo"),
        Entry(group, "ViT tiny (timm)", timm("vit_tiny_patch16_224", img_size=128), size=(128, 128), opset=17),
        Entry(group, "ESPCN-like super-resolution", EspcnLike, opset=11),
        Entry(group, "DeepLabV3, MobileNetV3 (torchvision)", _deeplab, opset=18, exporter="dynamo"),
        *(_shipped(name) for name in ("squeezenet", "shufflenet", "resnet50", "inception_v1", "inception_v2")),
    ]


def _large_files() -> list[Entry]:
    return [_shipped(name) for name in ("densenet121", "bvlc_alexnet", "zfnet512", "vgg19")]


def _timm() -> list[Entry]:
    """Encoders, one per family, each returning its pyramid of features."""
    names = (
        *("resnet18", "regnety_002", "dla46_c", "repvgg_a0", "mobileone_s0", "mobilenetv2_050", "efficientnet_lite0"),
        *("mobilenetv3_small_050", "ghostnet_050", "lcnet_050", "rexnet_100", "ese_vovnet19b_dw", "selecsls42b"),
        *("convnext_atto", "starnet_s1", "fastvit_t8", "poolformer_s12", "mobilevit_xxs", "edgenext_xx_small"),
        *("pvt_v2_b0", "nf_regnet_b0", "resnest14d", "efficientformerv2_s0", "swin_tiny_patch4_window7_224"),
        *("hrnet_w18_small", "densenet121"),
    )
    square = {"mobilevit_xxs", "pvt_v2_b0", "edgenext_xx_small"}
    fixed = {"efficientformerv2_s0": 128, "swin_tiny_patch4_window7_224": 224}

    def build(name: str) -> Callable[[], nn.Module]:
        more = {"img_size": fixed[name]} if name in fixed else {}
        return lambda: _made("timm.create_model", name, features_only=True, **more)

    def size(name: str) -> tuple[int, int]:
        side = fixed.get(name, 128)
        return (side, side) if name in square or name in fixed else SIZE

    return [Entry("timm encoders (features_only)", name, build(name), ("timm",), size(name)) for name in names]


def _shipped(name: str) -> Entry:
    file = Path("backend") / "test" / "data" / "light" / f"light_{name}.onnx"
    return Entry(
        "ONNX files", f"light_{name}.onnx (shipped with onnx)", lambda: _package("onnx") / file, ("onnx",), opset=0
    )


_SMP = "segmentation_models_pytorch"


def _made(path: str, *args: Any, **kwargs: Any) -> nn.Module:
    module, _, name = path.rpartition(".")
    network: nn.Module = getattr(import_module(module), name)(*args, **kwargs)
    return network


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    folders = spec.submodule_search_locations
    assert folders
    return Path(next(iter(folders)))


def _importable(name: str) -> bool:
    return find_spec(name) is not None


def _monodepth2() -> nn.Module:
    """The repository's classes; they import ``layers`` and ``networks`` from its root."""
    sys.path.insert(0, str(_package("monodepth2")))
    encoder = _made("networks.resnet_encoder.ResnetEncoder", 18, False)
    decoder = _made("networks.depth_decoder.DepthDecoder", encoder.num_ch_enc)
    return nn.Sequential(encoder, decoder)


def _depth_anything() -> nn.Module:
    transformers = import_module("transformers")
    backbone = transformers.Dinov2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, mlp_ratio=2, image_size=112, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=48, neck_hidden_sizes=[16, 24, 32, 48],
        fusion_hidden_size=24, head_hidden_size=16, patch_size=14,
    )  # fmt: skip
    network: nn.Module = transformers.DepthAnythingForDepthEstimation(config)
    return network


def _dpt() -> nn.Module:
    transformers = import_module("transformers")
    config = transformers.DPTConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, intermediate_size=96, image_size=128,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 24, 32, 48], fusion_hidden_size=24,
        use_auxiliary_head=False,
    )  # fmt: skip
    network: nn.Module = transformers.DPTForDepthEstimation(config)
    return network


def _deeplab() -> nn.Module:
    return _made(
        "torchvision.models.segmentation.deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None,
        num_classes=8,
    )  # fmt: skip


def _block(inputs: int, outputs: int, size: int, act: Callable[[], nn.Module], stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act())


def _separable(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, size, stride, size // 2, groups=inputs, bias=False)
    head = nn.Sequential(depthwise, nn.BatchNorm2d(inputs), nn.ReLU6())
    return nn.Sequential(head, _block(inputs, outputs, 1, nn.ReLU6))


class FastDepthLike(nn.Module):
    """MobileNet encoder, depthwise 5x5 decoder with nearest upsampling and additive skips (Wofk et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256, 512)
        self.stem = _block(3, 16, 3, nn.ReLU6, stride=2)
        stages = zip((16, *widths[:-1]), widths, (1, 2, 2, 2, 2), strict=True)
        self.stages = nn.ModuleList(_separable(inputs, outputs, 3, stride) for inputs, outputs, stride in stages)
        self.ups = nn.ModuleList(
            _separable(inputs, outputs, 5) for inputs, outputs in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)``, in no unit."""
        x, skips = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        for up, skip in zip(self.ups, skips[-2::-1], strict=True):
            x = F.interpolate(up(x), scale_factor=2, mode="nearest") + skip
        return F.interpolate(F.relu(self.last(x)), scale_factor=2, mode="nearest")


class _C2f(nn.Module):
    """The block of YOLOv8: halves of the channels, one of which passes through bottlenecks that are all kept."""

    def __init__(self, inputs: int, outputs: int, act: Callable[[], nn.Module], shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.first = _block(inputs, outputs, 1, act)
        self.inner = nn.Sequential(_block(half, half, 3, act), _block(half, half, 3, act))
        self.last = _block(3 * half, outputs, 1, act)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        y = self.inner(parts[-1])
        parts.append(parts[-1] + y if self.shortcut else y)
        result: Tensor = self.last(torch.cat(parts, 1))
        return result


class YoloLike(nn.Module):
    """A detector as YOLOv8's: C2f blocks, SPPF, top-down neck, boxes and classes at three scales, no suppression.

    Args:
        act: makes an activation.
    """

    def __init__(self, act: Callable[[], nn.Module] = nn.SiLU) -> None:
        super().__init__()
        widths = (16, 32, 64, 128, 128)
        self.stem = _block(3, widths[0], 3, act, 2)
        self.downs, self.blocks = nn.ModuleList(), nn.ModuleList()
        for inputs, outputs in pairwise(widths):
            self.downs.append(_block(inputs, outputs, 3, act, 2))
            self.blocks.append(_C2f(outputs, outputs, act, shortcut=True))
        self.before, self.behind = _block(128, 64, 1, act), _block(256, 128, 1, act)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.neck = nn.ModuleList([_C2f(256, 128, act, False), _C2f(192, 64, act, False)])
        self.heads = nn.ModuleList(nn.Conv2d(width, 4 + 8, 1) for width in (64, 128, 128))

    def forward(self, image: Tensor) -> Tensor:
        """Boxes and class probabilities ``(B, 12, cells)``."""
        x, levels = self.stem(image), []
        for down, block in zip(self.downs, self.blocks, strict=True):
            x = block(down(x))
            levels.append(x)
        pooled = [self.before(levels[-1])]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        top = self.behind(torch.cat(pooled, 1))
        middle = self.neck[0](torch.cat([F.interpolate(top, scale_factor=2.0), levels[2]], 1))
        low = self.neck[1](torch.cat([F.interpolate(middle, scale_factor=2.0), levels[1]], 1))
        found = [head(each).flatten(2) for head, each in zip(self.heads, (low, middle, top), strict=True)]
        boxes, classes = torch.cat(found, 2).split((4, 8), 1)
        return torch.cat([boxes, classes.sigmoid()], 1)


class EspcnLike(nn.Module):
    """Super-resolution by two, with a pixel shuffle at the end (Shi et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 64, 5, padding=2), nn.ReLU(), nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """An image of twice the size."""
        enlarged: Tensor = self.body(image)
        return enlarged


class Tensors(nn.Module):
    """A network whose tensors, wherever they stand in what it returns, come as one tuple.

    Args:
        network: returns tensors, lists, tuples and dictionaries of them; what is None is left out.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Every tensor that the network returns."""
        return tuple(_leaves(self.network(image)))


def _leaves(returned: Any) -> list[Any]:
    if returned is None:
        return []
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    if isinstance(returned, (list, tuple)):
        return [leaf for each in returned for leaf in _leaves(each)]
    return [returned]
