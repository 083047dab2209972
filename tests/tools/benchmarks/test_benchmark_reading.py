"""The benchmark of reading: its figures are those of the data sets, and a photograph decoded smaller is the same."""

import json

from tools.benchmarks.benchmark_reading import main


def test_figures(tmp_path, capsys):
    out = tmp_path / "figures.json"
    main(["--size", "800", "600", "--image-size", "48", "64", "--rows", "50", "--repeats", "1", "--out", str(out)])
    figures = json.loads(out.read_text())
    assert figures.keys() == {"whole_s", "reduced_s", "largest_difference", "mean_difference", "manifest_s"}
    assert 0 < figures["mean_difference"] < 0.5  # levels of 255; 0 would mean that nothing was reduced
    assert "manifest_s" in capsys.readouterr().out
