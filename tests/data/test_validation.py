"""Reports on data sets, and detection of depth in the wrong unit."""

import math
import re

import pytest
import torch
from rich.console import Console

from depth_distill.data.image_folder import ImageFolder
from depth_distill.data.ncdb import NcdbDepth
from depth_distill.data.rgbd_folder import RgbdFolder
from depth_distill.data.validation import (
    DatasetReport,
    check_scale,
    probable_depth_scale,
    report_table,
    validate_dataset,
)
from depth_distill.errors import DataError
from depth_distill.types import DepthRange
from tests.data.constant_depth import ConstantDepth
from tests.data.files import write_depth, write_image

RANGE = DepthRange(0.5, 15.0)


def folder(root, values, **kwargs):
    for i, value in enumerate(values):
        write_image(root / "rgb" / f"{i:02d}.png")
        write_depth(root / "depth" / f"{i:02d}.png", value)
    rows = [f"rgb/{i:02d}.png,depth/{i:02d}.png\n" for i in range(len(values))]
    (root / "train.csv").write_text("".join(["image,depth\n", *rows]))
    return RgbdFolder(root, **kwargs)


def rendered(reports, width=400):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(report_table(reports))
    return capture.get()


def test_report_of_good_data(tmp_path):
    calls = []
    report = validate_dataset(folder(tmp_path, [1000, 2000, 15000]), RANGE, lambda: calls.append(1))
    assert len(calls) == report.samples == report.total == 3
    assert report.complete
    assert report.sizes == {(6, 4): 3}
    assert (report.min_m, report.median_m, report.max_m) == (1, 2, 15)
    assert report.valid_share == pytest.approx(23 / 24)
    assert report.in_range_share == 1
    assert report.bad == ()
    assert report.probable_scale is None
    assert report.usable


def test_all_bad_samples_are_found(tmp_path):
    data = folder(tmp_path, [1000] * 6)
    (tmp_path / "depth" / "01.png").unlink()
    (tmp_path / "rgb" / "03.png").write_bytes(b"")
    write_depth(tmp_path / "depth" / "04.png", size=(3, 3))
    write_depth(tmp_path / "depth" / "05.png", value=0)
    calls = []
    report = validate_dataset(data, RANGE, lambda: calls.append(1))
    assert [sample.index for sample in report.bad] == [1, 3, 4, 5]
    for sample, message in zip(report.bad, ["no such file", "cannot be read", "3 x 3", "no valid pixel"], strict=True):
        assert message in sample.message
        assert sample.source.endswith(f"{sample.index:02d}.png")
    assert len(calls) == report.samples == 6
    assert report.sizes == {(6, 4): 2}


def test_a_sample_with_nothing_in_the_range_is_named(tmp_path):
    """One that is in metres, or saturated, among others in millimetres: no loss would ever see it."""
    report = validate_dataset(folder(tmp_path, [1000, 2, 2000, 65535, 3000]), RANGE)
    assert [sample.index for sample in report.bad] == [1, 3]
    message = (
        r"01\.png: no depth is in the range of 0\.5-15 m: they are 0\.002 to 0\.002 m; check the depth file and its"
    )
    assert re.search(message, report.bad[0].message)
    assert not report.usable
    assert (report.min_m, report.in_range_share) == (pytest.approx(0.002), pytest.approx(3 / 5))


def test_workers_find_the_same(tmp_path):
    data = folder(tmp_path, [1000, 2000, 0, 4000, 70, 6000])
    (tmp_path / "rgb" / "03.png").write_bytes(b"")
    calls = []
    assert validate_dataset(data, RANGE, lambda: calls.append(1), workers=2) == validate_dataset(data, RANGE)
    assert len(calls) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_keeps_what_was_found(tmp_path, workers):
    data = folder(tmp_path, [0, 1000, 2000, 3000])
    steps = iter([None, None])

    def progress():
        try:
            next(steps)
        except StopIteration:
            raise KeyboardInterrupt from None

    report = validate_dataset(data, RANGE, progress, workers=workers)
    assert (report.samples, report.total, report.complete) == (3, 4, False)
    assert [sample.index for sample in report.bad] == [0]
    assert report.max_m == 2
    assert "val: interrupted after 3 of 4 samples" in rendered({"val": report})


