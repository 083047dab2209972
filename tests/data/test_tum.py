"""TUM RGB-D sequences."""

import pytest

from depth_distill.data.tum import TumRgbd, match_times
from depth_distill.errors import DataError
from tests.data.files import write_depth, write_image


@pytest.fixture
def root(tmp_path):
    for stamp in ("1.00", "1.03", "1.06"):
        write_image(tmp_path / "rgb" / f"{stamp}.png")
    for stamp, value in (("1.01", 5000), ("1.04", 10000), ("1.50", 15000)):
        write_depth(tmp_path / "depth" / f"{stamp}.png", value)
    (tmp_path / "rgb.txt").write_text("# color images\n# timestamp filename\n1.00 rgb/1.00.png\n1.03 rgb/1.03.png\n")
    (tmp_path / "depth.txt").write_text("1.01 depth/1.01.png\n1.04\tdepth/1.04.png\n1.50, depth/1.50.png\n")
    return tmp_path


def test_nearest_time_stamps(root):
    data = TumRgbd(root)
    assert [data.name(i) for i in range(len(data))] == ["rgb/1.00", "rgb/1.03"]
    assert [data[i].depth_m.max().item() for i in range(2)] == [1.0, 2.0]  # 5000 units a metre


def test_limit_of_the_time_difference(root):
    with pytest.raises(
        DataError, match=r"none of 2 images in rgb\.txt has a depth map .*within 0\.001 s; .*raise max_time"
    ):
        len(TumRgbd(root, max_time_difference=0.001))


def test_matching_is_one_to_one_and_nearest_first():
    # 0.10 could take 0.11, but 0.12 is nearer to it; 0.10 then gets 0.085.
    assert match_times([0.10, 0.12, 0.30], [0.085, 0.115, 0.35], 0.02) == [(0, 0), (1, 1)]
    assert match_times([0.10, 0.12], [0.115], 0.02) == [(1, 0)]
    assert match_times([], [1.0], 0.02) == []


@pytest.mark.parametrize(
    "line", ["1.03 rgb/1.03.png 1.50 depth/1.50.png", "1.50 depth/1.50.png 1.03 rgb/1.03.png"], ids=["rgb", "depth"]
)
def test_associations_in_either_order_are_taken_as_they_are(root, line):
    (root / "associations.txt").write_text(f"# pairs\n{line}\n")
    data = TumRgbd(root)
    assert [data.name(i) for i in range(len(data))] == ["rgb/1.03"]
    assert data[0].depth_m.max() == 3.0


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("associations.txt", "1.0 rgb/1.00.png", r"associations\.txt line 1: expected 'TIME FILE TIME FILE'"),
        ("associations.txt", "1 rgb/../../a 1 depth/b", r"associations\.txt line 1: .* leaves the data root"),
        ("associations.txt", "# none\n", "no samples found; expected associations.txt, or rgb.txt and depth.txt"),
        ("rgb.txt", "\nnow rgb/1.00.png", r"rgb\.txt line 2: expected a time stamp in seconds, got 'now'"),
        ("depth.txt", "1.0", r"depth\.txt line 1: expected 'TIME FILE'"),
    ],
)
def test_malformed_lists(root, file, text, message):
    (root / file).write_text(text)
    with pytest.raises(DataError, match=message):
        len(TumRgbd(root))


def test_missing_list(root):
    (root / "depth.txt").unlink()
    with pytest.raises(DataError, match=r"depth\.txt: no such file \(TUM RGB-D layout\).*rgb\.txt"):
        len(TumRgbd(root))


@pytest.mark.real_data
def test_real_frames(data_root, tmp_path):
    root = data_root / "formats" / "tum"
    data = TumRgbd(root)
    assert [data.name(i) for i in range(len(data))] == [
        "rgb/1628069033.660061",
        "rgb/1628069033.693243",
        "rgb/1628069033.726424",
    ]
    sample = data[0]
    assert sample.image.shape == (3, 480, 640)
    assert 0.3 < sample.depth_m[sample.valid].median() < 5
    # The same pairs without associations.txt.
    for name in ("rgb", "depth", "rgb.txt", "depth.txt"):
        (tmp_path / name).symlink_to(root / name)
    matched = TumRgbd(tmp_path)
    assert [(r.name, r.depth.name) for r in matched.sample_files] == [(r.name, r.depth.name) for r in data.sample_files]
