"""Depth in metres from a checkpoint, from an ONNX file, or from a folder of predictions."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from depth_distill.codecs import HostCodec, HostTable, codec_of, describe_codec
from depth_distill.data.placement import Placement
from depth_distill.data.reading import read_depth
from depth_distill.display.pictures import PanelRow
from depth_distill.errors import ConfigError, DataError, one_line
from depth_distill.evaluation import Evaluator
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.bundle.bundle import INTEGER_KINDS, bundle_of
from depth_distill.export.onnx_io.metric_onnx import METRES
from depth_distill.loading.trained import LoadedRun
from depth_distill.models import DepthCodec
from depth_distill.quantization.interface import named_layout
from depth_distill.types import DepthBatch

_SCALES = {".npy": 1.0, ".png": 1000.0}  # units per metre
_PANEL_ROWS = 4

Depth = Callable[[DepthBatch], Tensor]
"""A batch to its depth in metres, ``(B, 1, H, W)``."""


def of_checkpoint(run: LoadedRun) -> Depth:
    """Depth of a run's network."""
    return lambda batch: run.network.codec.decode(run.network(batch.image).float())


@dataclass(frozen=True)
class FileDepth:
    """Depth of an ONNX file.

    Attributes:
        depth_of: its depth, through a decode table if there is one.
        without_table: its depth without; None where there is no table.
        table: whose outputs the table corrects, or its file; empty where there is none.
        of_this_runtime: whether it was fitted on ONNX Runtime, which runs the file here; a table for another tool chain
            is right here only as far as both return the same codes.
    """

    depth_of: Depth
    without_table: Depth | None = None
    table: str = ""
    of_this_runtime: bool = True


def of_file(file: Path, codec: DepthCodec, table: Path | None = None) -> FileDepth:
    """Depth of an ONNX file, read as its bundle says, or else by the codec.

    It goes through a decode table where one is given, or where the file has integer codes and its bundle has a table.

    Raises:
        ConfigError: the bundle is for another depth range, or the table is of another codec or cannot be read.
    """
    bundle = bundle_of(file)
    network = OnnxNetwork(file, inputs=None if bundle is None else bundle.input)
    names = tuple(each.name for each in network.session.get_outputs())
    if names == (METRES,):
        if table is not None:
            raise ConfigError(f"{file} returns metres, and a decode table takes codes: give another file of the bundle")
        return FileDepth(lambda batch: network(batch.image))
    source = ""
    behind: HostCodec | None = None
    if bundle is not None:
        network.outputs = bundle.layout
        if bundle.codec.depth_range != codec.depth_range:
            raise ConfigError(f"{file} is for depth {bundle.codec.depth_range}, the config for {codec.depth_range}")
        codec = DepthCodec(bundle.codec)
        if bundle.table is not None and bundle.kind_of(file) in INTEGER_KINDS:
            behind, source = bundle.table, bundle.table_source
    else:
        network.outputs = named_layout(codec.host, names)
    if table is not None:
        behind, source = _with_table(table, codec.host), str(table)

    def through(decoder: DepthCodec) -> Depth:
        return lambda batch: decoder.decode(network(batch.image))

    if behind is None:
        return FileDepth(through(codec))
    here = table is not None or (bundle is not None and bundle.table_backend == "onnxruntime")
    return FileDepth(through(DepthCodec(behind)), through(codec), source, here)


def read_table(path: Path) -> HostTable:
    """The codec behind a decode table, from a file of ``depth-distill fit-decoder``.

    Raises:
        ConfigError: it does not exist, or is none.
    """
    try:
        found = codec_of(json.loads(path.read_text(encoding="utf-8"))["codec"])
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: depth-distill fit-decoder writes it") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no decode table of depth-distill fit-decoder ({one_line(error)})") from error
    if not isinstance(found, HostTable):
        raise ConfigError(f"{path} has the codec {found} and no table: give decode_table.json of fit-decoder")
    return found


def _with_table(path: Path, codec: HostCodec) -> HostTable:
    found = read_table(path)
    if describe_codec(found.inner) != describe_codec(codec):
        raise ConfigError(f"{path} was fitted to the codec {found.inner} of {found.depth_range}, not to {codec}")
    return found


def of_predictions(folder: Path, run: LoadedRun) -> Depth:
    """Depth from a folder with one file per sample of the validation split.

    Raises:
        DataError: when it is called: a file that is missing, of another size, or without depth somewhere.
    """

    def depth_of(batch: DepthBatch) -> Tensor:
        places = [run.data.placement("val", index) for index in batch.sample_index.tolist()]
        return torch.stack([_read(folder, name, place) for name, place in zip(_names(run, batch), places, strict=True)])

    return depth_of


def _read(folder: Path, name: str, placement: Placement) -> Tensor:
    """A depth map, put where the image lies in what the network takes; bars have the depth beside them."""
    files = [path for suffix in _SCALES if (path := folder / f"{name}{suffix}").is_file()]
    if not files:
        raise DataError(f"{folder} has no {name}.png or {name}.npy: expected one an image of the validation split")
    depth_m = read_depth(files[0], _SCALES[files[0].suffix])
    rows, columns = placement.shown
    size = (rows.stop - rows.start, columns.stop - columns.start)
    if tuple(depth_m.shape[-2:]) != size:
        raise DataError(f"{files[0]} has the size {tuple(depth_m.shape[-2:])}, expected {size} (H x W)")
    without = int((depth_m == 0).sum())
    if without:
        raise DataError(f"{files[0]}: {without} of {depth_m.numel()} pixels have no depth; expected one everywhere")
    (height, width), (above, left) = placement.size, (rows.start, columns.start)
    bars = (left, width - columns.stop, above, height - rows.stop)
    return F.pad(depth_m[None], bars, mode="replicate")[0] if any(bars) else depth_m


def panel_rows(run: LoadedRun, evaluator: Evaluator, depth_of: Depth) -> list[PanelRow]:
    """Some images, evenly spread, with ground truth and depth."""
    size, last = (len(evaluator.batches[position].image) for position in (0, -1))  # all but the last are full
    count = size * (len(evaluator.batches) - 1) + last
    chosen = torch.linspace(0, count - 1, min(_PANEL_ROWS, count)).long().tolist()
    return [_panel_row(run, evaluator, depth_of, *divmod(each, size)) for each in chosen]


def _panel_row(run: LoadedRun, evaluator: Evaluator, depth_of: Depth, position: int, row: int) -> PanelRow:
    batch = DepthBatch(*(each[row : row + 1] for each in evaluator.batches[position]))
    with torch.inference_mode():
        (depth_m,) = depth_of(batch._replace(image=batch.image.to(evaluator.device)))
    (name,) = _names(run, batch)
    picture = run.data.normalize.inverse(batch.image[0])
    return PanelRow(name, picture, depth_m, batch.depth_m[0], batch.valid[0])


def _names(run: LoadedRun, batch: DepthBatch) -> list[str]:
    """Names of the samples of a batch."""
    assert run.data.val is not None
    return [run.data.val.name(index) for index in batch.sample_index.tolist()]
