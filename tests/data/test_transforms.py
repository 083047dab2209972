"""Joint transforms: image, depth and valid stay registered, and depth is never interpolated."""

import pytest
import torch
from torchvision.transforms import v2

from depth_distill.data.transforms import Augment, JointResize, Normalize, RandomZoom
from depth_distill.errors import ConfigError
from depth_distill.types import IMAGENET_MEAN, IMAGENET_STD, DepthSample


def sample(height=24, width=32):
    """Depth equals column + 1, red equals the column, a hole without depth in the middle."""
    columns = torch.arange(width).expand(height, width)
    image = torch.stack([columns, torch.zeros_like(columns), torch.zeros_like(columns)]).to(torch.uint8)
    depth_m = (columns + 1.0)[None].clone()
    depth_m[:, 10:14, 14:18] = 0
    return DepthSample(image, depth_m, depth_m > 0)


def test_resize_never_mixes_depths_or_valid_with_invalid():
    whole = sample()
    small = JointResize((10, 13))(whole)
    assert small.image.shape == (3, 10, 13)
    assert small.depth_m.shape == small.valid.shape == (1, 10, 13)
    assert set(small.depth_m.unique().tolist()) <= set(whole.depth_m.unique().tolist())
    assert torch.equal(small.valid, small.depth_m > 0)
    assert small.valid.dtype == torch.bool


def test_resize_filters_the_image():
    checker = (torch.arange(32) % 2 * 255).expand(24, 32).to(torch.uint8).expand(3, 24, 32)
    depth_m = torch.ones(1, 24, 32)
    small = JointResize((12, 16))(DepthSample(checker, depth_m, depth_m > 0))
    inner = small.image[:, :, 2:-2].float()
    assert bool(((inner > 100) & (inner < 155)).all())  # the mean of 0 and 255, not one of them


def test_resize_to_the_same_size_changes_nothing():
    whole = sample()
    assert JointResize((24, 32))(whole) is whole


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(12, 16), (10, 13), (96, 128), (24, 32)])
def test_where_the_aspect_agrees_every_mode_gives_the_bits_of_a_plain_resize(mode, size):
    torch.manual_seed(0)
    whole = sample()._replace(image=torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8))
    small = JointResize(size, mode)(whole)
    nearest = {"interpolation": v2.InterpolationMode.NEAREST_EXACT}
    assert torch.equal(small.image, v2.functional.resize(whole.image, list(size), antialias=True))
    assert torch.equal(small.depth_m, v2.functional.resize_image(whole.depth_m, list(size), **nearest))
    assert torch.equal(small.valid, v2.functional.resize_image(whole.valid, list(size), **nearest))


def test_a_crop_keeps_the_middle_in_its_shape():
    small = JointResize((12, 12))(sample())
    assert small.image.shape == (3, 12, 12)
    # 24 x 32 becomes 12 x 16, of which columns 2 to 13 are kept: centres at 4.5, 6.5, ... of the whole one.
    red = small.image[0].float()
    assert bool(((red - (4.5 + 2 * torch.arange(12))).abs() <= 0.5).all())
    assert set(small.depth_m[small.valid].tolist()) <= set(range(5, 30))
    assert torch.equal(small.valid, small.depth_m > 0)


def test_a_pad_keeps_the_whole_between_bars_of_the_mean_without_depth():
    small = JointResize((32, 32), "pad", mean=(0.5, 0.25, 0.0))(sample())
    whole = sample()
    for got, expected in zip(small, whole, strict=True):  # 24 x 32 fits as it is, four rows from the top
        assert torch.equal(got[:, 4:28], expected)
    for bar in (slice(0, 4), slice(28, 32)):
        assert small.image[:, bar].flatten(1).unique(dim=1).flatten().tolist() == [128, 64, 0]
        assert not small.depth_m[:, bar].any()
        assert not small.valid[:, bar].any()
    assert small.valid.dtype == torch.bool


