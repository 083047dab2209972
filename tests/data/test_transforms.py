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
