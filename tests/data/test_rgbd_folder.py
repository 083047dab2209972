"""CSV manifests."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from depth_distill.data.rgbd_folder import RgbdFolder
from depth_distill.data.transforms import JointResize
from depth_distill.errors import DataError
from tests.data.files import write_depth, write_image
from tools.benchmarks.benchmark_reading import write_photograph


@pytest.fixture
def root(tmp_path):
    for i in range(3):
        write_image(tmp_path / "rgb" / f"{i}.png", level=10 * i)
        write_depth(tmp_path / "depth" / f"{i}.png", 1000 * (i + 1))
    return tmp_path


def folder(root, text, **kwargs):
    (root / "train.csv").write_text(text)
    return RgbdFolder(root, **kwargs)


def test_known_values(root):
    data = folder(root, "image,depth\nrgb/0.png,depth/0.png\nrgb/2.png,depth/2.png\n")
    assert len(data) == 2
    assert data.has_depth
    assert data.name(1) == "rgb/2"
    assert data.source(1) == str(root / "rgb" / "2.png")
    image, depth_m, valid = data[1]
    assert image.unique().tolist() == [20]
    assert depth_m[valid].unique().tolist() == [3.0]
    assert valid.shape == depth_m.shape == (1, 4, 6)
    assert not valid[0, 0, 0]
    assert valid.sum() == 23
    with pytest.raises(IndexError):
        data[2]


def test_scale(root):
    data = folder(root, "image,depth\nrgb/0.png,depth/0.png\n", depth_scale=500)
    assert data[0].depth_m.max() == 2
    with pytest.raises(ValueError, match="depth_scale must be positive"):
        RgbdFolder(root, depth_scale=0)


def test_spreadsheet_habits(root):
    """A byte order mark, CRLF, blank lines, blanks around cells, another order of columns, quotes."""
    write_image(root / "rgb" / "a,b.png")
    text = '\ufeffdepth , image\r\n\r\n depth/0.png,rgb/0.png \r\ndepth/1.png,"rgb/a,b.png"\r\n'
    (root / "train.csv").write_bytes(text.encode())
    data = RgbdFolder(root)
    assert [data.name(i) for i in range(2)] == ["rgb/0", "rgb/a,b"]
    assert data[1].depth_m.max() == 2


def test_mask_is_applied_and_may_be_left_empty(root):
    mask = Image.new("L", (6, 4), 255)
    mask.paste(0, (0, 0, 3, 4))
    mask.save(root / "mask.png")
    data = folder(root, "image,depth,mask\nrgb/0.png,depth/0.png,mask.png\nrgb/1.png,depth/1.png,\n")
    assert data[0].valid.sum() == 12
    assert not data[0].valid[..., :3].any()
    assert data[1].valid.sum() == 23


def test_a_sample_at_another_size_is_that_of_the_whole_one(root):
    write_photograph(root / "rgb" / "0.jpg", (400, 300))
    noise = np.random.default_rng(0).integers(0, 9000, (300, 400), dtype=np.uint16)
    Image.fromarray(noise).save(root / "depth" / "0.png")
    data = folder(root, "image,depth\nrgb/0.jpg,depth/0.png\n")
    small, whole = data.at_size(0, JointResize((24, 32))), JointResize((24, 32))(data[0])
    assert torch.equal(small.depth_m, whole.depth_m)
    assert torch.equal(small.valid, whole.valid)
    assert 0 < (small.image.int() - whole.image.int()).abs().max() <= 4


def test_depth_of_the_size_that_an_image_is_decoded_at_is_refused(root):
    write_image(root / "rgb" / "0.jpg", size=(400, 300))
    write_depth(root / "depth" / "0.png", size=(100, 75))
    data = folder(root, "image,depth\nrgb/0.jpg,depth/0.png\n")
    for read in (lambda: data[0], lambda: data.at_size(0, JointResize((24, 32)))):
        with pytest.raises(DataError, match=r"0\.jpg: the image is 400 x 300 but its depth is 100 x 75"):
            read()
    with pytest.raises(IndexError):
        data.at_size(1, JointResize((24, 32)))


def test_a_long_manifest_is_opened_without_a_path_per_row(root, monkeypatch):
    """200,000 rows took 9 s of a core as ``Path`` objects, and 2 s as text."""
    rows = "".join(f"rgb/{i}.png,depth/{i}.png\n" for i in range(500))
    made = []
    monkeypatch.setattr(Path, "__truediv__", lambda *parts: made.append(parts) or Path(*map(str, parts)))
    assert len(folder(root, f"image,depth\n{rows}")) == 500
    assert len(made) < 20


def test_mask_of_another_size(root):
    Image.new("L", (3, 2), 255).save(root / "mask.png")
    data = folder(root, "image,depth,mask\nrgb/0.png,depth/0.png,mask.png\n")
    with pytest.raises(DataError, match=r"mask\.png: the mask is 3 x 2 but its depth map is 6 x 4"):
        data[0]


@pytest.mark.parametrize("text", ["image\nrgb/0.png\nrgb/1.png\n", "image,depth\nrgb/0.png,\nrgb/1.png,\n"])
def test_image_only(root, text):
    data = folder(root, text)
    assert not data.has_depth
    sample = data[1]
    assert sample.depth_m.shape == (1, 4, 6)
    assert sample.depth_m.dtype == torch.float32
    assert not sample.depth_m.any()
    assert not sample.valid.any()


def test_manifest_in_a_subfolder(root):
    (root / "splits").mkdir()
    (root / "splits" / "a.csv").write_text("image,depth\n../rgb/0.png,../depth/0.png\n")
    data = RgbdFolder(root, "splits/a.csv")
    assert data.name(0) == "rgb/0"
    assert data[0].depth_m.max() == 1


def test_nothing_is_read_before_it_is_needed(tmp_path):
    data = RgbdFolder(tmp_path / "missing")
    with pytest.raises(DataError, match=r"missing: the data folder does not exist; .*--data\.root"):
        len(data)


def test_missing_manifest_names_what_is_there(root):
    (root / "train.csv").write_text("image\nrgb/0.png\n")
    (root / "val.csv").write_text("image\nrgb/0.png\n")
    with pytest.raises(
        DataError,
        match=r"trian\.csv: no such file \(manifest\) .*; did you mean 'train\.csv'\? expected one of train\.csv, val",
    ):
        len(RgbdFolder(root, "trian.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train\.csv: no samples; expected a CSV manifest with the header image,depth"),
        ("image,depth\n", r"train\.csv: no samples"),
        (
            "rgb/0.png,depth/0.png\n",
            r"line 1: unknown column 'rgb/0\.png' in the header; expected one of image, depth",
        ),
        ("image,dpeth\nrgb/0.png,depth/0.png\n", r"line 1: unknown column 'dpeth'.*did you mean 'depth'"),
        ("image;depth\nrgb/0.png;depth/0.png\n", r"line 1: 'image;depth' is separated by ';', expected commas"),
        ("image\tdepth\nrgb/0.png\tdepth/0.png\n", r"line 1: 'image\\tdepth' is separated by '\\t', expected commas"),
        ("image,depth\nrgb/\0.png,depth/0.png\n", r"train\.csv line 2: 'rgb/\\x00\.png' has a NUL byte"),
        ("depth\ndepth/0.png\n", r"line 1: expected the header image,depth .* got depth"),
        ("image,image\nrgb/0.png,rgb/1.png\n", "line 1: expected the header"),
        ("image,depth\nrgb/0.png\n", "line 2: 1 cells under a header of 2"),
        ("image,depth\nrgb/0.png,depth/0.png,x\n", "line 2: 3 cells under a header of 2 .*quote paths"),
        ("image,depth\n,depth/0.png\n", "line 2: a path is missing"),
        ("image,depth\nrgb/0.png,depth/0.png\nrgb/1.png,\n", "line 3: no depth, although 1 of 2 rows"),
        (
            "image,depth\nrgb/0.png,depth/0.png\n\nrgb/0.png,depth/1.png\n",
            r"line 4: 0\.png has the same name as .*line 2",
        ),
        (
            "image,depth\nrgb/0.png,depth/0.png\nrgb/0.jpg,depth/1.png\n",
            r"line 3: 0\.jpg has the same name as .*'rgb/0'",
        ),
        ("image,depth\n/etc/0.png,depth/0.png\n", "line 2: '/etc/0.png' is an absolute path"),
        ("image,depth\n../0.png,depth/0.png\n", r"line 2: '\.\./0\.png' leaves the data root"),
        ('image,depth\n"rgb/0.png,depth/0.png\n', "line 2: not valid CSV"),
    ],
)
def test_malformed_manifest(root, text, message):
    with pytest.raises(DataError, match=message):
        len(folder(root, text))


def test_manifest_that_is_not_text(root):
    (root / "train.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=r"train\.csv: cannot be read as text .*UTF-8"):
        len(RgbdFolder(root))


def test_missing_depth_file_is_named(root):
    data = folder(root, "image,depth\nrgb/0.png,depth/9.png\n")
    with pytest.raises(DataError, match=r"9\.png: no such file; expected a 16-bit PNG"):
        data[0]


def test_image_and_depth_of_different_size(root):
    write_depth(root / "depth" / "0.png", size=(3, 2))
    data = folder(root, "image,depth\nrgb/0.png,depth/0.png\n")
    with pytest.raises(DataError, match=r"0\.png: the image is 6 x 4 but its depth is 3 x 2"):
        data[0]


def test_pickle_and_workers(root):
    data = folder(root, "".join(["image,depth\n", *(f"rgb/{i}.png,depth/{i}.png\n" for i in range(3))]))
    assert pickle.loads(pickle.dumps(data))[1].depth_m.max() == 2
    loaded = list(DataLoader(data, batch_size=None, num_workers=1))
    assert [sample.depth_m.max().item() for sample in loaded] == [1, 2, 3]


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "lengths"), [("kitchen", (760, 200)), ("nyuv2", (700, 95))])
def test_real_folders(data_root, name, lengths):
    train, val = RgbdFolder(data_root / name), RgbdFolder(data_root / name, "val.csv")
    assert (len(train), len(val)) == lengths
    sample = val[0]
    assert sample.image.shape == (3, 192, 256)
    assert 0.5 < sample.depth_m[sample.valid].median() < 4
    assert not {train.name(i) for i in range(len(train))} & {val.name(i) for i in range(len(val))}


def test_a_manifest_that_is_a_pipe_is_not_waited_for(root):
    os.mkfifo(root / "train.csv")
    with pytest.raises(DataError, match=r"train\.csv: cannot be read as text \(it is a pipe or a device\)"):
        len(RgbdFolder(root))
