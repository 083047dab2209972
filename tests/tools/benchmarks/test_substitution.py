import json

from tools.benchmarks import substitution


def test_a_substituted_sigmoid_is_measured_named_and_undone(trained_checkpoint, tmp_path):
    words = ["--checkpoint", str(trained_checkpoint), "--calibration-images", "4", "--out", str(tmp_path)]
    assert substitution.main(words) == 0
    hard, sound = json.loads((tmp_path / "substitution.json").read_text())
    assert (hard["chain"], sound["chain"]) == ("HardSigmoid", "Sigmoid")
    assert hard["images"] == sound["images"] == 4
    assert hard["mm"] > sound["mm"]
    assert hard["fitted_mm"] < hard["mm"]
    assert sound["fitted_abs_rel"] <= 1.01 * sound["abs_rel"]
    table = (tmp_path / "substitution.md").read_text().splitlines()
    assert len(table) == 4
    assert all(line.count("|") == table[0].count("|") for line in table)
