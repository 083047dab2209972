"""Deviation from FP32: per output, per image, on its own scale; the worst output counts."""

import math

import pytest
import torch

from depth_distill.errors import ConfigError, DataError
from depth_distill.quantization.analysis.deviation import Deviation, DeviationScorer, sqnr_db

BATCHES = list(torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)).split(2))


def outputs(small=1.0, large=1.0):
    return lambda batch: {"small": small * batch, "large": 1e4 * large * batch.flatten(1)}


def test_a_relative_error_is_what_it_says():
    scorer = DeviationScorer(BATCHES, outputs())
    same, one_percent = scorer(outputs()), scorer(outputs(small=1.01))
    assert same.relative == 0
    assert one_percent.relative == pytest.approx(0.01, rel=1e-4)
    assert one_percent.sqnr_db == pytest.approx(40, abs=1e-3)
    assert str(one_percent) == "40.0 dB, 1 %"
    assert one_percent.images == 6
    assert sqnr_db(0.1) == pytest.approx(20)


def test_the_worst_output_counts_whatever_its_scale():
    found = DeviationScorer(BATCHES, outputs())(outputs(small=1.2, large=1.05))
    assert found.worst == "small"
    assert found.by_output == pytest.approx({"small": 0.2, "large": 0.05}, rel=1e-4)
    assert found.to_dict()["worst_output"] == "small"


def test_it_is_the_mean_over_images():
    def last_is_wrong(batch):
        return {"small": batch * (1.6 if torch.equal(batch, BATCHES[2]) else 1.0)}

    found = DeviationScorer(BATCHES, lambda batch: {"small": batch})(last_is_wrong)
    assert found.relative == pytest.approx(0.2, rel=1e-4)  # 0.6 in two of six images


def test_an_output_that_is_nothing_in_fp32_is_wholly_wrong_or_right():
    scorer = DeviationScorer(BATCHES, lambda batch: {"zero": 0 * batch})
    assert scorer(lambda batch: {"zero": 0 * batch}).relative == 0
    assert scorer(lambda batch: {"zero": 0 * batch + 5}).relative == 1


def test_numbers_that_are_none_are_infinitely_far():
    scorer = DeviationScorer(BATCHES, lambda batch: {"y": batch})
    found = scorer(lambda batch: {"y": batch * math.nan})
    assert found.relative == math.inf
    assert found.sqnr_db == -math.inf
    with pytest.raises(DataError, match="the output 'y' is NaN or infinite in FP32"):
        DeviationScorer(BATCHES, lambda batch: {"y": batch / 0})


def test_outputs_without_a_batch_are_one_row():
    scorer = DeviationScorer(BATCHES, lambda batch: {"boxes": batch.reshape(-1, 4), "score": batch.sum()})
    assert scorer(lambda batch: {"boxes": batch.reshape(-1, 4) * 1.1, "score": batch.sum()}).by_output == pytest.approx(
        {"boxes": 0.1, "score": 0}, rel=1e-4
    )


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="no held-out images"):
        DeviationScorer([], outputs())
    scorer = DeviationScorer(BATCHES, lambda batch: {"boxes": batch})
    with pytest.raises(ConfigError, match="the output 'boxes' has another number of values after quantization"):
        scorer(lambda batch: {"boxes": batch[:, :1]})


def test_a_deviation_is_plain_data():
    assert Deviation({"a": 0.01, "b": 0.1}, 3).to_dict() == {
        "sqnr_db": pytest.approx(20),
        "relative_error": 0.1,
        "worst_output": "b",
        "by_output": {"a": 0.01, "b": 0.1},
        "images": 3,
    }
