"""KITTI layouts."""

import pytest

from depth_distill.data.kitti import KittiDepth
from depth_distill.errors import DataError
from tests.data.files import write_depth, write_image

DRIVE = "2011_09_26_drive_0001_sync"
RAW = f"2011_09_26/{DRIVE}/image_02/data"
DEPTH = f"{DRIVE}/proj_depth/groundtruth/image_02"


def test_by_name(tmp_path):
    for name in ("0000000004", "0000000005"):
        write_image(tmp_path / "rgb" / f"{name}.png")
    write_depth(tmp_path / "depth" / "0000000005.png", 3584)
    data = KittiDepth(tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["rgb/0000000005"]
    assert data[0].depth_m.max() == 14.0  # 3584 / 256


def test_by_name_without_depth_folder(tmp_path):
    write_image(tmp_path / "rgb" / "1.png")
    with pytest.raises(DataError, match="has a folder rgb but none called depth"):
        len(KittiDepth(tmp_path))


@pytest.mark.parametrize("place", ["", "train/", "val/", "data_depth_annotated/", "data_depth_annotated/val/"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_official_layout(tmp_path, place, suffix):
    for name in ("0000000000", "0000000005", "0000000006"):
        write_image(tmp_path / RAW / f"{name}{suffix}")
    for name in ("0000000005", "0000000006"):
        write_depth(tmp_path / place / DEPTH / f"{name}.png", 2560)
    data = KittiDepth(tmp_path)
    assert [data.name(i) for i in range(len(data))] == [f"{RAW}/0000000005", f"{RAW}/0000000006"]
    assert data[1].depth_m.max() == 10.0


def test_official_splits_and_cameras(tmp_path):
    other = DRIVE.replace("0001", "0002")
    for drive, split in ((DRIVE, "train"), (other, "val")):
        for camera in ("image_02", "image_03"):
            write_image(tmp_path / split / drive / camera / "data" / "1.png")  # raw images beside the depth maps
            write_depth(tmp_path / split / drive / "proj_depth" / "groundtruth" / camera / "1.png")
    assert len(KittiDepth(tmp_path)) == 2
    data = KittiDepth(tmp_path, split="val", camera="image_03")
    assert [data.name(i) for i in range(len(data))] == [f"val/{other}/image_03/data/1"]
    assert data[0].valid.any()


def test_depth_without_raw_drive(tmp_path):
    write_depth(tmp_path / "train" / DEPTH / "1.png")
    with pytest.raises(DataError, match=rf"depth maps without images.*{RAW}; download the raw drive {DRIVE}"):
        len(KittiDepth(tmp_path))


def test_depth_without_its_image(tmp_path):
    write_image(tmp_path / RAW / "1.png")
    write_depth(tmp_path / DEPTH / "2.png")
    with pytest.raises(DataError, match=rf"{RAW}/2\.png: no such file"):
        KittiDepth(tmp_path)[0]


def test_split_file(tmp_path):
    for name in ("1", "2", "3"):
        write_image(tmp_path / RAW / f"{name}.png")
    write_depth(tmp_path / "train" / DEPTH / "1.png", 256)
    write_depth(tmp_path / DEPTH / "3.png", 768)
    lines = [
        "# a comment",
        f"{RAW}/3.png {DEPTH}/3.png",
        f"{RAW}/2.png None 721.5377",
        f"{RAW}/1.png {DEPTH}/1.png 721.5377",
    ]
    (tmp_path / "eigen.txt").write_text("\n".join(lines))
    data = KittiDepth(tmp_path, "eigen.txt")
    assert [data.name(i) for i in range(len(data))] == [f"{RAW}/3", f"{RAW}/1"]
    assert [data[i].depth_m.max().item() for i in range(2)] == [3.0, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png", r"split\.txt line 1: expected 'IMAGE DEPTH \[FOCAL\]', got 1 words"),
        ("a.png b.png\n../a.png b.png", "line 2: '../a.png' leaves the data root"),
        ("a.png b.png\na.png b.png", r"line 2: a\.png has the same name as .*line 1"),
        ("# nothing\n", r"split\.txt: no samples"),
    ],
)
def test_malformed_split_file(tmp_path, text, message):
    (tmp_path / "split.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        len(KittiDepth(tmp_path, "split.txt"))


def test_missing_split_file(tmp_path):
    (tmp_path / "eigen_train.txt").write_text("")
    with pytest.raises(
        DataError, match=r"eigen_tain\.txt: no such file \(split_file\).*did you mean 'eigen_train\.txt'"
    ):
        len(KittiDepth(tmp_path, "eigen_tain.txt"))


def test_another_layout(tmp_path):
    with pytest.raises(DataError, match=r"no samples found; expected rgb/NAME\.png with depth/NAME\.png, or DRIVE"):
        len(KittiDepth(tmp_path))


@pytest.mark.real_data
def test_real_frames(data_root):
    data = KittiDepth(data_root / "formats" / "kitti")
    assert [data.name(i) for i in range(len(data))] == ["rgb/0000000005", "rgb/0000000050"]
    sample = data[0]
    assert sample.image.shape == (3, 375, 1242)
    assert int(sample.valid.sum()) == 90839
    assert sample.depth_m.max().item() == 21733 / 256
