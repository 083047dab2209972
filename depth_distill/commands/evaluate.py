"""The metrics of a checkpoint, of an ONNX file, or of a folder of predictions, on the validation split of a run.

    depth-distill evaluate --checkpoint runs/.../last.ckpt
    depth-distill evaluate --checkpoint runs/.../last.ckpt --onnx bundle/model.int8.onnx --panel int8.png
    depth-distill evaluate --config config.yaml --onnx bundle/model.int8.onnx --data.root DIR
    depth-distill evaluate --config config.yaml --predictions runs/.../predictions/depth

The split comes from the config: of the checkpoint's run, or the one that is given; a file or predictions need no
checkpoint. Inputs, outputs and codec of a file in a bundle are those of its manifest; another file takes normalized
images and returns codes of the config's network. Predictions are named after the samples, as ``predict`` names them:
16-bit PNG in millimetres, or .npy in metres, of the size that the run evaluates at. Other options override the config.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from depth_distill.atomic import write_json
from depth_distill.data.reading import read_depth
from depth_distill.display.pictures import PanelRow, depth_panel, save_figure
from depth_distill.display.tables import metric_table, wide_console
from depth_distill.errors import ConfigError, DataError
from depth_distill.evaluation import Evaluator
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.bundle.bundle import bundle_of
from depth_distill.export.onnx_io.metric_onnx import METRES
from depth_distill.loading.trained import LoadedRun, build_untrained, load_run
from depth_distill.models import DepthCodec
from depth_distill.quantization.interface import named_layout

_SCALES = {".npy": 1.0, ".png": 1000.0}  # units a metre
_PANEL_ROWS = 4

Depth = Callable[[Tensor], Tensor]
"""Normalized images ``(B, 3, H, W)`` to metres ``(B, 1, H, W)``."""


def main(args: Sequence[str] | None = None) -> int:
    """Score and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a .ckpt of a run")
    parser.add_argument("--config", type=Path, help="of the data; the one in the checkpoint's run if not given")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--onnx", type=Path, help="a file of a bundle, or one that returns codes")
    what.add_argument("--predictions", type=Path, help="folder of depth maps")
    parser.add_argument("--images", type=int, help="about so many of the validation split; all if not given")
    parser.add_argument("--out", type=Path, help="file for the metrics as JSON")
    parser.add_argument("--panel", type=Path, help="picture of some images: ground truth, depth and error")
    options, overrides = parser.parse_known_args(args)

    def work() -> None:
        scored = options.onnx or options.predictions or options.checkpoint
        if scored is None:
            raise ConfigError("there is nothing to score: give --checkpoint, --onnx or --predictions")
        run = _run(options, overrides)
        evaluator = run.evaluator(options.images)
        if options.predictions is not None:
            depth_m = _of_predictions(options.predictions, evaluator, _names(run, evaluator))
        else:
            depth_of = _of_checkpoint(run) if options.onnx is None else _of_file(options.onnx, run.network.codec)
            batches = track(evaluator.images, "val", transient=True)
            with torch.inference_mode():
                depth_m = torch.cat([depth_of(images) for images in batches])
        metrics = evaluator.of_depth(depth_m)
        wide_console().print(metric_table(f"{scored}, val: {evaluator.protocol}", metrics))
        if options.out is not None:
            write_json(options.out, {"scored": str(scored), "protocol": evaluator.protocol, "metrics": metrics})
        if options.panel is not None:
            save_figure(depth_panel(_rows(run, evaluator, depth_m)), options.panel)

    return exit_code(work)


def _run(options: argparse.Namespace, overrides: Sequence[str]) -> LoadedRun:
    if options.checkpoint is not None:
        return load_run(options.checkpoint, options.config, overrides)
    if options.config is None:
        raise ConfigError("the images to score on are missing: give --config (of a run), or --checkpoint")
    return build_untrained(options.config, overrides)


def _of_checkpoint(run: LoadedRun) -> Depth:
    return lambda images: run.network.codec.decode(run.network(images).float())


def _of_file(file: Path, codec: DepthCodec) -> Depth:
    bundle = bundle_of(file)
    network = OnnxNetwork(file, inputs=None if bundle is None else bundle.input)
    names = tuple(each.name for each in network.session.get_outputs())
    if names == (METRES,):
        return network
    if bundle is not None:
        network.outputs = bundle.layout
        if bundle.codec.depth_range != codec.depth_range:
            raise ConfigError(f"{file} is for depth {bundle.codec.depth_range}, the config for {codec.depth_range}")
        codec = DepthCodec(bundle.codec)
    else:
        network.outputs = named_layout(codec.host, names)
    return lambda images: codec.decode(network(images))


def _names(run: LoadedRun, evaluator: Evaluator) -> list[str]:
    assert run.data.val is not None
    return [run.data.val.name(index) for batch in evaluator.batches for index in batch.sample_index.tolist()]


def _of_predictions(folder: Path, evaluator: Evaluator, names: Sequence[str]) -> Tensor:
    size = tuple(evaluator.images[0].shape[-2:])
    return torch.stack([_read(folder, name, size) for name in names])


def _read(folder: Path, name: str, size: tuple[int, ...]) -> Tensor:
    files = [path for suffix in _SCALES if (path := folder / f"{name}{suffix}").is_file()]
    if not files:
        raise DataError(f"{folder} has no {name}.png or {name}.npy: expected one an image of the validation split")
    depth_m = read_depth(files[0], _SCALES[files[0].suffix])
    if tuple(depth_m.shape[-2:]) != size:
        raise DataError(f"{files[0]} has the size {tuple(depth_m.shape[-2:])}, expected {size} (H x W)")
    without = int((depth_m == 0).sum())
    if without:
        raise DataError(f"{files[0]}: {without} of {depth_m.numel()} pixels have no depth; expected one everywhere")
    return depth_m


def _rows(run: LoadedRun, evaluator: Evaluator, depth_m: Tensor) -> list[PanelRow]:
    names = _names(run, evaluator)
    pictures = run.data.normalize.inverse(torch.cat(evaluator.images))
    truth = torch.cat([batch.depth_m for batch in evaluator.batches])
    valid = torch.cat([batch.valid for batch in evaluator.batches])
    chosen = torch.linspace(0, len(names) - 1, min(_PANEL_ROWS, len(names))).long().tolist()
    return [PanelRow(names[i], pictures[i], depth_m[i], truth[i], valid[i]) for i in chosen]


if __name__ == "__main__":
    sys.exit(main())
