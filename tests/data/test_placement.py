"""Placement: what becomes of an image of another aspect ratio, in pixels and in words."""

import pytest
import torch

from depth_distill.data.placement import Placement, aspect_differs, require_mode, resize_note
from depth_distill.errors import ConfigError

LANDSCAPE, PORTRAIT, SIZE = (800, 1200), (1200, 800), (96, 128)


@pytest.mark.parametrize(
    ("image", "mode", "inner", "taken", "shown"),
    [
        (LANDSCAPE, "crop", (96, 144), (slice(0, 96), slice(8, 136)), (slice(0, 96), slice(0, 128))),
        (LANDSCAPE, "pad", (85, 128), (slice(0, 85), slice(0, 128)), (slice(5, 90), slice(0, 128))),
        (LANDSCAPE, "stretch", (96, 128), (slice(0, 96), slice(0, 128)), (slice(0, 96), slice(0, 128))),
        (PORTRAIT, "crop", (192, 128), (slice(48, 144), slice(0, 128)), (slice(0, 96), slice(0, 128))),
        (PORTRAIT, "pad", (96, 64), (slice(0, 96), slice(0, 64)), (slice(0, 96), slice(32, 96))),
        ((1, 5000), "pad", (1, 128), (slice(0, 1), slice(0, 128)), (slice(47, 48), slice(0, 128))),
    ],
)
def test_an_image_is_resized_as_a_whole_and_its_middle_is_that_of_the_network(image, mode, inner, taken, shown):
    placement = Placement.of(image, SIZE, mode)
    assert (placement.inner, placement.taken, placement.shown) == (inner, taken, shown)


@pytest.mark.parametrize("image", [(480, 640), (96, 128), (48, 64), (479, 640), (483, 640), (97, 129)])
def test_less_than_a_pixel_of_difference_is_none(image):
    assert not aspect_differs(image, SIZE)
    for mode in ("crop", "pad", "stretch"):
        assert Placement.of(image, SIZE, mode).inner == SIZE


def test_a_pixel_of_difference_is_one():
    assert aspect_differs((97, 128), SIZE)  # 96 rows of 97
    assert Placement.of((97, 128), SIZE, "crop") == Placement(SIZE, (97, 128))


def test_bars_stand_around_the_image():
    placement = Placement.of((2, 4), (4, 4), "pad")
    image = torch.arange(1, 9, dtype=torch.uint8).view(1, 2, 4)
    placed = placement.place(image, torch.full((1, 1, 1), 9))
    assert placed.dtype == torch.uint8
    assert placed[0].tolist() == [[9] * 4, [1, 2, 3, 4], [5, 6, 7, 8], [9] * 4]


@pytest.mark.parametrize(
    ("image", "mode", "line"),
    [
        (LANDSCAPE, "crop", "11 % of the width is cut off at the sides (data.resize: pad or stretch keeps it)"),
        (LANDSCAPE, "pad", "bars fill 11 % of the height at top and bottom (data.resize: crop or stretch has none)"),
        (LANDSCAPE, "stretch", "the width is squeezed by 11 % (data.resize: crop or pad keeps the aspect)"),
    ],
)
def test_a_line_says_what_happens(image, mode, line):
    expected = f"images are 3:2 (1200 x 800), the network takes 4:3 (128 x 96): {line}"
    assert resize_note([image, image], SIZE, mode) == expected


def test_the_shape_that_changes_most_is_named():
    note = resize_note([(96, 128), LANDSCAPE, PORTRAIT, (375, 1242)], SIZE, "crop", "--resize")
    assert note == (
        "some images are 3.31:1 (1242 x 375), the network takes 4:3 (128 x 96): 60 % of the width is cut off at the "
        "sides (--resize pad or stretch keeps it)"
    )
    note = resize_note([PORTRAIT, (400, 300)], SIZE, "crop", None)
    assert note.startswith("some images are 2:3 (800 x 1200), the network takes 4:3 (128 x 96): 50 % of the height is")
    assert note.endswith("cut off at top and bottom (as in training)")


def test_nothing_is_said_where_nothing_differs():
    assert resize_note([(480, 640), (96, 128)], SIZE, "crop") == ""
    assert resize_note([], SIZE, "crop") == ""


def test_an_unknown_mode_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"data\.resize: received 'squash', expected one of crop, pad, stretch"):
        require_mode("squash")
