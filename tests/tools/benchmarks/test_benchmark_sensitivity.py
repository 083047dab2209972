import json

from tools.benchmarks.benchmark_sensitivity import main


def test_the_analysis_and_the_plain_loop_agree_exactly(trained_checkpoint, tmp_path):
    words = ["--checkpoint", str(trained_checkpoint), "--calibration-images", "2", "--images", "2"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "benchmark_sensitivity.json").read_text())
    assert found["largest_difference"] == 0
    assert len(found["seconds"]) == 3
    assert all(seconds > 0 for seconds in found["seconds"].values())
