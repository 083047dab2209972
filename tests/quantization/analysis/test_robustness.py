import pytest
import torch
from rich.console import Console
from torch import nn

from depth_distill.errors import DataError
from depth_distill.quantization.analysis.robustness import HEADER, robustness, robustness_table
from depth_distill.quantization.graph.trace import trace


class Net(nn.Module):
    """SiLU and ELU inside, a sigmoid at the output; weights of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.silu, self.elu, self.output = nn.SiLU(), nn.ELU(inplace=True), nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.elu(self.silu(x)))


IMAGES = list(torch.linspace(-4, 4, 2 * 3 * 16).view(2, 1, 3, 4, 4))


def depth_m(codes: torch.Tensor) -> torch.Tensor:
    return 1 + 9 * codes


def test_rows_are_places_of_this_network_and_the_worst_comes_first():
    rows = robustness(trace(Net()), IMAGES, depth_m, progress=False)
    assert {(each.operator, each.at_output, each.places) for each in rows} == {
        ("Sigmoid", True, ("output",)),
        ("Sigmoid", False, ("silu",)),
        ("Swish", False, ("silu",)),
        ("Elu", False, ("elu",)),
    }
    assert [each.relative for each in rows] == sorted((each.relative for each in rows), reverse=True)
    row = next(each for each in rows if (each.operator, each.by, each.at_output) == ("Sigmoid", "hard_sigmoid", True))
    x = torch.cat(IMAGES)
    y = nn.functional.elu(nn.functional.silu(x))
    moved = (depth_m((0.2 * y + 0.5).clamp(0, 1)) - depth_m(torch.sigmoid(y))).abs()
    assert row.drift_mm == pytest.approx(1000 * float(moved.mean()), rel=1e-4)
    assert row.relative == pytest.approx(float((moved / depth_m(torch.sigmoid(y))).mean()), rel=1e-4)
    assert (row.lowest, row.highest) == pytest.approx((float(y.min()), float(y.max())), rel=1e-4)
    assert row.verdict.startswith("harmful: end before it (pass logits)")
    fine = next(each for each in rows if (each.operator, each.by, each.at_output) == ("Sigmoid", "table_8", True))
    assert fine.verdict == "harmless"


def test_outputs_without_a_meaning():
    graph = trace(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Tanh()))
    row = robustness(graph, IMAGES, substitutions={"Tanh": {"hard_tanh": None}}, progress=False)[0]
    assert row.drift_mm is None
    assert row.by_output == {"output": row.relative}
    assert row.to_dict()["verdict"] == row.verdict
    console = Console(width=200, record=True, quiet=True)
    console.print(robustness_table([row]))
    assert len(row.cells()) == len(HEADER)


def test_nothing_to_substitute_and_no_images():
    graph = trace(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()))
    assert robustness(graph, IMAGES, progress=False) == []
    with pytest.raises(DataError, match="received none"):
        robustness(graph, [], progress=False)
