"""Inputs of any network from a folder: pictures by one code path, arrays as they are, and a fair division."""

import numpy as np
import pytest
import torch
from PIL import Image

from depth_distill.data.image_folder import ImageFolder
from depth_distill.data.network_inputs import DatasetInputs, NetworkInputs, PixelFormat, divide
from depth_distill.data.transforms import JointResize
from depth_distill.errors import ConfigError, DataError
from depth_distill.types import IMAGENET_MEAN, IMAGENET_STD

PIXELS = torch.tensor([[255, 0], [51, 102]], dtype=torch.uint8).expand(3, 2, 2) // torch.tensor([1, 2, 4]).view(3, 1, 1)
PIXELS = PIXELS.to(torch.uint8)


def test_pixels_become_what_is_written():
    unit = PixelFormat.named("unit")(PIXELS)
    assert torch.allclose(unit, PIXELS / 255)
    assert torch.equal(PixelFormat.named("raw")(PIXELS), PIXELS.float())
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.allclose(PixelFormat.named("imagenet")(PIXELS), (unit - mean) / std, atol=1e-6)
    # Mean and deviation are those of the colours, in whatever order these come.
    assert torch.equal(PixelFormat.named("imagenet", "BGR")(PIXELS), PixelFormat.named("imagenet")(PIXELS).flip(0))


def test_a_format_says_itself():
    assert str(PixelFormat.named("imagenet")) == "RGB / 255, ImageNet mean and std"
    assert str(PixelFormat.named("raw", "BGR")) == "BGR, 0 to 255"
    assert str(PixelFormat.named("unit")) == "RGB / 255"
    assert (
        str(PixelFormat((0.5,) * 3, (0.25,) * 3))
        == "RGB / 255, mean 0.5 0.5 0.5, std 0.25 0.25 0.25 (of red, green, blue)"
    )


def test_a_mean_of_whole_pixels_is_refused_with_the_right_one():
    with pytest.raises(ConfigError, match="mean: received 127.5, .* of pixels up to 255, 127.5 / 255 = 0.5"):
        PixelFormat((127.5, 0, 0), (1.0,) * 3)
    with pytest.raises(ConfigError, match="std: received 0, expected"):
        PixelFormat((0.5,) * 3, (0.0,) * 3)


def test_pictures_are_resized_and_sorted(tmp_path):
    for name, value in (("b.png", 200), ("sub/a.jpg", 100), (".hidden.png", 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 10), (value, 0, 0)).save(tmp_path / name)
    inputs = NetworkInputs(tmp_path, (3, 4, 8), "x", PixelFormat.named("raw"))
    assert [path.name for path in inputs.files] == ["b.png", "a.jpg"]
    assert inputs.load(0).shape == (3, 4, 8)
    assert inputs.load(0)[0].unique().tolist() == [200]
    assert str(inputs) == "2 pictures, resized to 4 x 8 (H x W): RGB, 0 to 255"
    assert inputs.note() == ""


def test_pictures_of_another_aspect_ratio_come_as_samples_do(tmp_path):
    colours = np.arange(200, dtype=np.uint8)[None, :, None] + np.zeros((100, 1, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    whole = ImageFolder(tmp_path)[0]
    for mode, words in (("crop", "cropped"), ("pad", "padded"), ("stretch", "stretched")):
        inputs = NetworkInputs(tmp_path, (3, 10, 10), "x", PixelFormat.named("imagenet"), mode)
        assert torch.equal(inputs.picture(0), JointResize((10, 10), mode, IMAGENET_MEAN)(whole).image)
        assert str(inputs).startswith(f"1 pictures, {words} to 10 x 10 (H x W)")
    note = "images are 2:1 (200 x 100), the network takes 1:1 (10 x 10): the width is squeezed by 50 %"
    assert inputs.note("--resize") == f"{note} (--resize crop or pad keeps the aspect)"
    assert DatasetInputs(ImageFolder(tmp_path), (3, 10, 10), "x", inputs.pixels, "stretch").note(None).startswith(note)


def test_bars_are_zero_behind_the_normalization(tmp_path):
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "a.png")
    for name in ("imagenet", "unit", "raw"):
        given = NetworkInputs(tmp_path, (3, 16, 16), "x", PixelFormat.named(name), "pad").load(0)
        assert given[:, :4].abs().max() < 0.5 / 255 / 0.22  # within the rounding of the colour to 8 bits
        assert given[0, 4:12].min() == given[0].max() > 0.9


def test_arrays_have_the_shape_of_the_input(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(8).reshape(1, 8))
    np.save(tmp_path / "b.npy", np.array([np.nan] * 8))
    inputs = NetworkInputs(tmp_path, (8,), "x", PixelFormat.named("raw"))
    assert inputs.load(0).tolist() == list(range(8))
    assert inputs.load(0).dtype == torch.float32
    with pytest.raises(DataError, match=r"b.npy: has NaN or infinity"):
        inputs.load(1)
    np.save(tmp_path / "a.npy", np.array(["text"] * 8))
    with pytest.raises(DataError, match="a.npy: received <U4 of shape 8, expected numbers of shape 8"):
        inputs.load(0)


def test_folders_that_do_not_say_what_they_are_for_are_refused(tmp_path):
    raw = PixelFormat.named("raw")
    with pytest.raises(DataError, match="does not exist: expected a folder"):
        NetworkInputs(tmp_path / "none", (3, 4, 4), "x", raw)
    with pytest.raises(DataError, match="no inputs found; expected .jpg"):
        NetworkInputs(tmp_path, (3, 4, 4), "x", raw)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="the input 'x' is 4 x 4 x 3, and pictures are 3 x H x W"):
        NetworkInputs(tmp_path, (4, 4, 3), "x", raw)
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 4)))
    with pytest.raises(DataError, match="has 1 pictures and 1 .npy arrays: which are the inputs"):
        NetworkInputs(tmp_path, (3, 4, 4), "x", raw)


@pytest.mark.parametrize(
    ("count", "expected"), [(2, (1, 1)), (3, (2, 1)), (8, (6, 2)), (79, (63, 16)), (80, (64, 16)), (5000, (64, 16))]
)
def test_division_is_disjoint_and_evenly_spaced(count, expected):
    calibration, held_out = divide(count, 64, 16)
    assert (len(calibration), len(held_out)) == expected
    assert not set(calibration) & set(held_out)
    together = sorted([*calibration, *held_out])
    assert together[0] == 0
    assert together[-1] == count - 1
    gaps = np.diff(together)
    assert gaps.max() - gaps.min() <= 1


def test_one_image_cannot_be_divided():
    with pytest.raises(DataError, match="received 1 image, expected 2 or more"):
        divide(1, 64, 16)
