"""Score a network on any runtime: one loop and one metric for checkpoints, quantized graphs and ONNX files."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import torch
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from depth_distill.errors import DataError
from depth_distill.metrics import BANDS_M, DepthMetrics
from depth_distill.models import DepthCodec
from depth_distill.quantization.interface import Interface
from depth_distill.streaming import Mapped, Streamed
from depth_distill.types import Alignment, DepthBatch

Network = Callable[[Tensor], Tensor]
"""Maps normalized images ``(B, 3, H, W)`` to codes ``(B, C, H, W)``."""

DRIFT_NAMES = ("drift_mm", "drift_p99_mm", "drift_rel")
"""Mean and 99th percentile of ``|d - d_float|`` in mm, and mean of ``|d - d_float| / d_float``, over all pixels."""


class Evaluator:
    """Scores networks on a labelled split, which is read as it is needed.

    ``evaluator(network)`` returns the metrics of :class:`~depth_distill.metrics.DepthMetrics` and, if there is a
    reference, the drift of the depth from it, over all pixels with or without ground truth. Both are computed per
    image and then averaged.

    Args:
        batches: the split; see :meth:`~depth_distill.data.DepthSplits.validation_batches`.
        codec: decodes the codes to depth.
        bands_m: depth bands that the metrics are also computed in.
        reference: the float network that drift is measured from.
        alignment: how relative depth is fitted to the ground truth before it is scored. Drift is measured without, in
            the unit that the codec gives relative depth.
        device: where networks, metrics and ``images`` are; the batches are moved there one by one.

    Raises:
        DataError: the split has no images.
    """

    def __init__(
        self,
        batches: Iterable[DepthBatch],
        codec: DepthCodec,
        bands_m: Sequence[tuple[float, float]] = BANDS_M,
        reference: Network | None = None,
        alignment: Alignment = "none",
        device: torch.device | str = "cpu",
    ) -> None:
        self.batches: Sequence[DepthBatch] = batches if isinstance(batches, Sequence) else tuple(batches)
        if not self.batches:
            raise DataError("the split to evaluate on is empty: expected at least one image")
        self.codec = codec
        self.metrics = DepthMetrics(codec.depth_range, bands_m, alignment)
        self.device = torch.device(device)
        self.images = Mapped(self._image, self.batches)
        self.reference_m: Sequence[Tensor] | None = None
        if reference is not None:
            self.reference_m = Streamed(len(self.batches), _depth_of(reference, codec, self.images), _bytes)

    def with_codec(self, codec: DepthCodec) -> "Evaluator":
        """An evaluator with the same images and reference depth, for networks with another codec."""
        other = Evaluator(
            self.batches, codec, self.metrics.bands_m, alignment=self.metrics.alignment, device=self.device
        )
        other.reference_m = self.reference_m
        return other

    @property
    def protocol(self) -> str:
        """How the metrics were computed, for titles and records."""
        return self.metrics.protocol

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`measure`."""
        return self.metrics.names + (DRIFT_NAMES if self.reference_m is not None else ())

    def __call__(self, network: Network, description: str | None = None) -> dict[str, float]:
        """Metrics of a network, by name.

        Args:
            network: maps images to codes; a module must be in evaluation mode.
            description: label of the progress bar, which is only shown if this is given.
        """
        return self.of_batches(lambda batch: self.codec.decode(network(batch.image).float()), description)

    def of_codes(self, codes: Tensor) -> dict[str, float]:
        """Metrics of codes ``(N, C, H, W)`` of all images, in order, computed by any runtime."""
        rest = iter(codes)
        return self.of_batches(lambda batch: self.codec.decode(_next(rest, len(batch.image)).float()))

    def of_depth(self, depth_m: Tensor) -> dict[str, float]:
        """Metrics of depth ``(N, 1, H, W)`` in metres of all images, in order."""
        rest = iter(depth_m)
        return self.of_batches(lambda batch: _next(rest, len(batch.image)))

    def of_batches(self, depth_of: Callable[[DepthBatch], Tensor], description: str | None = None) -> dict[str, float]:
        """Metrics of the depth ``(B, 1, H, W)`` in metres that a function gives for each batch, in order.

        Args:
            depth_of: called with each batch, whose image is on the device.
            description: see :meth:`__call__`.
        """
        batches = track(self.batches, escape(description or ""), transient=True, disable=description is None)
        with torch.inference_mode():
            rows = [
                self.measure_depth(position, depth_of(batch._replace(image=self._image(batch))))
                for position, batch in enumerate(batches)
            ]
        return self.summarize(torch.cat(rows))

    def measure(self, position: int, codes: Tensor) -> Tensor:
        """Metrics of each image of a batch, ``(B, len(names))`` float64 on the CPU.

        Args:
            position: index of the batch.
            codes: output of the network for ``images[position]``.
        """
        return self.measure_depth(position, self.codec.decode(codes.float()))

    def measure_depth(self, position: int, depth_m: Tensor) -> Tensor:
        """:meth:`measure` of depth ``(B, 1, H, W)`` in metres instead of codes."""
        batch, depth_m = self.batches[position], depth_m.to(self.device)
        rows = self.metrics.measure(depth_m, batch.depth_m.to(self.device), batch.valid.to(self.device))
        if self.reference_m is None:
            return rows.cpu()
        reference_m = self.reference_m[position].flatten(1).double()
        # The average over images would skip NaN.
        drift_m = (depth_m.flatten(1) - reference_m).abs().nan_to_num(nan=math.inf, posinf=math.inf)
        # The value that 1 % of the pixels exceed.
        p99_m = drift_m.kthvalue(max(1, round(0.99 * drift_m.shape[1])), dim=1).values
        drifts = [1000 * drift_m.mean(1), 1000 * p99_m, (drift_m / reference_m).mean(1)]
        return torch.cat([rows, torch.stack(drifts, dim=1)], dim=1).cpu()

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Means over images, by name; NaN if no image has ground truth (in the band)."""
        return dict(zip(self.names, rows.nanmean(dim=0).tolist(), strict=True))

    def _image(self, batch: DepthBatch) -> Tensor:
        return batch.image.to(self.device)


def _depth_of(
    reference: Network, codec: DepthCodec, images: Sequence[Tensor]
) -> Callable[[Sequence[int]], Iterator[Tensor]]:
    def make(positions: Sequence[int]) -> Iterator[Tensor]:
        for position in positions:
            with torch.inference_mode():
                yield codec.decode(reference(images[position]).float())

    return make


def _next(values: Iterator[Tensor], count: int) -> Tensor:
    return torch.stack(list(islice(values, count)))


def _bytes(values: Tensor) -> int:
    return values.nbytes


class InterfaceScorer:
    """An evaluator for graphs that a recipe prepared: pixels may go in, several tensors or other codes come out.

    Args:
        evaluator: evaluator on normalized images and the codes of the trained network.
        interface: what the graphs take and return.
    """

    def __init__(self, evaluator: Evaluator, interface: Interface) -> None:
        same = str(evaluator.codec) == str(interface.codec)
        self.evaluator = evaluator if same else evaluator.with_codec(DepthCodec(interface.codec))
        self.interface = interface
        self.names = evaluator.names
        self.images = Mapped(interface.feed, evaluator.images)
        self.summarize = evaluator.summarize

    def measure(self, position: int, values: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """Metrics of each image of the batch at ``position``, ``(B, len(names))``."""
        return self.evaluator.measure(position, self.interface.outputs.codes(values))

    def __call__(self, graph: Callable[[Tensor], Tensor | Mapping[str, Tensor] | Sequence[Tensor]]) -> dict[str, float]:
        """Metrics of a graph, or of anything that returns the same outputs in order or by name."""
        with torch.inference_mode():
            rows = [self.measure(position, graph(images)) for position, images in enumerate(self.images)]
        return self.summarize(torch.cat(rows))
