"""Calibration images as files: all formats contain the same values."""

import numpy as np
import pytest
from PIL import Image

from depth_distill.errors import DataError
from depth_distill.export.interface.calibration_set import read_calibration_set, write_calibration_set


def test_every_form_holds_the_images(tmp_path):
    generator = np.random.default_rng(0)
    tensors = generator.normal(size=(3, 3, 4, 6)).astype(np.float32)
    images = generator.integers(0, 256, (3, 3, 4, 6), dtype=np.uint8)
    write_calibration_set(tensors, images, "image", tmp_path)
    assert np.array_equal(read_calibration_set(tmp_path), tensors)
    first = (tmp_path / "input_list.txt").read_text().splitlines()[0]
    assert first == "image:=raw/0000.raw"
    assert np.array_equal(np.fromfile(tmp_path / "raw/0000.raw", np.float32).reshape(3, 4, 6), tensors[0])
    picture = np.asarray(Image.open(tmp_path / (tmp_path / "images.txt").read_text().split()[2]))
    assert np.array_equal(picture.transpose(2, 0, 1), images[2])


def test_what_cannot_be_calibrated_with(tmp_path):
    images = np.zeros((2, 3, 4, 6), np.uint8)
    tensors = np.zeros((2, 3, 4, 6), np.float32)
    with pytest.raises(DataError, match="empty"):
        write_calibration_set(tensors[:0], images[:0], "image", tmp_path)
    tensors[1, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="image 1 has NaN"):
        write_calibration_set(tensors, images, "image", tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="not a calibration set"):
        read_calibration_set(tmp_path)


@pytest.fixture
def folder(tmp_path):
    write_calibration_set(np.zeros((3, 3, 4, 6), np.float32), np.zeros((3, 3, 4, 6), np.uint8), "image", tmp_path / "c")
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "tensors.txt").write_text("\n"), "names no file"),
        (
            lambda folder: (folder / "tensors.txt").write_text("../secret.npy\n"),
            "which lies outside",
        ),
        (lambda folder: (folder / "tensors.txt").write_text("a\0b.npy\n"), "which lies outside"),
        (lambda folder: np.save(folder / "tensors/0001.npy", np.zeros((2, 3, 4, 6), "f")), "with a batch of 1"),
        (lambda folder: np.save(folder / "tensors/0001.npy", np.zeros((1, 3, 4, 6), "F")), "expected finite numbers"),
        (lambda folder: (folder / "tensors/0001.npy").unlink(), "0001.npy does not exist"),
        (lambda folder: (folder / "tensors/0001.npy").write_bytes(b"\x93NUMPY"), "0001.npy"),
        (lambda folder: np.save(folder / "tensors/0001.npy", np.full((1, 3, 4, 6), np.nan, "f")), "expected finite"),
        (lambda folder: np.save(folder / "tensors/0001.npy", np.full((1, 3, 4, 6), "a")), "expected finite numbers"),
        (lambda folder: np.save(folder / "tensors/0001.npy", np.float32(3)), "expected finite numbers"),
        (lambda folder: np.save(folder / "tensors/0001.npy", np.zeros((1, 3, 4, 5), "f")), "but tensors/0000.npy has"),
        (lambda folder: np.save(folder / "tensors/0001.npy", np.zeros((1, 3, 4, 6), int)), "0001.npy: int64 of shape"),
    ],
)
def test_a_damaged_set_is_refused_by_name(folder, change, message):
    np.save(folder.parent / "secret.npy", np.zeros((1, 3, 4, 6), np.float32))
    change(folder)
    with pytest.raises(DataError) as error:
        read_calibration_set(folder)
    assert message in str(error.value)
