"""What each known substitution of an activation would do to a network, before anything is sent to a tool chain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.progress import Progress
from rich.table import Table
from torch import Tensor, fx

from depth_distill.errors import DataError
from depth_distill.quantization.analysis.replay import Replay
from depth_distill.quantization.graph.substituted import SUBSTITUTIONS, output_sites, substitute, substituted

HEADER = ("operator", "computed as", "where", "its input", "mm", "%", "verdict")

# Of depth, or of an output: INT8 itself costs 0.2 to 1 % of a network that is fit for it.
_HARMLESS, _NOTICEABLE = 0.005, 0.02
_SHOWN = 2  # names of places in a table
_TINY = 1e-12


@dataclass(frozen=True)
class Row:
    """One substitution, at the outputs of a network or in its inside, and nothing else changed.

    Attributes:
        operator: operator that is substituted.
        by: what is computed in its place.
        at_output: whether the network returns what is substituted.
        places: dotted names of the activations.
        lowest: lowest input of these activations on the images.
        highest: highest input.
        relative: mean of |d - d0| / d0 over all pixels; without depth RMS of the change over RMS of the worst output.
        drift_mm: mean of |d - d0| over all pixels; None without depth.
        by_output: relative change by name or place of an output, where there is no depth.
    """

    operator: str
    by: str
    at_output: bool
    places: tuple[str, ...]
    lowest: float
    highest: float
    relative: float
    drift_mm: float | None = None
    by_output: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``harmless``, ``noticeable`` or ``harmful``, and the way out of harm."""
        if self.relative < _HARMLESS:
            return "harmless"
        word = "harmful" if not self.relative < _NOTICEABLE else "noticeable"
        if self.at_output and self.operator in ("Sigmoid", "HardSigmoid"):
            return f"{word}: end before it (pass logits) or in clips (thermometer)"
        return f"{word}: ask the vendor for {self.operator}, or train with ReLU"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "places": list(self.places), "verdict": self.verdict}

    def cells(self) -> tuple[str, ...]:
        """A line of a table or report, under :data:`HEADER`."""
        more = f" and {len(self.places) - _SHOWN} more" if len(self.places) > _SHOWN else ""
        where = f"{'output' if self.at_output else 'inside'}: {', '.join(self.places[:_SHOWN])}{more}"
        return (
            self.operator,
            self.by,
            where,
            f"{self.lowest:.2f} to {self.highest:.2f}",
            "-" if self.drift_mm is None else f"{self.drift_mm:.1f}",
            f"{100 * self.relative:.2f}",
            self.verdict,
        )


def robustness(
    graph: fx.GraphModule,
    images: Sequence[Tensor],
    depth_of: Callable[[Any], Tensor] | None = None,
    substitutions: Mapping[str, Mapping[str, object]] = SUBSTITUTIONS,
    progress: bool = True,
) -> list[Row]:
    """Every substitution that this network has a place for, the most harmful first.

    Nothing is quantized: what is measured is what the substitution adds. Only what is behind a substituted activation
    is computed again, see :class:`~depth_distill.quantization.analysis.replay.Replay`.

    Args:
        graph: a float network with batch norm folded; it is not changed.
        images: batches as the network takes them; 8 to 32 images are enough.
        depth_of: depth in metres from what the network returns, such as ``Interface.depth_m``; None: only the relative
            change of the outputs is measured.
        substitutions: names of substitutions by operator.
        progress: whether to show a progress bar.

    Returns:
        One row per substitution and place (output, inside); none for a network without smooth activations.

    Raises:
        DataError: there are no images.
    """
    if not images:
        raise DataError("the robustness of a network is measured on images, received none")
    rows: list[Row] = []
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("robustness", total=len(substitutions))
        for operator, named in substitutions.items():
            rows += _rows_of(graph, images, depth_of, operator, list(named))
            bar.advance(task)
    return sorted(rows, key=lambda each: -each.relative)


def robustness_table(rows: Sequence[Row], title: str = "What a tool chain may compute instead") -> Table:
    """One row per substitution."""
    table = Table(title=title)
    for heading in HEADER:
        table.add_column(heading, justify="right" if heading in ("mm", "%") else "left", overflow="fold")
    for each in rows:
        table.add_row(*each.cells())
    return table


def _rows_of(
    graph: fx.GraphModule,
    images: Sequence[Tensor],
    depth_of: Callable[[Any], Tensor] | None,
    operator: str,
    names: Sequence[str],
) -> list[Row]:
    changed, places = substitute(graph, {operator: names[0]})
    if not places:
        return []
    replay = Replay(changed)
    modules = substituted(replay.network)
    ending = output_sites(replay.network)
    groups = {at_output: [site for site in modules if (site in ending) == at_output] for at_output in (True, False)}
    runs = [(at_output, by) for at_output, sites in groups.items() if sites for by in names]
    sums = {run: _Change() for run in runs}
    limits = {at_output: (float("inf"), -float("inf")) for at_output in groups}
    for batch in images:
        replay.switch_on(())
        expected = replay.record(batch)
        for at_output, sites in groups.items():
            for each in (values for site in sites for values in replay.recorded_inputs(site)):
                low, high = limits[at_output]
                limits[at_output] = (min(low, float(each.min())), max(high, float(each.max())))
        for at_output, by in runs:
            _set(replay, groups[at_output], by)
            sums[at_output, by].add(replay.again(), expected, depth_of)
    rows = []
    for at_output, by in runs:
        sites, change = groups[at_output], sums[at_output, by]
        named = tuple(site.rpartition(" (")[0] for site in sites)
        rows.append(
            Row(
                operator, by, at_output, named, *limits[at_output], change.relative(),
                change.drift_mm(), change.by_output(),
            )
        )  # fmt: skip
    return rows


def _set(replay: Replay, sites: Sequence[str], by: str) -> None:
    modules = substituted(replay.network)
    for site in sites:
        modules[site].use(by)
    replay.switch_on(sites)


class _Change:
    """Sums over images of how far depth, or the outputs, moved."""

    def __init__(self) -> None:
        self.metres = self.shares = 0.0
        self.pixels = 0
        self.noise: dict[str, float] = {}
        self.signal: dict[str, float] = {}

    def add(self, found: Any, expected: Any, depth_of: Callable[[Any], Tensor] | None) -> None:
        if depth_of is not None:
            depth_m, expected_m = (depth_of(each).double() for each in (found, expected))
            moved = (depth_m - expected_m).abs()
            self.metres += float(moved.sum())
            self.shares += float((moved / expected_m.abs().clamp(min=_TINY)).sum())
            self.pixels += moved.numel()
            return
        for name, before in _by_name(expected).items():
            after = _by_name(found)[name].double()
            self.noise[name] = self.noise.get(name, 0.0) + float((after - before).square().sum())
            self.signal[name] = self.signal.get(name, 0.0) + float(before.double().square().sum())

    def relative(self) -> float:
        return self.shares / self.pixels if self.pixels else max(self.by_output().values(), default=0.0)

    def drift_mm(self) -> float | None:
        return 1000 * self.metres / self.pixels if self.pixels else None

    def by_output(self) -> dict[str, float]:
        return {name: (self.noise[name] / max(self.signal[name], _TINY)) ** 0.5 for name in self.noise}


def _by_name(outputs: Any) -> dict[str, Tensor]:
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    pairs = outputs.items() if isinstance(outputs, Mapping) else enumerate(outputs)
    return {str(name): value for name, value in pairs if isinstance(value, Tensor) and value.is_floating_point()}
