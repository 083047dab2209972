"""Parameters of a sweep: what they draw, and what is refused."""

import pytest

from depth_distill.errors import ConfigError
from depth_distill.sweep.parameters import Parameter


def parameter(**content):
    return Parameter.parse("lr", content, "sweep.yaml: parameters.lr")


@pytest.mark.parametrize(
    ("content", "quantiles"),
    [
        ({"min": 1.0, "max": 3.0}, {0.0: 1.0, 0.5: 2.0, 1.0: 3.0}),
        ({"min": 1, "max": 4}, {0.0: 1, 0.3: 2, 0.99: 4, 1.0: 4}),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, {0.0: 1e-4, 0.5: 1e-3, 1.0: 1e-2}),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, {0.0: 0, 0.3: 0.25, 1.0: 1.0}),
        ({"distribution": "normal", "mu": 2.0, "sigma": 1.0}, {0.5: 2.0, 0.8413447: 3.0}),
        ({"values": ["a", "b"]}, {0.0: "a", 0.49: "a", 0.5: "b", 1.0: "b"}),
        ({"values": ["a", "b"], "probabilities": [0.9, 0.1]}, {0.5: "a", 0.89: "a", 0.95: "b"}),
        ({"value": 3}, {0.0: 3, 1.0: 3}),
    ],
)
def test_a_quantile_of_a_distribution(content, quantiles):
    found = parameter(**content)
    for quantile, value in quantiles.items():
        expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-4)
        assert found.at(quantile) == expected


def test_a_grid_takes_lists_whole_numbers_and_steps_but_no_range():
    assert list(parameter(min=1, max=3).steps) == [1, 2, 3]
    assert parameter(distribution="q_uniform", min=0.0, max=0.3, q=0.1).steps == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert parameter(min=0.0, max=1.0).steps is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"vals": [1]}, r"parameters\.lr\.vals: uniform takes max, min"),
        ({"min": 1.0}, r"parameters\.lr\.max is missing, which uniform needs"),
        ({"distribution": "log_unifrm", "min": 1, "max": 2}, "did you mean 'log_uniform'"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "expected more than 0 for a logarithm"),
        ({"min": "1e-4", "max": 1.0}, r"received '1e-4', expected a number; YAML reads 1e-4 as text, write 1\.0e-4"),
        ({"min": 2.0, "max": 1.0}, "min 2.0 is larger than max 1.0"),
        ({"values": []}, "expected a list with at least one value"),
        ({"values": [1, 2], "probabilities": [1.0]}, "not as many probabilities as values"),
    ],
)
def test_what_cannot_be_drawn_is_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        parameter(**content)
