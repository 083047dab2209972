"""NCDB splits."""

import json

import pytest

from depth_distill.data.ncdb import NcdbDepth
from depth_distill.errors import DataError
from tests.data.files import write_depth, write_image

KINDS = {"original_depth": 2560, "depth": 2816, "original_distance": 3072, "distance": 3328}  # 10 to 13 m


@pytest.fixture
def root(tmp_path):
    write_image(tmp_path / "day" / "synced_data" / "image_a6" / "0.jpg")
    write_image(tmp_path / "day" / "synced_data" / "image_a6" / "1.png")
    for kind, value in KINDS.items():
        for name in "01":
            write_depth(tmp_path / "day" / "synced_data" / f"newest_{kind}_maps" / f"{name}.png", value)
    return tmp_path


def ncdb(root, entries, **kwargs):
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits" / "train.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return NcdbDepth(root, "splits/train.json", **kwargs)


@pytest.mark.parametrize("dataset_root", ["day", "day/synced_data"])
def test_names_relative_to_a_dataset_root(root, dataset_root):
    data = ncdb(root, [{"dataset_root": dataset_root, "new_filename": name} for name in "10"])
    assert [data.name(i) for i in range(2)] == ["day/synced_data/image_a6/1", "day/synced_data/image_a6/0"]
    assert data[0].depth_m.max() == 10.0


def test_image_path(root):
    data = ncdb(root, [{"image_path": "day/synced_data/image_a6/1.png"}])
    assert data[0].depth_m.max() == 10.0


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_maps(root, kind):
    data = ncdb(root, [{"dataset_root": "day", "new_filename": "0"}], depth_kind=kind)
    assert data[0].depth_m.max() == KINDS[kind] / 256


def test_missing_kind_names_those_present(root):
    for name in "01":
        (root / "day" / "synced_data" / "newest_original_depth_maps" / f"{name}.png").unlink()
    (root / "day" / "synced_data" / "newest_original_depth_maps").rmdir()
    data = ncdb(root, [{"dataset_root": "day", "new_filename": "0"}])
    message = (
        r"entry 0: no folder .*newest_original_depth_maps; .*newest_depth_maps, newest_distance_maps.*set depth_kind"
    )
    with pytest.raises(DataError, match=message):
        len(data)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[", r"train\.json: not valid JSON"),
        ([], r"train\.json: expected a list with at least one entry"),
        ({"a": 1}, r"train\.json: expected a list"),
        ([{"dataset_root": "day"}], r"entry 0: expected \{dataset_root, new_filename\} or \{image_path\}, got"),
        (["day/0"], "entry 0: expected"),
        ([{"dataset_root": "night", "new_filename": "0"}], "entry 0: no image folder .*night"),
        ([{"dataset_root": "/data/day", "new_filename": "0"}], "entry 0: '/data/day' is an absolute path"),
        ([{"dataset_root": "day", "new_filename": "../../../0"}], "entry 0: .* leaves the data root"),
        ([{"image_path": "../0.jpg"}], "entry 0: .* leaves the data root"),
        ([{"dataset_root": "day", "new_filename": "0"}] * 2, r"entry 1: 0\.jpg has the same name as .*entry 0"),
    ],
)
def test_malformed_split(root, entries, message):
    with pytest.raises(DataError, match=message):
        len(ncdb(root, entries))


def test_missing_files(root):
    data = ncdb(root, [{"dataset_root": "day", "new_filename": "7"}])
    with pytest.raises(DataError, match=r"7\.jpg: no such file"):
        data[0]
    with pytest.raises(DataError, match=r"val\.json: no such file \(split\).*train\.json"):
        len(NcdbDepth(root, "splits/val.json"))


@pytest.mark.real_data
def test_real_frames(data_root):
    data = NcdbDepth(data_root / "formats" / "ncdb", "splits/combined_val.json")
    assert len(data) == 9
    sample = data[0]
    assert sample.image.shape == (3, 384, 640)
    assert int(sample.valid.sum()) == 4795
    assert sample.depth_m[sample.valid].median().item() == pytest.approx(2933 / 256)
