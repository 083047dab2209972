import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from depth_distill.data.synthetic import SyntheticDepth
from depth_distill.errors import ConfigError

SMALL = (24, 32)


def test_a_sample_has_the_shapes_and_types_of_the_interface():
    sample = SyntheticDepth(4)[3]
    assert sample.image.shape == (3, 96, 128)
    assert sample.image.dtype == torch.uint8
    assert sample.depth_m.shape == sample.valid.shape == (1, 96, 128)
    assert sample.depth_m.dtype == torch.float32
    assert sample.valid.dtype == torch.bool


def test_a_sample_depends_on_seed_and_index_alone():
    first, longer = SyntheticDepth(8, SMALL), SyntheticDepth(100, SMALL)
    for index in (5, 0, 7, 5):
        for a, b in zip(first[index], longer[index], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(first[0].image, first[1].image)


def test_workers_give_what_the_main_process_gives():
    dataset = SyntheticDepth(12, SMALL)
    alone, shared = (
        list(DataLoader(dataset, batch_size=3, num_workers=workers, multiprocessing_context=context))
        for workers, context in ((0, None), (2, "fork"))
    )
    for a, b in zip(alone, shared, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_kept_samples_are_the_rendered_ones(monkeypatch):
    dataset, kept = SyntheticDepth(12, SMALL), SyntheticDepth(12, SMALL, keep=True)
    expected = [dataset[index] for index in range(12)]
    list(DataLoader(kept, num_workers=2, multiprocessing_context="fork"))  # workers fill what this process reads
    monkeypatch.setattr(SyntheticDepth, "_render", lambda *_: pytest.fail("it was rendered again"))
    for index in (3, 11, 0):
        sample = kept[index]
        assert all(torch.equal(a, b) for a, b in zip(sample, expected[index], strict=True))
        sample.image.zero_()  # a sample is the reader's own
        assert torch.equal(kept[index].image, expected[index].image)
    monkeypatch.undo()
    again = pickle.loads(pickle.dumps(kept))  # for a spawned worker, which renders by itself
    assert torch.equal(again[5].image, expected[5].image)


def test_seeds_share_no_scene():
    train, val = ({SyntheticDepth(50, SMALL, seed)[i].depth_m.numpy().tobytes() for i in range(50)} for seed in (0, 1))
    assert len(train) == len(val) == 50
    assert not train & val


@pytest.fixture(scope="module")
def many():
    dataset = SyntheticDepth(96, (48, 64))
    return [dataset[index] for index in range(len(dataset))]


def test_valid_is_where_depth_is_in_range_and_depth_is_zero_elsewhere(many):
    for sample in many:
        depth_m = sample.depth_m[sample.valid]
        assert depth_m.min() >= 0.5
        assert depth_m.max() <= 15
        assert (sample.depth_m[~sample.valid] == 0).all()
        assert sample.valid.float().mean() > 0.2


def test_the_whole_range_is_populated(many):
    depth_m = torch.cat([sample.depth_m[sample.valid] for sample in many]).numpy()
    shares = np.histogram(depth_m, (0.5, 2, 5, 15))[0] / depth_m.size
    assert shares.min() > 0.15  # about 0.22 over thousands of scenes


def test_almost_nothing_is_closer_than_the_nearest_depth():
    dataset = SyntheticDepth(96, (48, 64), min_depth_m=0.01)
    closer = [float(((s.depth_m < 0.5) & s.valid).float().mean()) for s in (dataset[i] for i in range(96))]
    assert np.mean(closer) < 1e-3


def test_images_are_neither_dark_nor_washed_out(many):
    levels = torch.stack([sample.image.float() for sample in many]) / 255
    assert 0.35 < levels.mean() < 0.65
    contrast = levels.mean(1).flatten(1).std(1)
    assert contrast.median() > 0.1
    assert contrast.min() > 0.02


def test_the_range_of_valid_depths_can_be_narrowed():
    sample = SyntheticDepth(4, SMALL, min_depth_m=1.5, max_depth_m=4.0)[1]
    assert sample.depth_m[sample.valid].min() >= 1.5
    assert sample.depth_m[sample.valid].max() <= 4.0


def test_other_sizes_show_the_same_scene():
    small, large = (SyntheticDepth(1, size).load(0).depth_m for size in ((30, 40), (90, 120)))
    # Pixel centres of the small image are those of every third pixel of the large one, starting with the second.
    assert torch.allclose(small, large[:, 1::3, 1::3], atol=1e-3)


def test_names_and_sources():
    dataset = SyntheticDepth(50, seed=3)
    assert dataset.name(42) == "synthetic/000042"
    assert dataset.source(42) == "SyntheticDepth(seed=3, size=(96, 128))[42]"
    assert len(dataset) == 50
    with pytest.raises(IndexError):
        dataset[50]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length of at least 1, got 0"),
        ({"size": (4, 32)}, r"at least 8 pixels each, got \(4, 32\)"),
        ({"size": (32,)}, r"size = \(height, width\)"),
        ({"seed": -1}, "seed of at least 0, got -1"),
        ({"min_depth_m": 3.0, "max_depth_m": 2.0}, "min_depth_m=3.0|min_m=3.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticDepth(**arguments)
