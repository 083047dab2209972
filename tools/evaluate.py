"""The metrics of a checkpoint, of an ONNX file, or of a folder of predictions, on the validation split of a run.

    python tools/evaluate.py --checkpoint runs/.../last.ckpt
    python tools/evaluate.py --checkpoint runs/.../last.ckpt --onnx bundle/model.int8.onnx
    python tools/evaluate.py --checkpoint runs/.../last.ckpt --predictions runs/.../predictions/depth

Inputs, outputs and codec of a file in a bundle are those of its manifest; another file takes normalized images and
returns codes of the run's network. Predictions are named after the samples, as ``predict`` names them: 16-bit PNG in
millimetres, or .npy in metres, of the size that the run evaluates at. Other options override the config.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from depth_distill import trained
from depth_distill.atomic import write_json
from depth_distill.errors import ConfigError, DataError
from depth_distill.evaluation import Evaluator
from depth_distill.exits import exit_code
from depth_distill.export.bundle import bundle_of
from depth_distill.export.runtime import OnnxNetwork
from depth_distill.export.single_onnx import METRES
from depth_distill.tables import metric_table

_MILLIMETRES = 1000.0


def main(args: Sequence[str] | None = None) -> int:
    """Score and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trained.add_arguments(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--onnx", type=Path, help="a file of a bundle, or one that returns codes")
    what.add_argument("--predictions", type=Path, help="folder of depth maps")
    parser.add_argument("--images", type=int, help="about so many of the validation split; all if not given")
    parser.add_argument("--out", type=Path, help="file for the metrics as JSON")
    options, overrides = parser.parse_known_args(args)

    def work() -> None:
        run = trained.load_trained(options.checkpoint, options.config, overrides)
        evaluator = run.evaluator(options.images)
        if options.onnx is not None:
            metrics = _of_file(options.onnx, evaluator)
        elif options.predictions is not None:
            assert run.data.val is not None
            metrics = _of_predictions(options.predictions, evaluator, run.data.val.name)
        else:
            metrics = evaluator(run.network, "val")
        scored = options.onnx or options.predictions or options.checkpoint
        Console().print(metric_table(f"{scored}, val: {evaluator.protocol}", metrics))
        if options.out is not None:
            write_json(options.out, {"scored": str(scored), "protocol": evaluator.protocol, "metrics": metrics})

    return exit_code(work)


def _of_file(file: Path, evaluator: Evaluator) -> dict[str, float]:
    bundle = bundle_of(file)
    if bundle is None:
        return evaluator(OnnxNetwork(file), "val")
    network = OnnxNetwork(file, inputs=bundle.input)
    if [each.name for each in network.session.get_outputs()] == [METRES]:
        return evaluator.of_depth(torch.cat([network(images) for images in evaluator.images]))
    if str(bundle.codec) != str(evaluator.codec) or bundle.codec.depth_range != evaluator.codec.depth_range:
        raise ConfigError(f"{file} has the codec {bundle.codec}, but the run's network {evaluator.codec}")
    network.outputs = bundle.layout
    return evaluator(network, "val")


def _of_predictions(folder: Path, evaluator: Evaluator, name_of: Callable[[int], str]) -> dict[str, float]:
    names = [name_of(index) for batch in evaluator.batches for index in batch.sample_index.tolist()]
    size = tuple(evaluator.images[0].shape[-2:])
    return evaluator.of_depth(torch.stack([_read(folder, name, size) for name in names]))


def _read(folder: Path, name: str, size: tuple[int, ...]) -> Tensor:
    png, npy = folder / f"{name}.png", folder / f"{name}.npy"
    if npy.is_file():
        depth_m = np.load(npy, allow_pickle=False).astype(np.float32)
    elif png.is_file():
        depth_m = np.asarray(Image.open(png)).astype(np.float32) / _MILLIMETRES
    else:
        raise DataError(f"{folder} has no {name}.png or {name}.npy: expected one an image of the validation split")
    depth_m = depth_m.reshape(depth_m.shape[-2:]) if depth_m.ndim > 2 else depth_m
    if depth_m.shape != size:
        raise DataError(f"the depth of {name} in {folder} has the size {depth_m.shape}, expected {size} (H x W)")
    return torch.from_numpy(depth_m)[None]


if __name__ == "__main__":
    sys.exit(main())
