import json

import pytest

from tools.benchmarks.benchmark_calibration import TOOLS, main


@pytest.mark.slow
def test_each_tool_is_measured_in_a_process_of_its_own(trained_checkpoint, tmp_path):
    assert main(["--checkpoint", str(trained_checkpoint), "--images", "2", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "benchmark_calibration.json").read_text())
    assert list(found) == list(TOOLS)
    assert all(each["2"]["peak_mb"] > 100 for each in found.values())  # torch alone takes more
