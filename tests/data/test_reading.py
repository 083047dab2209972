"""Reading files: known values, and the error messages on bad files."""

import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from depth_distill.data.reading import decode_image, lies_inside, read_depth, read_image, read_mask, resolve_inside
from depth_distill.data.transforms import JointResize
from depth_distill.errors import DataError
from depth_distill.types import DepthSample
from tests.data.files import write_depth, write_image, write_png_header
from tools.benchmarks.benchmark_reading import write_photograph


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


@pytest.mark.parametrize("turned", range(2, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_exif_orientation_is_refused_where_a_depth_map_goes_with_it(tmp_path, turned, suffix):
    path = write_image(tmp_path / f"a{suffix}", orientation=turned)
    assert read_image(path).shape in ((3, 4, 6), (3, 6, 4))
    with pytest.raises(DataError, match=rf"a\{suffix}: EXIF orientation {turned} turns the picture, .*exiftool"):
        read_image(path, goes_with_depth=True)
    with pytest.raises(DataError, match=f"EXIF orientation {turned}"):
        read_mask(path)


def test_depth_map_with_an_exif_orientation_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.ones((4, 6), np.uint16)).save(tmp_path / "d.png", exif=exif)
    with pytest.raises(DataError, match=r"d\.png: EXIF orientation 3"):
        read_depth(tmp_path / "d.png", 1000)


def test_no_other_format_is_opened(tmp_path):
    """Pillow would give PostScript to Ghostscript, and decodes a TIFF of numbers in [0, 1] to black."""
    written = {"TIFF": "F", "GIF": "P", "WEBP": "RGB", "BMP": "RGB", "EPS": "RGB", "PDF": "RGB", "PPM": "RGB"}
    for kind, mode in written.items():
        Image.new(mode, (6, 4)).save(tmp_path / "a.png", format=kind)
        named = {"EPS": "PostScript", "WEBP": "WebP", "PPM": "cannot identify"}.get(kind, kind)
        for read in (read_image, read_mask, lambda path: read_depth(path, 1000)):
            with pytest.raises(DataError, match=rf"a\.png: cannot be read as .*{named}"):
                read(tmp_path / "a.png")


def test_images_are_opened_in_one_place():
    root = Path(__file__).parents[2]
    openers = [path for room in ("depth_distill", "tools") for path in (root / room).rglob("*.py")]
    openers = [path.name for path in openers if re.search(r"Image\.open|imread", path.read_text())]
    assert openers == ["image_files.py"]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: cannot be read as .* \(it is a pipe or a device\); correct its path"):
        read_image(tmp_path / "a.png")


def test_a_photograph_with_a_second_picture_in_it_is_read(tmp_path):
    """Phones write a preview or a second exposure behind the JPEG, which Pillow calls MPO."""
    first, second = Image.new("RGB", (6, 4), (30, 30, 30)), Image.new("RGB", (6, 4))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.jpg").unique().tolist() == [30]


def test_an_image_that_is_too_large_is_not_decoded(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: the image has 144 megapixels, and at most 134 are read"):
        read_image(write_png_header(tmp_path / "a.png", (12000, 12000)))
    with pytest.raises(DataError, match=r"a\.png: the image has 4225 megapixels"):
        read_image(write_png_header(tmp_path / "a.png", (65000, 65000)))


@pytest.mark.parametrize("size", [(24, 32), (48, 64), (60, 130), (100, 130)])
def test_a_photograph_decoded_smaller_is_the_same_but_for_four_levels(tmp_path, size):
    write_photograph(tmp_path / "a.jpg", (800, 600))
    resize = JointResize(size)
    reduced, stored_size = decode_image(tmp_path / "a.jpg", size=size)
    assert stored_size == (600, 800)
    assert reduced.shape[-1] < 800
    assert all(now >= 3 * wanted for now, wanted in zip(reduced.shape[1:], size, strict=True))
    whole, small = (resize(DepthSample(x, x, x)).image.int() for x in (read_image(tmp_path / "a.jpg"), reduced))
    assert (whole - small).abs().max() <= 4
    assert (whole - small).abs().float().mean() < 1


@pytest.mark.parametrize("size", [(101, 134), (600, 800), (2000, 2000), (600, 8)])
def test_an_image_is_not_decoded_below_three_times_its_size(tmp_path, size):
    write_image(tmp_path / "a.jpg", size=(800, 600))
    assert decode_image(tmp_path / "a.jpg", size=size)[0].shape == (3, 600, 800)


def test_a_photograph_on_its_side_is_decoded_smaller(tmp_path):
    write_image(tmp_path / "a.jpg", size=(800, 600), orientation=6)
    image, stored_size = decode_image(tmp_path / "a.jpg", size=(130, 98))
    assert (image.shape, stored_size) == ((3, 400, 300), (800, 600))


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
    with pytest.raises(DataError, match=r"d\.npy: holds Python objects, which are not unpickled"):
        read_depth(tmp_path / "d.npy", 1.0)


def npy_header(text, version=1):
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text.encode()


MAP = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }\n"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            MAP % "1000000, 1000000",
            r"d\.npy: the array is float64 of shape \(1000000, 1000000\), 8e\+03 GB, and at most",
        ),
        (MAP % "64, 64", r"its header says float64 of shape \(64, 64\), and 80 bytes follow\); the file may be trunc"),
        (MAP % "-1, 5", r"its header says float64 of shape \(-1, 5\)"),
        ("{'descr': (", r"d\.npy: cannot be read as a NumPy array \("),
        ("(" * 3000, r"d\.npy: cannot be read as a NumPy array \("),
        ("{'descr': [('a','<f4'),('b','O')], 'fortran_order': False, 'shape': (2, 5), }\n", "holds Python objects"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_npy_header_is_checked_before_memory_is_taken(tmp_path, header, message, version):
    (tmp_path / "d.npy").write_bytes(npy_header(header, version) + bytes(80))
    with pytest.raises(DataError, match=message):
        read_depth(tmp_path / "d.npy", 1.0)


def test_npz_that_unpacks_to_gigabytes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", npy_header(MAP % "40000, 40000") + bytes(1 << 20))
    with pytest.raises(DataError, match=r"d\.npz: the array .*\(40000, 40000\), 12\.8 GB, and at most"):
        read_depth(tmp_path / "d.npz", 1.0)


@pytest.mark.parametrize("dtype", ["u1", "i1"])
def test_numpy_depth_of_8_bits_is_refused(tmp_path, dtype):
    np.save(tmp_path / "d.npy", np.full((4, 6), 100, dtype))
    with pytest.raises(DataError, match=r"d\.npy: expected a depth map of 16 bits or more, got u?int8; export"):
        read_depth(tmp_path / "d.npy", 1000)


@pytest.mark.parametrize(("mode", "found"), [("L", "1 of 8"), ("RGB", "3 of 8"), ("RGBA", "4 of 8"), ("1", "1 of 1")])
def test_8_bit_depth_is_refused(tmp_path, mode, found):
    Image.new(mode, (5, 3)).save(tmp_path / "d.png")
    with pytest.raises(DataError, match=rf"d\.png: expected a depth map of 1 channel.*got {found} bits; export"):
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


def test_nul_byte_in_a_path_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 2: 'rgb/\\x001\.jpg' has a NUL byte"):
        resolve_inside(tmp_path, "rgb/\0001.jpg".replace("\0001", "\x001"), "line 2")


def test_backslashes_are_refused_unless_the_file_has_that_name(tmp_path):
    with pytest.raises(DataError, match=r"line 2: 'rgb\\1\.jpg' has backslashes; write 'rgb/1\.jpg'"):
        resolve_inside(tmp_path, r"rgb\1.jpg", "line 2")
    path = write_image(tmp_path / r"rgb\1.jpg")
    assert resolve_inside(tmp_path, r"rgb\1.jpg", "line 2") == path


def test_what_lies_inside_of_a_folder(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path.parent)
    assert lies_inside(tmp_path, "a/../b")
    assert not any(lies_inside(tmp_path, name) for name in ("../x", "/etc", "out/x", "a\0b"))


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
