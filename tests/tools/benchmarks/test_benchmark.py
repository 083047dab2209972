"""The benchmark of distillation: parts add up to the whole, and ratios are those of one repeat."""

import json

import pytest
import yaml

from tests.roadmap.test_run import DISTILL
from tests.trained_run import CONFIG
from tools.benchmarks import benchmark


def row(total, peak):
    return {"total": total, "peak_mb": peak, "idle_mb": 500.0}


def test_ratios_are_medians_of_pairs():
    plain, other = [row(1.0, 1000), row(2.0, 1000), row(4.0, 1000)], [row(2.0, 1250)] * 3
    # 2, 1 and 0.5; peaks 1250 / 1000, and 750 / 500 without the idle part.
    assert benchmark._ratios(other, plain) == (1.0, 1.25, 1.5)


def words(tmp_path, config):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    options = ["--trainer.enable_progress_bar=false", "--data.views=1"]
    return ["--config", str(tmp_path / "small.yaml"), *options]


@pytest.mark.parametrize("variant", ["distillation", "with teacher cache", "without fake quantization"])
def test_the_parts_of_a_distillation(tmp_path, variant):
    config = yaml.safe_load(json.dumps(DISTILL))
    config["trainer"]["callbacks"] = [{"class_path": "FakeQuant"}]
    found = benchmark.measure(variant, words(tmp_path, config), str(tmp_path))
    assert sum(found[part] for part in benchmark.PARTS) == pytest.approx(found["total"])
    assert min(found[part] for part in ("teacher", "student", "losses", "backward", "optimizer")) > 0
    assert found["peak_mb"] >= found["idle_mb"] > 0
    assert (tmp_path / "cache").is_dir() == (variant == "with teacher cache")


def test_supervised_training_has_no_teacher(tmp_path):
    found = benchmark.measure("supervised", words(tmp_path, CONFIG), str(tmp_path))
    assert found["teacher"] == 0
    assert found["student"] > 0