def test_a_stretch_shows_all_of_it():
    small = JointResize((12, 12), "stretch")(sample())
    assert small.depth_m[0, 0, [0, -1]].tolist() == [2, 31]


def test_sparse_depth_stays_what_was_measured():
    depth_m = torch.zeros(1, 40, 90)
    depth_m[0, ::7, ::5] = torch.rand(6, 18) + 1
    scan = DepthSample(torch.zeros(3, 40, 90, dtype=torch.uint8), depth_m, depth_m > 0)
    for mode in ("crop", "pad"):
        small = JointResize((20, 30), mode)(scan)
        assert set(small.depth_m.unique().tolist()) <= set(depth_m.unique().tolist())
        assert small.valid.any()
        assert torch.equal(small.valid, small.depth_m > 0)


def test_flip_moves_all_three_together():
    flipped = Augment([v2.RandomHorizontalFlip(p=1.0)])(sample())
    assert torch.equal(flipped.depth_m[flipped.valid], flipped.image[:1][flipped.valid] + 1.0)
    assert flipped.depth_m[0, 0, 0] == 32


def test_colour_jitter_leaves_depth_alone():
    torch.manual_seed(0)
    jittered = Augment([v2.ColorJitter(0.5, 0.5, 0.5, 0.1)])(sample())
    assert not torch.equal(jittered.image, sample().image)
    assert torch.equal(jittered.depth_m, sample().depth_m)
    assert torch.equal(jittered.valid, sample().valid)


def test_crop_moves_all_three_together():
    torch.manual_seed(0)
    cropped = Augment([v2.RandomCrop((12, 16))])(sample())
    assert cropped.image.shape == (3, 12, 16)
    assert torch.equal(cropped.depth_m[cropped.valid], cropped.image[:1][cropped.valid] + 1.0)


def test_zoom_divides_depth_by_the_magnification():
    torch.manual_seed(0)
    zoomed = Augment([RandomZoom(max_zoom=2.0, p=1.0)])(sample(96, 128))
    # Depth rises by one metre a column: after a zoom z there are 1/z metres a column, and the depth divided by z on
    # top, so the slope over the map is 1/z^2, and z follows from it.
    row = zoomed.depth_m[0, 0]
    z = float(((row[-1] - row[0]) / 127) ** -0.5)
    assert 1.0 < z < 2.0
    red = zoomed.image[0, 0, 5:-5].float()
    torch.testing.assert_close(row[5:-5] * z - 1, red, atol=1.5, rtol=0)  # nearest against filtered: within 1 column
    assert zoomed.depth_m.shape == (1, 96, 128)
    assert torch.equal(zoomed.valid, zoomed.depth_m > 0)


def test_zoom_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"at least 1, got 0\.5"):
        RandomZoom(max_zoom=0.5)


def test_normalize_and_back():
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    image = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    normalized = normalize(image)
    assert normalized[0, 0, 0, 0].item() == pytest.approx((image[0, 0, 0, 0].item() / 255 - 0.485) / 0.229, abs=1e-5)
    torch.testing.assert_close(normalize.inverse(normalized), image / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize("transform", [torch.nn.Flatten(), torch.nn.Linear(1, 1)])
def test_what_takes_no_image_depth_and_mask_is_refused_by_name(transform):
    name = type(transform).__name__
    with pytest.raises(ConfigError, match=rf"data\.augment: a view of image, depth and mask by {name} cannot be built"):
        Augment([transform])(sample())


def test_what_returns_no_image_depth_and_mask_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"data\.augment: ToPILImage returns something else than an image"):
        Augment([v2.ToPILImage()])(sample())


def test_bars_need_a_colour_and_nothing_else_does():
    JointResize((2, 3), "crop", (float("nan"), 0.4, 0.4))
    with pytest.raises(ConfigError, match=r"data.image_mean: received \[nan, 0.4, 0.4\], expected numbers in \[0, 1\]"):
        JointResize((2, 3), "pad", (float("nan"), 0.4, 0.4))
