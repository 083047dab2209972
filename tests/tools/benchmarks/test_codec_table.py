import json

import pytest

from depth_distill.codecs import DepthRange, HostIntegerFractional, HostPair, HostSingle
from tools.benchmarks import codec_table

RANGE = DepthRange(0.5, 15.0)


def test_exact_codes_flatter_the_sum_and_a_trained_integer_does_not():
    plain = HostIntegerFractional(RANGE, "sum", "floor")
    # 255 / 15 = 17: whole metres are 8-bit codes, so the sum of exact codes has only the fraction's error.
    assert codec_table.rounding(plain)["max_mm"] == pytest.approx(1.96, abs=0.01)
    assert codec_table.rounding(plain, 0.2)["max_mm"] == pytest.approx(31.4, abs=0.2)
    unwrapped = HostIntegerFractional(RANGE)
    assert codec_table.rounding(unwrapped, 0.2) == codec_table.rounding(unwrapped, 0.2)
    assert codec_table.rounding(unwrapped, 0.2)["max_mm"] == pytest.approx(1.96, abs=0.01)
    assert codec_table.rounding(unwrapped, 0.2)["carries"] == 0
    pair = codec_table.rounding(HostPair(RANGE, "linear", spacing="metres"), 0.2)
    assert pair["max_mm"] == pytest.approx(1.96, abs=0.01)
    assert pair["carries"] == 0


def test_a_row_has_the_step_at_each_depth():
    row = codec_table.measure(HostSingle(RANGE, "linear"), (1.0, 10.0), 0.2)
    assert row["step_mm"] == pytest.approx([56.9, 56.9], abs=0.05)
    assert row["exact"]["max_mm"] == pytest.approx(28.4, abs=0.05)
    assert row["jittered"] is None


def test_it_writes_numbers_a_table_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(codec_table, "SAMPLES", 2000)
    assert codec_table.main(["--depths-m", "1", "7", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "codec_table.json").read_text())
    text = (tmp_path / "codec_table.md").read_text()
    assert len(found["rows"]) == len(codec_table.codecs_of(RANGE)) == text.count("\n") - 2
    assert "| single, linear | 1 | 56.9 | 56.9 | +-28.4 |" in text
    assert "| integer/fraction (coarse, sawtooth), unwrap | 2 | 3.92 | 3.92 | +-1.96 |" in text
    assert "carries, up to" in text
    assert text.strip() in capsys.readouterr().out
    assert (tmp_path / "codec_table.png").stat().st_size > 0


def test_a_range_that_is_none_is_one_line(capsys, tmp_path):
    assert codec_table.main(["--range-m", "5", "1", "--out", str(tmp_path)]) == 2
    assert "min_m=5.0, max_m=1.0" in capsys.readouterr().err
