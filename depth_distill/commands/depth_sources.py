"""Depth in metres from a checkpoint, from an ONNX file, or from a folder of predictions."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from depth_distill.data.reading import read_depth
from depth_distill.display.pictures import PanelRow
from depth_distill.errors import ConfigError, DataError
from depth_distill.evaluation import Evaluator
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.bundle.bundle import bundle_of
from depth_distill.export.onnx_io.metric_onnx import METRES
from depth_distill.loading.trained import LoadedRun
from depth_distill.models import DepthCodec
from depth_distill.quantization.interface import named_layout

_SCALES = {".npy": 1.0, ".png": 1000.0}  # units per metre
_PANEL_ROWS = 4

Depth = Callable[[Tensor], Tensor]
"""Normalized images ``(B, 3, H, W)`` to metres ``(B, 1, H, W)``."""


def of_checkpoint(run: LoadedRun) -> Depth:
    """Depth of a run's network."""
    return lambda images: run.network.codec.decode(run.network(images).float())


def of_file(file: Path, codec: DepthCodec) -> Depth:
    """Depth of an ONNX file, read as its bundle says, or else by the codec.

    Raises:
        ConfigError: the bundle is for another depth range.
    """
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


def names_of(run: LoadedRun, evaluator: Evaluator) -> list[str]:
    """Names of the samples that are scored, in their order."""
    assert run.data.val is not None
    return [run.data.val.name(index) for batch in evaluator.batches for index in batch.sample_index.tolist()]


def of_predictions(folder: Path, evaluator: Evaluator, names: Sequence[str]) -> Tensor:
    """Depth ``(N, 1, H, W)`` in metres, one file per sample.

    Raises:
        DataError: a file that is missing, of another size, or without depth somewhere.
    """
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


def panel_rows(run: LoadedRun, evaluator: Evaluator, depth_m: Tensor) -> list[PanelRow]:
    """Some images, evenly spread, with ground truth and depth."""
    names = names_of(run, evaluator)
    pictures = run.data.normalize.inverse(torch.cat(evaluator.images))
    truth = torch.cat([batch.depth_m for batch in evaluator.batches])
    valid = torch.cat([batch.valid for batch in evaluator.batches])
    chosen = torch.linspace(0, len(names) - 1, min(_PANEL_ROWS, len(names))).long().tolist()
    return [PanelRow(names[i], pictures[i], depth_m[i], truth[i], valid[i]) for i in chosen]
