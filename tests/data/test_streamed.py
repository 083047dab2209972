"""Samples in the chunks of LitData: the same as from files, and exact after a resume in the middle of an epoch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from torchvision.transforms import v2

from depth_distill.data import RgbdFolder, StreamedDepth
from depth_distill.data.streamed import streamed_item
from depth_distill.data.transforms import JointResize
from depth_distill.errors import ConfigError, DataError
from tests.callbacks.small_run import FailAt, datamodule, task, trainer
from tests.data.files import write_depth, write_image

SAMPLES = 16


@pytest.fixture
def writer():
    """Write items into chunks of a few samples."""
    pytest.importorskip("litdata", reason="litdata is not installed (the extra 'streaming')")
    from litdata.streaming.writer import BinaryWriter

    def write(folder, items):
        chunks = BinaryWriter(str(folder), chunk_size=3)
        for index, item in enumerate(items):
            chunks[index] = item
        chunks.done()
        chunks.merge()
        return str(folder)

    return write


@pytest.fixture
def files(tmp_path):
    """Noise with a depth that grows, and a mask in one row."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(SAMPLES):
        write_image(tmp_path / f"rgb/{i}.png", size=(64, 32))
        Image.fromarray(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)).save(tmp_path / f"rgb/{i}.png")
        write_depth(tmp_path / f"depth/{i}.png", 1000 + 100 * i, size=(64, 32))
        rows.append(f"rgb/{i}.png,depth/{i}.png,{'mask.png' if i == 1 else ''}")
    mask = np.full((32, 64), 255, np.uint8)
    mask[:16] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "train.csv").write_text("\n".join(["image,depth,mask", *rows]))
    return RgbdFolder(tmp_path)


@pytest.fixture
def streamed(files, tmp_path, writer):
    return StreamedDepth(writer(tmp_path / "chunks", map(streamed_item, files.sample_files)))


def test_samples_are_those_of_the_files(streamed, files):
    assert len(streamed) == SAMPLES
    assert streamed.has_depth
    resize = JointResize((8, 16))
    for index in (0, 1, SAMPLES - 1):
        for actual, expected in zip(streamed[index], files[index], strict=True):
            assert torch.equal(actual, expected)
        for actual, expected in zip(streamed.at_size(index, resize), files.at_size(index, resize), strict=True):
            assert torch.equal(actual, expected)
        assert streamed.image_size(index) == tuple(files[index].image.shape[-2:])
    with pytest.raises(IndexError):
        streamed[SAMPLES]


def test_a_bad_sample_is_named(files, tmp_path, writer):
    write_depth(files.root / "depth/2.png", size=(3, 3))
    (files.root / "rgb/3.png").write_bytes(b"hello")
    data = StreamedDepth(writer(tmp_path / "chunks", map(streamed_item, files.sample_files)))
    with pytest.raises(DataError, match=r"chunks sample 2: the image is 64 x 32 but its depth is 3 x 3"):
        data[2]
    with pytest.raises(DataError, match=r"chunks sample 3 image\.png: cannot be read as a JPEG or PNG image"):
        data[3]


def test_images_without_depth(tmp_path, writer):
    item = {"image": b".png\0" + write_image(tmp_path / "a.png").read_bytes(), "depth": b"", "mask": b""}
    data = StreamedDepth(writer(tmp_path / "chunks", [item]))
    assert not data.has_depth
    assert not data[0].valid.any()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(streamed, tmp_path, workers):
    def data():
        augment = [v2.ColorJitter(brightness=0.5)]
        return datamodule(train=streamed, num_workers=workers, augment=augment)

    unvalidated = {"limit_val_batches": 0}
    whole = task()
    trainer(tmp_path, epochs=2, **unvalidated).fit(whole, data())
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, save_on_exception=True)
    failing = trainer(tmp_path, FailAt(6), checkpoint, epochs=2, enable_checkpointing=True, **unvalidated)
    with pytest.raises(ValueError, match="no such file"):
        failing.fit(task(), data())
    resumed = task()
    run = trainer(tmp_path, epochs=2, **unvalidated)
    run.fit(resumed, data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert run.global_step == 8
    for (name, expected), actual in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, actual), name


class Canary:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_objects_in_chunks_are_refused_and_not_unpickled(tmp_path, writer):
    data = StreamedDepth(
        writer(tmp_path / "chunks", [{"image": b"a", "depth": b"b", "mask": Canary(tmp_path / "ran")}])
    )
    with pytest.raises(DataError, match="the chunks hold a value of LitData's kind 'pickle', expected bytes"):
        data[0]
    assert not (tmp_path / "ran").exists()
    data = StreamedDepth(writer(tmp_path / "other", [{"rgb": b"a", "depth": b"b", "mask": b"c"}]))
    with pytest.raises(DataError, match=r"other sample 0: expected image, depth, mask; write .* streamed_item"):
        data[0]


def test_what_is_no_such_data_set_is_named(tmp_path, writer):
    for root in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match=rf"{root}: cannot be opened .*that litdata\.optimize wrote"):
            len(StreamedDepth(str(root)))


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(ConfigError, match=r"needs litdata: pip install 'depth-distill\[streaming\]'"):
        len(StreamedDepth(str(tmp_path)))
