"""The benchmark of the built-in scenes: what it prints, its shares of depth, and its contact sheet."""

import re

import pytest
import torch
from PIL import Image

from depth_distill.data.synthetic import SyntheticDepth
from tests.data.constant_depth import ConstantDepth
from tools.benchmarks.benchmark_synthetic import band_shares, contact_sheet, main


@pytest.fixture(autouse=True)
def _threads():
    """It measures one core, and sets torch to one thread for good."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_it_prints_rates_and_shares_and_writes_a_sheet(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    main(["--length", "3", "--size", "32", "64", "--repeats", "2", "--pictures", "5", "--out", str(out)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "images/s at 32 x 64" in printed
    assert re.search(r"CPU time │ \d+ │ \d+ │ \d+", printed)
    shares = [float(share) for share in re.findall(r"([\d.]+)% of the valid pixels", printed)]
    assert sum(shares) == pytest.approx(100, abs=0.2)  # three numbers, each rounded to 0.1
    with Image.open(out) as sheet:
        assert sheet.width == 4 * 3.2 * 90  # four columns of 3.2 inches at 90 pixels an inch


def test_shares_of_known_depths():
    shares, invalid = band_shares(ConstantDepth(11))  # 1.0, 1.1, ... 1.9 m, and 2.0 m, where the next band begins
    assert shares == pytest.approx([10 / 11, 1 / 11, 0])
    assert invalid == 0


def test_a_sheet_has_each_image_and_its_depth():
    axes = contact_sheet(SyntheticDepth(5, (32, 64)), columns=2).axes
    assert len(axes) == 3 * 4  # three rows of two images and two depth maps
    drawn = [len(ax.images) for ax in axes]
    assert drawn == [1] * 10 + [0, 0]  # the last place is empty
