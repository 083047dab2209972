"""Reading files: known values, and the error messages on bad files."""

import numpy as np
import pytest
import torch
from PIL import Image

from depth_distill.data.reading import read_depth, read_image, read_mask, resolve_inside
from depth_distill.errors import DataError
from tests.data.files import write_depth, write_image


def test_image_is_rgb_uint8(tmp_path):
    array = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(array).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(array).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("mode", "color"),
    [("L", 30), ("LA", (30, 0)), ("RGBA", (30, 30, 30, 0)), ("P", 30), ("1", 1), ("CMYK", (0, 0, 0, 225))],
)
def test_other_modes_become_rgb(tmp_path, mode, color):
    picture = Image.new(mode, (5, 3), color)
    if mode == "P":
        picture.putpalette([level for level in range(256) for _ in range(3)])
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture.save(path)
    image = read_image(path)
    assert image.shape == (3, 3, 5)
    expected = 255 if mode == "1" else 30
    assert (image.int() - expected).abs().max() <= (1 if mode == "CMYK" else 0)  # JPEG rounds


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (4, 2))
    picture.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: the first row of the file is the right column of the scene
    picture.save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 4, 2)
    assert image[0, 0, 1] == 255


def test_depth_map_in_the_place_of_an_image_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"d\.png: expected an image with 8 bits.*not swapped"):
        read_image(write_depth(tmp_path / "d.png"))


@pytest.mark.parametrize(
    ("value", "scale", "expected_m"), [(1500, 1000, 1.5), (3584, 256, 14.0), (65535, 5000, 13.107)]
)
def test_png_depth_in_metres(tmp_path, value, scale, expected_m):
    depth_m = read_depth(write_depth(tmp_path / "d.png", value), scale)
    assert depth_m.shape == (1, 4, 6)
    assert depth_m.dtype == torch.float32
    assert depth_m[0, 0, 0] == 0
    assert depth_m[0, 1:].unique().item() == pytest.approx(expected_m, rel=1e-7)  # float32


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2", "i4", "u2"])
@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (2, 3, 1), (1, 1, 2, 3)])
def test_numpy_depth(tmp_path, dtype, shape):
    array = np.arange(6).astype(dtype).reshape(shape)
    np.save(tmp_path / "d.npy", array)
    assert read_depth(tmp_path / "d.npy", 2.0).tolist() == [[[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]]]


def test_what_is_not_a_depth_becomes_zero(tmp_path):
    np.save(tmp_path / "d.npy", np.array([[np.nan, np.inf, -np.inf], [-1.0, 1e300, 2.0]]))
    assert read_depth(tmp_path / "d.npy", 1.0).tolist() == [[[0, 0, 0], [0, 0, 2.0]]]


def test_npz_with_one_array_or_one_called_depth(tmp_path):
    one, two = np.ones((2, 3)), np.full((2, 3), 2.0)
    np.savez(tmp_path / "one.npz", anything=one)
    np.savez(tmp_path / "both.npz", confidence=one, depth=two)
    np.savez(tmp_path / "neither.npz", first=one, second=two)
    assert read_depth(tmp_path / "one.npz", 1.0).unique() == 1
    assert read_depth(tmp_path / "both.npz", 1.0).unique() == 2
    with pytest.raises(DataError, match=r"neither\.npz: .*one called 'depth', got first, second"):
        read_depth(tmp_path / "neither.npz", 1.0)


@pytest.mark.parametrize(
    "array", [np.ones((2, 3, 3)), np.ones(4), np.ones((2, 3), dtype=bool), np.ones((2, 2), dtype="c8")]
)
def test_numpy_array_that_is_not_a_map(tmp_path, array):
    np.save(tmp_path / "d.npy", array)
    with pytest.raises(DataError, match=r"d\.npy: expected numbers of shape \(H, W\), got"):
        read_depth(tmp_path / "d.npy", 1.0)


