"""CompositeLoss returns the terms by name and their weighted sum."""

import pytest

from depth_distill.errors import ConfigError
from depth_distill.losses import CompositeLoss, L1Loss, SILogLoss
from tests.losses.test_functional import maps


def test_terms_are_unweighted_and_the_total_is_weighted():
    loss = CompositeLoss({"silog": SILogLoss(), "l1": L1Loss()}, {"l1": 0.25})
    values = loss(*maps())
    assert list(values) == ["silog", "l1", "total"]
    assert values["l1"].item() == L1Loss()(*maps()).item()
    assert values["total"].item() == pytest.approx((values["silog"] + 0.25 * values["l1"]).item())


def test_a_weight_without_a_term_names_the_nearest_term():
    with pytest.raises(ConfigError, match="'silgo'.*'silog'"):
        CompositeLoss({"silog": SILogLoss(), "l1": L1Loss()}, {"silgo": 1.0})


@pytest.mark.parametrize("terms", [{}, {"total": L1Loss()}])
def test_no_terms_or_a_term_named_total_are_refused(terms):
    with pytest.raises(ConfigError, match="total"):
        CompositeLoss(terms)


@pytest.mark.parametrize("weights", [{"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}, {"a": 0.0}])
def test_weights_that_are_negative_not_finite_or_all_zero_are_refused(weights):
    with pytest.raises(ConfigError, match="numbers of 0 or more, and not all 0; received"):
        CompositeLoss({"a": L1Loss()}, weights)
