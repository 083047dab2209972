"""Validate data before training: bad files, sizes, depth ranges, and depth in the wrong unit."""

import math
import signal
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch.utils.data import DataLoader, Dataset

from depth_distill.data.dataset import DepthDataset
from depth_distill.errors import DataError
from depth_distill.types import DepthRange

KNOWN_DEPTH_SCALES = (1.0, 256.0, 1000.0, 5000.0)
"""File units per metre: metres; KITTI and NCDB; millimetres; TUM RGB-D."""

# A wrong unit leaves almost nothing inside the depth range. Correct data can have its median outside a deliberately
# narrow range: in driving frames read for 0.5 to 15 m, the median is up to 20 m, with 39 % of the pixels inside.
_LEAST_IN_RANGE = 0.25
_BAD_SHOWN = 20


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used."""

    index: int
    source: str
    message: str
    """What is wrong, in which file, and the cure."""


@dataclass(frozen=True)
class DatasetReport:
    """Statistics of a data set. Depths are over the valid pixels of good samples; None if there are none."""

    samples: int
    """Number of samples read, good or bad."""
    total: int
    """Number of samples to read: more than were read where Ctrl-C ended it."""
    sizes: Mapping[tuple[int, int], int]
    """Number of good samples by (width, height)."""
    min_m: float | None
    median_m: float | None
    """Median of the per-image medians."""
    max_m: float | None
    valid_share: float
    """Share of valid pixels among all pixels, in [0, 1]."""
    in_range_share: float
    """Share of pixels in the depth range among valid pixels, in [0, 1]."""
    bad: Sequence[BadSample]
    out_of_range: bool
    """Whether the median and most depths are outside the depth range, as if they were read in the wrong unit."""
    probable_scale: float | None
    """The depth_scale that was probably meant; None if the current one is plausible or none of the usual ones fits."""

    @property
    def usable(self) -> bool:
        """Whether ``fit`` is expected to accept the data, and to learn from every sample."""
        return not self.bad and not self.out_of_range

    @property
    def complete(self) -> bool:
        """Whether all samples were read."""
        return self.samples == self.total


def validate_dataset(
    dataset: DepthDataset,
    depth_range: DepthRange,
    progress: Callable[[], object] | None = None,
    stride: int = 1,
    workers: int = 0,
) -> DatasetReport:
    """Read every sample, continuing after bad ones. Ctrl-C ends it, with a report on what was read so far.

    Args:
        dataset: the samples.
        depth_range: depth range of the run.
        progress: called after each sample.
        stride: read only every ``stride``-th sample.
        workers: number of processes that read.

    Raises:
        DataError: the list of samples itself cannot be read.
    """
    depths = _DepthStatistics(depth_range)
    bad: list[BadSample] = []
    indices = range(0, len(dataset), stride)
    loader = DataLoader(
        _Inspections(dataset, depth_range, indices),
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_leave_interrupts_to_the_main_process,
    )
    read = 0
    try:
        for inspected in loader:
            depths.add(inspected) if isinstance(inspected, _Depths) else bad.append(inspected)
            read += 1
            if progress is not None:
                progress()
    except KeyboardInterrupt:
        pass
    scale = getattr(dataset, "depth_scale", None)
    median_m = depths.median_m
    if not depths.is_out_of_range:  # or else it is the unit of all of them
        bad += [_nothing_in_range(dataset, each, depth_range) for each in depths.unusable]
    return DatasetReport(
        samples=read,
        total=len(indices),
        sizes=dict(depths.sizes),
        min_m=depths.min_m if depths.medians_m else None,
        median_m=median_m,
        max_m=depths.max_m if depths.medians_m else None,
        valid_share=depths.valid / max(depths.pixels, 1),
        in_range_share=depths.in_range_share,
        bad=tuple(sorted(bad, key=lambda sample: sample.index)),
        out_of_range=depths.is_out_of_range,
        probable_scale=probable_depth_scale(median_m, scale, depth_range)
        if depths.is_out_of_range and median_m is not None and scale is not None
        else None,
    )


def check_scale(dataset: DepthDataset, depth_range: DepthRange, samples: int = 8) -> None:
    """Read a few evenly spaced samples, and fail if their depth is probably read in the wrong unit.

    That is assumed if both their median and three quarters of their pixels lie outside the depth range.

    Raises:
        DataError: the unit is probably wrong, or a sample cannot be read.
    """
    if not dataset.has_depth:
        return
    depths = _DepthStatistics(depth_range)
    last = len(dataset) - 1
    for index in sorted({round(last * i / max(samples - 1, 1)) for i in range(samples)}):
        depths.add(_inspect(dataset, index, depth_range))
    median_m = depths.median_m
    if median_m is None or not depths.is_out_of_range:
        return
    found = (
        f"{dataset.source(0)} and others: the median depth is {median_m:.4g} m and only {depths.in_range_share:.0%} of "
        f"the pixels are in the depth range of {depth_range}"
    )
    scale = getattr(dataset, "depth_scale", None)
    if scale is None:
        raise DataError(f"{found}; change data.depth_range")
    probable = probable_depth_scale(median_m, scale, depth_range)
    if probable is None:
        known = ", ".join(f"{known:g}" for known in KNOWN_DEPTH_SCALES)
        raise DataError(
            f"{found} with depth_scale {scale:g}, and no usual scale ({known} units per metre) puts it there; check "
            "the depth files, or change data.depth_range"
        )
    raise DataError(
        f"{found} with depth_scale {scale:g}; depth_scale {probable:g} was probably meant (a median of "
        f"{median_m * scale / probable:.3g} m): set it for this data set, or change data.depth_range"
    )


def probable_depth_scale(median_m: float, current_scale: float, depth_range: DepthRange) -> float | None:
    """The usual scale that puts the median depth nearest to the geometric middle of the range.

    Returns None if the median is already in the range, or if no usual scale puts it there.
    """
    if depth_range.min_m <= median_m <= depth_range.max_m:
        return None
    middle_m = math.sqrt(depth_range.min_m * depth_range.max_m)
    medians_m = {scale: median_m * current_scale / scale for scale in KNOWN_DEPTH_SCALES}
    fitting = [scale for scale, m in medians_m.items() if depth_range.min_m <= m <= depth_range.max_m]
    return min(fitting, key=lambda scale: abs(math.log(medians_m[scale] / middle_m)), default=None)


def report_table(reports: Mapping[str, DatasetReport]) -> Group:
    """One row per report, and below the table the bad samples (up to 20 per report, then how many more)."""
    table = Table(title="data")
    table.add_column("split", no_wrap=True)
    for column in ("samples", "bad", "width x\nheight", "min m", "median\nm", "max m", "valid", "in\nrange"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, report in reports.items():
        has_depth = report.median_m is not None
        table.add_row(
            Text(name),
            str(report.samples),
            Text(str(len(report.bad)), style="red" if report.bad else ""),
            "\n".join(_sizes(report)) or "-",
            *(f"{value:.3f}" if value is not None else "-" for value in (report.min_m, report.median_m, report.max_m)),
            *(f"{share:.1%}" if has_depth else "-" for share in (report.valid_share, report.in_range_share)),
        )
    # Text, not markup: file names may contain brackets.
    return Group(table, *(Text(line) for name, report in reports.items() for line in _remarks(name, report)))


def _sizes(report: DatasetReport) -> Iterator[str]:
    for (width, height), count in report.sizes.items():
        yield f"{width} x {height}"
        if len(report.sizes) > 1:
            yield f"({count})"  # on its own line, so that the table fits a terminal of 80 columns


def _remarks(name: str, report: DatasetReport) -> Iterator[str]:
    for sample in report.bad[:_BAD_SHOWN]:
        yield f"{name}: {sample.message}"
    if len(report.bad) > _BAD_SHOWN:
        yield f"{name}: ... and {len(report.bad) - _BAD_SHOWN} more bad samples"
    if report.out_of_range:
        scale = report.probable_scale
        cure = f"depth_scale {scale:g} was probably meant" if scale else "check the files, or change data.depth_range"
        yield f"{name}: most depths are out of range; {cure}"
    if not report.complete:
        yield f"{name}: interrupted after {report.samples} of {report.total} samples"


@dataclass(frozen=True)
class _Depths:
    """What a report needs of a good sample. Without a valid depth, as in image-only data, the depths are NaN."""

    index: int
    width: int
    height: int
    valid: int
    in_range: int
    min_m: float = math.nan
    median_m: float = math.nan
    max_m: float = math.nan


def _inspect(dataset: DepthDataset, index: int, depth_range: DepthRange) -> _Depths:
    sample = dataset[index]
    height, width = sample.image.shape[-2:]
    depths_m = sample.depth_m[sample.valid]
    if depths_m.numel() == 0:
        return _Depths(index, width, height, 0, 0)
    in_range = int(depth_range.contains(depths_m).sum())
    values = (depths_m.min().item(), depths_m.median().item(), depths_m.max().item())
    return _Depths(index, width, height, depths_m.numel(), in_range, *values)


class _Inspections(Dataset[_Depths | BadSample]):
    """What is found in each sample, for a loader with several workers."""

    def __init__(self, dataset: DepthDataset, depth_range: DepthRange, indices: Sequence[int]) -> None:
        self.dataset, self.depth_range, self.indices = dataset, depth_range, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> _Depths | BadSample:
        index = self.indices[position]
        try:
            return _inspect(self.dataset, index, self.depth_range)
        except DataError as error:
            return BadSample(index, self.dataset.source(index), str(error))


def _unchanged(inspected: Any) -> Any:
    return inspected


def _leave_interrupts_to_the_main_process(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _nothing_in_range(dataset: DepthDataset, depths: _Depths, depth_range: DepthRange) -> BadSample:
    source = dataset.source(depths.index)
    return BadSample(
        depths.index,
        source,
        f"{source}: no depth is in the range of {depth_range}: they are {depths.min_m:.4g} to {depths.max_m:.4g} m; "
        "check the depth file and its unit, or change data.depth_range",
    )


class _DepthStatistics:
    """Accumulates sizes and depth statistics over samples."""

    def __init__(self, depth_range: DepthRange) -> None:
        self.depth_range = depth_range
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.medians_m: list[float] = []
        self.min_m, self.max_m = math.inf, 0.0
        self.pixels = self.valid = self.in_range = 0
        self.unusable: list[_Depths] = []

    def add(self, sample: _Depths) -> None:
        self.sizes[sample.width, sample.height] += 1
        self.pixels += sample.height * sample.width
        if sample.valid == 0:
            return
        if sample.in_range == 0:
            self.unusable.append(sample)
        self.valid += sample.valid
        self.in_range += sample.in_range
        self.medians_m.append(sample.median_m)
        self.min_m = min(self.min_m, sample.min_m)
        self.max_m = max(self.max_m, sample.max_m)

    @property
    def median_m(self) -> float | None:
        return statistics.median(self.medians_m) if self.medians_m else None

    @property
    def in_range_share(self) -> float:
        return self.in_range / max(self.valid, 1)

    @property
    def is_out_of_range(self) -> bool:
        median_m = self.median_m
        return (
            median_m is not None
            and not self.depth_range.min_m <= median_m <= self.depth_range.max_m
            and self.in_range_share < _LEAST_IN_RANGE
        )