def test_pickled_array_is_not_unpickled(tmp_path):
    np.save(tmp_path / "d.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"d\.npy: cannot be read as a NumPy array .*allow_pickle"):
        read_depth(tmp_path / "d.npy", 1.0)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_8_bit_depth_is_refused(tmp_path, mode):
    Image.new(mode, (5, 3), 9).save(tmp_path / "d.png")
    with pytest.raises(DataError, match=rf"d\.png: expected a single-channel 16-bit PNG.*got mode {mode} .*export"):
        read_depth(tmp_path / "d.png", 1000)


def test_depth_of_another_type_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"d\.exr: .*\.png, \.npy, \.npz, got '\.exr'; convert"):
        read_depth(tmp_path / "d.exr", 1000)


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (read_image, "a.jpg"),
        (read_image, "a.png"),
        (read_mask, "m.png"),
        (lambda path: read_depth(path, 1000), "d.png"),
        (lambda path: read_depth(path, 1000), "d.npy"),
        (lambda path: read_depth(path, 1000), "d.npz"),
    ],
)
class TestBadFiles:
    def test_missing(self, tmp_path, read, name):
        with pytest.raises(DataError, match=rf"{name}: no such file; expected .*; check the data root"):
            read(tmp_path / name)

    @pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
    def test_truncated(self, tmp_path, read, name, kept):
        path = tmp_path / name
        noise = np.random.default_rng(0).integers(0, 60000, (40, 50)).astype(np.uint16)
        if path.suffix == ".npy":
            np.save(path, noise)
        elif path.suffix == ".npz":
            np.savez_compressed(path, depth=noise)
        else:
            Image.fromarray(noise if name.startswith("d") else noise.astype(np.uint8)).save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(DataError, match=rf"{name}: cannot be read as .*download it again") as raised:
            read(path)
        assert str(raised.value).count(str(path)) == 1

    def test_not_that_kind_of_file(self, tmp_path, read, name):
        (tmp_path / name).write_text("<html>404</html>")
        with pytest.raises(DataError, match=f"{name}: cannot be read as "):
            read(tmp_path / name)

    def test_folder(self, tmp_path, read, name):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=f"{name}: cannot be read as "):
            read(tmp_path / name)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
def test_mask_is_true_where_not_black(tmp_path, mode):
    array = np.array([[0, 1], [255, 7]], dtype=np.uint8)
    if mode == "1":
        picture = Image.fromarray(array > 0)
    elif mode == "I;16":
        picture = Image.fromarray(array.astype(np.uint16) * 256)
    else:
        picture = Image.fromarray(array).convert(mode)
    picture.save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[[False, True], [True, True]]]


@pytest.mark.parametrize(
    ("relative", "expected"),
    [("rgb/1.jpg", "rgb/1.jpg"), ("./rgb//1.jpg", "rgb/1.jpg"), ("splits/../rgb/1.jpg", "rgb/1.jpg")],
)
def test_resolve_inside(tmp_path, relative, expected):
    assert resolve_inside(tmp_path, relative, "train.csv line 2") == tmp_path / expected


@pytest.mark.parametrize("relative", ["..", "../secret.png", "rgb/../../secret.png", "./../x/../y.png"])
def test_path_out_of_the_root_is_refused(tmp_path, relative):
    with pytest.raises(DataError, match=r"train\.csv line 2: '.*' leaves the data root"):
        resolve_inside(tmp_path, relative, "train.csv line 2")


def test_absolute_path_is_refused_with_the_relative_one(tmp_path):
    with pytest.raises(DataError, match=r"line 2: '.*' is an absolute path.*; write 'rgb/1\.jpg'"):
        resolve_inside(tmp_path, str(tmp_path / "rgb" / "1.jpg"), "line 2")
    with pytest.raises(DataError, match=r"is an absolute path.*; move the data there"):
        resolve_inside(tmp_path / "data", str(tmp_path / "other.jpg"), "line 2")


def test_empty_path_is_refused(tmp_path):
    with pytest.raises(DataError, match="line 2: a path is missing"):
        resolve_inside(tmp_path, "", "line 2")


def test_links_are_followed_but_dots_are_resolved_in_the_text(tmp_path):
    write_image(tmp_path / "disk" / "1.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "rgb").symlink_to(tmp_path / "disk")
    assert read_image(resolve_inside(root, "rgb/1.png", "line 2")).shape == (3, 4, 6)
    # Asked for rgb/../disk, the system would go to the parent of the link's target, which is outside the root.
    assert resolve_inside(root, "rgb/../disk/1.png", "line 2") == root / "disk" / "1.png"


@pytest.mark.real_data
def test_real_depth(data_root):
    depth_m = read_depth(data_root / "kitchen" / "depth" / "0000.png", 1000)
    assert depth_m[depth_m > 0].median().item() == pytest.approx(1.878, abs=1e-6)
    assert int((depth_m > 0).sum()) == 43890
