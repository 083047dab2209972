"""The benchmark of training: the figures it writes belong together."""

import json
import statistics

import pytest

from tests.commands.configs import write_config
from tools.benchmarks.benchmark_training import main


def test_rates_and_costs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "small.yaml")
    main(["--config", config, "--epochs", "1", "--repeats", "3", "--out", "out.json", "--data.batch_size", "2"])
    out = json.loads((tmp_path / "out.json").read_text())
    rates = out["images_per_s"]
    assert rates.keys() == out["cost"].keys() == {"loader alone", "bare loop", "fit"}
    assert all(len(values) == 3 and min(values) > 0 for values in rates.values())
    assert out["cost"]["bare loop"] == 0
    ratios = [bare / fit for bare, fit in zip(rates["bare loop"], rates["fit"], strict=True)]
    assert out["cost"]["fit"] == pytest.approx(statistics.median(ratios) - 1)
    printed = capsys.readouterr().out
    assert f"{out['cost']['fit']:+.1%}" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "small.yaml"]  # runs are left nowhere