def test_nothing_but_bad_samples(tmp_path):
    report = validate_dataset(folder(tmp_path, [0]), RANGE)
    assert (report.min_m, report.median_m, report.max_m) == (None, None, None)
    assert len(report.bad) == 1
    assert "no valid pixel" in rendered({"val": report})


def test_stride(tmp_path):
    report = validate_dataset(folder(tmp_path, [1000, 9000, 3000, 9000]), RANGE, stride=2)
    assert (report.samples, report.min_m, report.max_m) == (2, 1, 3)


def test_images_without_depth(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png", size=(8, 2))
    report = validate_dataset(ImageFolder(tmp_path), RANGE)
    assert report.sizes == {(6, 4): 1, (8, 2): 1}
    assert report.median_m is None
    assert report.bad == ()
    check_scale(ImageFolder(tmp_path), RANGE)
    assert "8 x 2" in rendered({"predict": report})


@pytest.mark.parametrize(
    ("median_m", "scale", "expected"),
    [
        (2.0, 1000, None),  # in the range: nothing to say
        (0.002, 1e6, 1000),  # 2000 units: 2 m in millimetres, 7.8 m by 256; the middle of the range is 2.74 m
        (2000.0, 1, 1000),
        (7000.0, 1, 5000),  # 7 m or 1.4 m: 1.4 m is nearer to 2.74 m on a log scale than 7 m, and 27 m is outside
        (0.0025, 1000, 1),  # 2.5 units
        (1e9, 1, None),
    ],
)
def test_probable_depth_scale(median_m, scale, expected):
    assert probable_depth_scale(median_m, scale, RANGE) == expected


def test_nearest_to_the_middle_of_the_range():
    middle_m = math.sqrt(0.5 * 15)
    assert probable_depth_scale(middle_m * 256, 1, RANGE) == 256
    assert probable_depth_scale(middle_m * 5000, 1, RANGE) == 5000


def test_check_scale_accepts_the_right_unit(tmp_path):
    check_scale(folder(tmp_path, [1000, 2000, 3000]), RANGE)
    check_scale(ConstantDepth(5), RANGE)


def test_check_scale_names_the_probable_unit(tmp_path):
    data = folder(tmp_path, [2000, 2500, 3000], depth_scale=1.0)
    message = (
        r"00\.png and others: the median depth is 2500 m and only 0% .* 0\.5-15 m with depth_scale 1; "
        r"depth_scale 1000 was probably meant \(a median of 2\.5 m\)"
    )
    with pytest.raises(DataError, match=message):
        check_scale(data, RANGE)
    report = validate_dataset(data, RANGE)
    assert report.probable_scale == 1000
    assert "train: most depths are out of range; depth_scale 1000 was probably meant" in rendered({"train": report})


def test_check_scale_without_a_fitting_unit(tmp_path):
    with pytest.raises(DataError, match=r"no usual scale .* puts it there; check the depth files"):
        check_scale(folder(tmp_path, [60000], depth_scale=1.0), DepthRange(0.1, 0.2))


def test_report_of_depth_in_another_unit(tmp_path):
    wrong = validate_dataset(folder(tmp_path / "a", [2000] * 3, depth_scale=1.0), RANGE)
    assert not wrong.usable
    assert "train: most depths are out of range; depth_scale 1000 was probably meant" in rendered({"train": wrong})
    in_metres = validate_dataset(folder(tmp_path / "b", [2] * 3, depth_scale=100.0), RANGE)
    assert not in_metres.usable
    assert "val: most depths are out of range; depth_scale 1 was probably meant" in rendered({"val": in_metres})
    shallow = validate_dataset(ConstantDepth(3, depth_m=0.1), RANGE)
    assert not shallow.usable
    assert "most depths are out of range; check the files, or change data.depth_range" in rendered({"val": shallow})


def test_check_scale_of_data_in_metres():
    with pytest.raises(DataError, match=r"ConstantDepth\[0\] and others: .* 40 m .*; change data\.depth_range"):
        check_scale(ConstantDepth(3, depth_m=40.0), RANGE)


def test_check_scale_allows_a_range_that_is_narrow_on_purpose(tmp_path):
    """A median out of range is accepted as long as enough of the pixels are inside."""
    check_scale(folder(tmp_path, [20000, 20000, 2000]), RANGE)
    with pytest.raises(DataError, match="the median depth is 20 m"):
        check_scale(folder(tmp_path, [20000] * 4 + [2000]), RANGE)


def test_check_scale_reads_few_samples_evenly_spread():
    class Counting(ConstantDepth):
        def load(self, index):
            read.append(index)
            return super().load(index)

    read: list[int] = []
    check_scale(Counting(100), RANGE, samples=4)
    assert read == [0, 33, 66, 99]
    read.clear()
    check_scale(Counting(2), RANGE)
    assert read == [0, 1]


def test_table(tmp_path):
    good = validate_dataset(folder(tmp_path / "a", [1000, 2000]), RANGE)
    bad = folder(tmp_path / "b [1]", [1000] * 25)
    for i in range(25):
        (tmp_path / "b [1]" / "depth" / f"{i:02d}.png").unlink()
    text = rendered({"train": good, "val": validate_dataset(bad, RANGE)})
    assert "6 x 4" in text
    assert "100.0%" in text
    assert text.count("no such file") == 20
    assert "val: ... and 5 more bad samples" in text
    assert "b [1]" in text  # not taken for markup


def test_table_fits_80_columns():
    report = DatasetReport(
        76000, 76000, {(256, 192): 75000, (640, 480): 1000}, 0.801, 1.829, 83.975, 0.889, 1.0, (), False, None
    )
    lines = rendered({"train": report}, width=80).splitlines()[-5:-1]
    assert all(word in lines[0] for word in ("train", "76000", "256 x 192", "1.829", "83.975", "88.9%", "100.0%"))
    assert [line.strip(" │") for line in lines[1:]] == ["(75000)", "640 x 480", "(1000)"]


def test_medians_are_of_valid_pixels_only():
    class Holes(ConstantDepth):
        def load(self, index):
            sample = super().load(index)
            valid = torch.zeros_like(sample.valid)
            valid[..., :2] = True
            depth_m = torch.where(valid, 3.0, 14.0)
            return sample._replace(depth_m=depth_m, valid=valid)

    report = validate_dataset(Holes(2), RANGE)
    assert (report.min_m, report.median_m, report.max_m) == (3, 3, 3)
    assert report.valid_share == pytest.approx(2 / 32)


@pytest.mark.real_data
def test_real_data(data_root):
    kitchen = RgbdFolder(data_root / "kitchen", "val.csv")
    check_scale(kitchen, RANGE)
    report = validate_dataset(kitchen, RANGE, stride=20)
    assert report.samples == 10
    assert report.sizes == {(256, 192): 10}
    assert not report.bad
    assert 0.8 < report.median_m < 3.5
    assert report.in_range_share > 0.99
    with pytest.raises(DataError, match="depth_scale 1000 was probably meant"):
        check_scale(RgbdFolder(data_root / "kitchen", "val.csv", depth_scale=1.0), RANGE)


@pytest.mark.real_data
def test_driving_data_passes_with_an_indoor_range(data_root):
    check_scale(NcdbDepth(data_root / "formats" / "ncdb", "splits/combined_val.json"), RANGE)
