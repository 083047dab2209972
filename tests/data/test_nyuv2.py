"""NYU Depth v2, on a file made with h5py in the layout of the original."""

import json
import pickle
from multiprocessing import get_context

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from depth_distill.data.nyuv2 import NyuV2Labeled
from depth_distill.errors import DataError

COUNT, HEIGHT, WIDTH = 4, 5, 7
FILE = "nyu_depth_v2_labeled.mat"


@pytest.fixture(scope="module")
def arrays():
    """Images (N, H, W, 3), depths and raw depths (N, H, W): upright, as a person would hold them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    depths = rng.uniform(0.7, 10, (COUNT, HEIGHT, WIDTH)).astype(np.float32)
    raw = np.where(rng.random(depths.shape) < 0.3, 0, depths)
    return images, depths, raw


@pytest.fixture
def root(tmp_path, arrays):
    images, depths, raw = arrays
    with h5py.File(tmp_path / FILE, "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["depths"] = depths.transpose(0, 2, 1)
        file["rawDepths"] = raw.transpose(0, 2, 1)
    return tmp_path


def test_axes_are_transposed(root, arrays):
    images, depths, _ = arrays
    data = NyuV2Labeled(root)
    assert len(data) == COUNT
    assert data.name(3) == "0003"
    assert data.source(3) == f"{root / FILE} frame 3"
    for i in range(COUNT):
        sample = data[i]
        assert torch.equal(sample.image, torch.from_numpy(images[i]).permute(2, 0, 1))
        assert torch.equal(sample.depth_m[0], torch.from_numpy(depths[i]))
        assert sample.valid.all()
        assert sample.image.is_contiguous()
        assert sample.depth_m.is_contiguous()


def test_raw_depth_has_holes(root, arrays):
    raw = arrays[2]
    sample = NyuV2Labeled(root, raw=True)[1]
    assert torch.equal(sample.valid[0], torch.from_numpy(raw[1] > 0))
    assert torch.equal(sample.depth_m[0], torch.from_numpy(raw[1]))


def test_border(tmp_path):
    rows, columns = np.mgrid[:480, :640]
    with h5py.File(tmp_path / FILE, "w") as file:
        file["images"] = np.zeros((1, 3, 640, 480), np.uint8)
        file["depths"] = (rows * 1000 + columns).astype(np.float32).T[None]
    sample = NyuV2Labeled(tmp_path, crop_border=True)[0]
    assert sample.image.shape == (3, 427, 561)
    assert sample.depth_m.shape == (1, 427, 561)
    assert sample.depth_m[0, 0, 0] == 44040
    assert sample.depth_m[0, -1, -1] == 470600


@pytest.mark.parametrize(("name", "text"), [("split.json", "[2, 0]"), ("split.txt", "2\n0\n"), (None, None)])
def test_indices(root, arrays, name, text):
    if name:
        (root / name).write_text(text)
    data = NyuV2Labeled(root, indices=name or [2, 0])
    assert [data.name(i) for i in range(len(data))] == ["0002", "0000"]
    assert torch.equal(data[0].depth_m[0], torch.from_numpy(arrays[1][2]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0, 4]", rf"split\.json: frame 4 is not in .*{FILE}, which has 4, counted from 0 to 3; .*subtract 1"),
        ("[-1]", "frame -1 is not in"),
        ("[1, 1]", "frame 1 is listed more than once"),
        ("[]", r"split\.json: no frames"),
        ("[0.5]", r"split\.json: expected a list of whole numbers"),
        ('{"train": [1]}', r"split\.json: expected a list of whole numbers"),
        ("[", r"split\.json: expected whole numbers"),
    ],
)
def test_malformed_indices(root, text, message):
    (root / "split.json").write_text(text)
    with pytest.raises(DataError, match=message):
        len(NyuV2Labeled(root, indices="split.json"))


def test_missing_indices(root):
    (root / "train.json").write_text("[0]")
    with pytest.raises(DataError, match=r"tran\.json: no such file \(indices\).*did you mean 'train\.json'"):
        len(NyuV2Labeled(root, indices="tran.json"))


def test_nothing_is_opened_before_it_is_needed(tmp_path):
    data = NyuV2Labeled(tmp_path / "missing")
    with pytest.raises(DataError, match="missing: the data folder does not exist"):
        len(data)
    with pytest.raises(DataError, match=rf"{FILE}: no such file among the \*\.mat files in .*; there are none"):
        len(NyuV2Labeled(tmp_path))


def test_bad_file(root, tmp_path):
    path = root / FILE
    with h5py.File(path, "a") as file:
        del file["rawDepths"]
    with pytest.raises(
        DataError, match=rf"{FILE}: has no 'rawDepths'; did you mean 'depths'\? expected one of depths, images"
    ):
        len(NyuV2Labeled(root, raw=True))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=rf"{FILE}: cannot be read as HDF5 .*download it again"):
        len(NyuV2Labeled(root))


def _medians(data):
    return [data[i].depth_m.median().item() for i in range(len(data))]


def test_pickle_drops_the_handle(root):
    data = NyuV2Labeled(root)
    expected = _medians(data)
    copy = pickle.loads(pickle.dumps(data))
    assert copy._opened is None
    assert _medians(copy) == expected


@pytest.mark.skipif("fork" not in torch.multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_each_process_has_its_own_handle(root):
    data = NyuV2Labeled(root)
    expected = _medians(data)  # the file is open before the fork
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=get_context("fork"))
    assert [sample.depth_m.median().item() for sample in loader] == expected
    assert _medians(data) == expected


def test_splits_file_of_the_docstring_is_json(root):
    """The output of the one-liner in the docstring is valid for ``indices``."""
    one_based = np.array([[1], [4]], dtype=np.uint16)
    (root / "train.json").write_text(json.dumps((one_based.ravel() - 1).tolist()))
    assert list(NyuV2Labeled(root, indices="train.json").frames) == [0, 3]


@pytest.mark.parametrize(("shape", "dtype"), [((2, 3, 640), "u1"), ((2, 3, 7, 5), "f8"), ((2, 3, 9, 9), "u1")])
def test_arrays_that_are_not_those_of_the_set_are_refused(tmp_path, shape, dtype):
    with h5py.File(tmp_path / FILE, "w") as file:
        file["images"] = np.zeros(shape, dtype)
        file["depths"] = np.ones((2, 7, 5), np.float32)
    with pytest.raises(DataError, match=r"'images' and 'depths' are .*, expected 8-bit integers of shape"):
        len(NyuV2Labeled(tmp_path))
