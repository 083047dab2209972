import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.node_kinds import classify, scoped_name
from depth_distill.quantization.graph.substituted import output_sites, restore, substitute, substituted
from depth_distill.quantization.graph.substitutions import EXACT, SUBSTITUTIONS, Substituted, table
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.target.substitutions import SUBSTITUTION_NAMES

GRID = torch.linspace(-9, 9, 1801)


class Activations(nn.Module):
    """Modules, functions and methods; none has the default attributes of its operator."""

    def __init__(self) -> None:
        super().__init__()
        self.silu = nn.SiLU(inplace=True)
        self.elu = nn.ELU(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.elu(self.silu(x + 0), 0.3) + x.sigmoid()
        return F.softplus(self.elu(F.gelu(y, approximate="tanh")), 2.0)


def test_every_name_has_a_function():
    assert {operator: tuple(named) for operator, named in SUBSTITUTIONS.items()} == SUBSTITUTION_NAMES
    assert EXACT.keys() == SUBSTITUTIONS.keys()


@pytest.mark.parametrize(
    ("operator", "by", "worst"),
    [
        # The largest distance from the operator, as papers and calculus have it.
        ("Sigmoid", "hard_sigmoid", 0.0759),  # at x = 2.5, where the line reaches 1
        ("Sigmoid", "relu6_sigmoid", 0.0692),  # at 1.32, where the slope of the sigmoid is 1 / 6
        ("Sigmoid", "piecewise_sigmoid", 0.0189),  # Amin et al. 1997
        ("Sigmoid", "table_8", 0.25 * 8 / 255),  # half a step times the steepest slope
        ("Softplus", "relu", 0.6931),
        ("Elu", "relu", 1.0),
    ],
)
def test_how_far_off_a_substitution_is(operator, by, worst):
    distance = (SUBSTITUTIONS[operator][by](GRID) - EXACT[operator](GRID)).abs().max()
    assert float(distance) == pytest.approx(worst, rel=0.01)


def test_a_table_passes_the_gradient_of_its_entries():
    x = torch.tensor([-20.0, 0.3, 20.0], requires_grad=True)
    table(torch.sigmoid, 5)(x).sum().backward()
    assert x.grad is not None
    assert x.grad[0] == x.grad[2] == 0
    assert float(x.grad[1]) == pytest.approx(0.25, abs=0.005)


def test_substitution_and_restoration():
    graph, x = trace(Activations()), torch.randn(2, 3, 4, 4) * 3
    before = copy.deepcopy(graph)(x)
    changed, places = substitute(graph, {"Sigmoid": "hard_sigmoid", "Elu": "relu", "Softplus": "no"})
    assert places == ["silu", "elu", "sigmoid", "elu"]
    assert [scoped_name(node) for node in changed.graph.nodes] == [scoped_name(node) for node in graph.graph.nodes]
    assert list(map(str, classify(changed).values())) == list(map(str, classify(graph).values()))
    gated = x * SUBSTITUTIONS["Sigmoid"]["hard_sigmoid"](x)
    y = F.relu(gated) + SUBSTITUTIONS["Sigmoid"]["hard_sigmoid"](x)
    expected = F.softplus(F.relu(F.gelu(y, approximate="tanh")), 2.0)
    torch.testing.assert_close(changed(x), expected)
    assert torch.equal(graph(x), before)
    for each in substituted(changed).values():
        each.enabled = False
    torch.testing.assert_close(changed(x), before)
    copied = copy.deepcopy(changed)
    restore(copied)
    assert copied.code == graph.code
    assert torch.equal(copied(x), before)
    assert not substituted(copied)


class ByName(nn.Module):
    """Functions whose input is given by name."""

    def forward(self, x):
        return torch.sigmoid(input=F.elu(input=x, alpha=0.5))


def test_an_input_that_is_given_by_name_and_the_restoration_of_one_site():
    graph, x = trace(ByName()), torch.randn(1, 3, 4, 4) * 3
    before = graph(x)
    changed, _ = substitute(graph, {"Sigmoid": "hard_sigmoid", "Elu": "relu"})
    torch.testing.assert_close(changed(x), (0.2 * F.relu(x) + 0.5).clamp(0, 1))
    for each in substituted(changed).values():
        each.enabled = False
    torch.testing.assert_close(changed(x), before)
    for each in substituted(changed).values():
        each.enabled = True
    restore(changed, output_sites(changed))
    torch.testing.assert_close(changed(x), torch.sigmoid(F.relu(x)))
    restore(changed)
    assert torch.equal(changed(x), before)


def test_a_tool_chain_that_knows_a_silu():
    graph, x = trace(nn.Sequential(nn.SiLU(), nn.Sigmoid())), torch.randn(1, 3, 4, 4) * 3
    hard = {"Sigmoid": "hard_sigmoid"}
    assert substitute(graph, hard)[1] == ["0", "1"]
    assert substitute(graph, {**hard, "Swish": "no"})[1] == ["1"]
    by_relu, places = substitute(graph, {"Swish": "relu"})
    assert places == ["0"]
    assert torch.equal(by_relu(x), torch.sigmoid(F.relu(x)))


def test_what_a_file_of_the_opset_has():
    graph, x = trace(nn.Sequential(nn.Hardswish())), torch.randn(1, 3, 4, 4) * 3
    by = {"HardSigmoid": "default_attributes"}
    assert substitute(graph, by)[1] == []
    changed, places = substitute(graph, by, max_opset=13)
    assert places == ["0"]
    torch.testing.assert_close(changed(x), x * (0.2 * x + 0.5).clamp(0, 1))


def test_a_glu_and_a_gelu_of_tanh():
    graph, x = trace(nn.Sequential(nn.GELU("tanh"), nn.GLU(1))), torch.randn(1, 4, 4, 4)
    changed, places = substitute(graph, {"Sigmoid": "no", "Tanh": "hard_tanh"})
    assert places == ["0"]
    assert float((changed(x) - graph(x)).detach().abs().max()) > 0.01
    for each in substituted(changed).values():
        each.enabled = False
    torch.testing.assert_close(changed(x), graph(x))
    assert substitute(graph, {"Sigmoid": "table_5"})[1] == ["1"]


def test_a_table_of_an_operator_with_attributes():
    stand_in = Substituted("Elu", "table_8", exact=nn.ELU(0.5))
    torch.testing.assert_close(stand_in(GRID[:800]), F.elu(GRID[:800], 0.5), atol=0.02, rtol=0)


def test_unknown_names():
    graph = trace(nn.Sequential(nn.Sigmoid()))
    with pytest.raises(ConfigError, match="did you mean 'Sigmoid'"):
        substitute(graph, {"Sigmoyd": "relu"})
    with pytest.raises(ConfigError, match="did you mean 'hard_sigmoid'"):
        substitute(graph, {"Sigmoid": "hard_sigmoids"})
