"""Weighted sums of named loss terms: values, names, and learned scales."""

import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.losses import FixedWeights, UncertaintyWeights

both = pytest.mark.parametrize("weighting", [FixedWeights, UncertaintyWeights])


def values(**terms):
    return {name: torch.tensor(value) for name, value in terms.items()}


def test_fixed_weights_sum_the_terms_that_are_present():
    weighting = FixedWeights({"depth": 2.0, "feature": 0.5})
    assert weighting(values(depth=3.0, feature=4.0)).item() == 8
    assert weighting(values(feature=4.0)).item() == 2


def test_uncertainty_weights_begin_as_fixed_weights():
    weights, terms = {"depth": 2.0, "feature": 0.5}, values(depth=3.0, feature=4.0)
    # 1e-6 is added to each term.
    assert UncertaintyWeights(weights)(terms).item() == pytest.approx(FixedWeights(weights)(terms).item(), abs=1e-5)


def test_uncertainty_weights_by_hand():
    weighting = UncertaintyWeights({"b": 3.0, "a": 1.0})
    with torch.no_grad():
        weighting.log_variances.copy_(torch.tensor([4.0, 0.25]).log())  # of a and b, in sorted order
    # a: 2 / 4 + ln 4; b: 3 (5 / 0.25 + ln 0.25)
    expected = 2 / 4 + 1.3862944 + 3 * (5 / 0.25 - 1.3862944)
    assert weighting(values(a=2.0, b=5.0)).item() == pytest.approx(expected, abs=1e-4)
    assert weighting.effective_weights() == pytest.approx({"a": 0.25, "b": 12.0})


def test_uncertainty_weights_find_the_scale_of_terms_a_million_apart():
    weighting = UncertaintyWeights({"metres": 1.0, "feature": 1.0})
    # A short memory of squared gradients, or the first ones of the large term slow it down for 5000 steps.
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05, betas=(0.9, 0.9))
    terms = values(metres=1e-3, feature=1e3)
    for _ in range(800):
        optimizer.zero_grad()
        weighting(terms).backward()
        optimizer.step()
    contributions = {name: weight * terms[name].item() for name, weight in weighting.effective_weights().items()}
    # At the optimum exp(-s) (L + 1e-6) = 1, and 1e-6 is 0.1 % of the smaller term.
    assert contributions == pytest.approx({"metres": 1.0, "feature": 1.0}, rel=2e-3)


def test_a_weight_stays_a_preference_once_the_scales_are_found():
    # Two terms pull one parameter to 1 and to -1, at scales a million apart.
    def settle(weighting):
        x = torch.zeros((), requires_grad=True)
        optimizer = torch.optim.Adam([x, *weighting.parameters()], lr=0.05, betas=(0.9, 0.9))
        for _ in range(1500):
            optimizer.zero_grad()
            weighting({"a": 1e3 * ((x - 1).square() + 4), "b": 1e-3 * ((x + 1).square() + 4)}).backward()
            optimizer.step()
        return x.item()

    assert settle(FixedWeights({"a": 1.0, "b": 1.0})) == pytest.approx(1, abs=0.01)
    # The minimum of ln((x - 1)^2 + 4) + ln((x + 1)^2 + 4) is in the middle; a double weight moves it towards its term.
    assert settle(UncertaintyWeights({"a": 1.0, "b": 1.0})) == pytest.approx(0, abs=0.01)
    assert 0.2 < settle(UncertaintyWeights({"a": 2.0, "b": 1.0})) < 0.9


def test_a_term_that_stays_at_zero_settles():
    weighting = UncertaintyWeights({"penalty": 1.0})
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.1)
    for _ in range(2000):
        optimizer.zero_grad()
        weighting(values(penalty=0.0)).backward()
        optimizer.step()
    assert weighting.effective_weights()["penalty"] == pytest.approx(1e6, rel=0.01)


def test_log_variances_are_one_vector_of_the_terms_that_count():
    weighting = UncertaintyWeights({"depth": 1.0, "off": 0.0, "feature": 2.0})
    assert [name for name, _ in weighting.named_parameters()] == ["log_variances"]
    assert weighting.names == ("depth", "feature")
    assert weighting.log_variances.shape == (2,)
    assert bool((weighting.log_variances == 0).all())
    assert weighting.effective_weights() == {"depth": 1.0, "off": 0.0, "feature": 2.0}


def test_log_variances_load_whatever_the_order_of_the_config():
    one, other = UncertaintyWeights({"a": 1.0, "b": 1.0}), UncertaintyWeights({"b": 1.0, "a": 1.0})
    with torch.no_grad():
        one.log_variances.copy_(torch.tensor([1.0, 2.0]))
    other.load_state_dict(one.state_dict())
    assert other(values(b=5.0)).item() == one(values(b=5.0)).item()


def test_an_absent_term_leaves_its_log_variance_alone():
    weighting = UncertaintyWeights({"a": 1.0, "b": 1.0})
    weighting(values(b=5.0)).backward()
    assert weighting.log_variances.grad[0] == 0
    assert weighting.log_variances.grad[1].item() == pytest.approx(1 - 5)


@both
def test_gradient_reaches_the_terms(weighting):
    term = torch.tensor(3.0, requires_grad=True)
    weighting({"a": 2.0, "b": 1.0})({"a": term}).backward()
    assert term.grad.item() == pytest.approx(2)


@both
def test_a_term_of_zero_weight_is_left_out_even_where_it_is_nan(weighting):
    total = weighting({"a": 2.0, "b": 0.0})(values(a=3.0, b=float("nan")))
    assert total.item() == pytest.approx(6, abs=1e-5)


@both
def test_a_term_without_a_weight_names_the_nearest(weighting):
    with pytest.raises(ConfigError, match="'silgo'.*'silog'"):
        weighting({"silog": 1.0, "feature": 1.0})(values(silgo=1.0))


@both
@pytest.mark.parametrize("terms", [{}, values(b=1.0)])
def test_nothing_to_sum_is_refused(weighting, terms):
    with pytest.raises(ConfigError, match="none of the terms"):
        weighting({"a": 1.0, "b": 0.0})(terms)


@both
@pytest.mark.parametrize("wrong", [{"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_negative_and_infinite_weights_are_refused_with_their_value(weighting, wrong):
    with pytest.raises(ConfigError, match=f"'a'.*{wrong['a']}"):
        weighting(wrong)


@both
@pytest.mark.parametrize("weights", [{}, {"a": 0.0}])
def test_no_weight_above_zero_is_refused(weighting, weights):
    with pytest.raises(ConfigError, match="at least one term"):
        weighting(weights)
