"""The data module: splits, depth range, errors, reproducible batches."""

import pytest
import torch
from torchvision.transforms import v2

from depth_distill.data.datamodule import DepthDataModule
from depth_distill.data.synthetic import SyntheticDepth
from depth_distill.errors import ConfigError, DataError
from depth_distill.types import DepthRange
from tests.callbacks import small_run
from tests.data.constant_depth import ConstantDepth
from tests.data.noisy_depth import NoisyDepth


def datamodule(**kwargs):
    defaults = {
        "train": ConstantDepth(20),
        "val": ConstantDepth(5),
        "image_size": (32, 32),
        "batch_size": 4,
        "num_workers": 0,
    }
    return DepthDataModule(**defaults | kwargs)


def test_batches_have_the_promised_shapes_and_types():
    batch = next(iter(datamodule().val_dataloader()))
    assert batch.image.shape == (4, 3, 32, 32)
    assert batch.image.dtype == batch.depth_m.dtype == torch.float32
    assert batch.depth_m.shape == batch.valid.shape == (4, 1, 32, 32)
    assert batch.valid.dtype == torch.bool
    assert batch.sample_index.tolist() == [0, 1, 2, 3]


def test_validation_keeps_the_uneven_last_batch_and_training_drops_it():
    data = datamodule(train=ConstantDepth(18))
    assert [len(batch.sample_index) for batch in data.val_dataloader()] == [4, 1]
    assert [len(batch.sample_index) for batch in data.train_dataloader()] == [4, 4, 4, 4]


class UnreadDepth(ConstantDepth):
    def __len__(self):
        raise AssertionError("a data set was read before it was needed")


def test_no_split_is_read_before_setup():
    splits = {name: UnreadDepth(4) for name in ("train", "val", "test", "predict", "calibration")}
    data = datamodule(**splits)
    assert {name: getattr(data, name) for name in splits} == splits
    data = datamodule(val=splits["val"])
    assert data.test is data.predict is splits["val"]


def test_an_empty_test_split_is_not_replaced_by_the_validation_split():
    data = datamodule(test=ConstantDepth(0))
    assert len(data.test) == len(data.predict) == 0


def test_depth_outside_the_range_is_not_valid():
    data = datamodule(val=ConstantDepth(3), depth_range=DepthRange(1.05, 1.15))  # samples are at 1.0, 1.1 and 1.2 m
    (batch,) = data.val_dataloader()
    assert batch.valid.flatten(1).all(1).tolist() == [False, True, False]


def test_only_training_is_augmented():
    data = datamodule(augment=[v2.ColorJitter(brightness=(3.0, 3.0))])
    train = data.evaluation_view("train")[5]
    augmented = {
        int(b.sample_index[i]): b.image[i] for b in data.train_dataloader() for i in range(len(b.sample_index))
    }[5]
    assert augmented.mean() > train.image.mean()
    torch.testing.assert_close(data.evaluation_view("val")[4].image, datamodule().evaluation_view("val")[4].image)


def test_the_same_seed_gives_the_same_training_batches():
    augment = [v2.ColorJitter(0.5)]
    one, two, other = (
        torch.cat([batch.image for batch in datamodule(seed=seed, augment=augment).train_dataloader()])
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def epoch_images(data, epoch):
    """Training images of an epoch, in the order of the data set."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    order = torch.cat([batch.sample_index for batch in batches]).argsort()
    return torch.cat([batch.image for batch in batches])[order]


def test_views_return_in_turn():
    data = datamodule(views=2, augment=[v2.ColorJitter(brightness=0.5)])
    first, second, third, fourth = (epoch_images(data, epoch) for epoch in range(4))
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)


def test_without_views_no_epoch_sees_an_image_again():
    data = datamodule(augment=[v2.ColorJitter(brightness=0.5)])
    first, second, third = (epoch_images(data, epoch) for epoch in range(3))
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_no_views_at_all_are_refused():
    with pytest.raises(ConfigError, match=r"data\.views: received 0, expected at least 1"):
        datamodule(views=0)


def test_test_and_predict_fall_back_on_validation():
    data = datamodule()
    assert data.test is data.predict is data.val


def test_calibration_is_an_even_spread_of_the_training_split():
    data = datamodule(calibration_size=3)
    assert torch.cat([batch.sample_index for batch in data.calibration_dataloader()]).tolist() == [0, 10, 19]
    injected = datamodule(calibration=ConstantDepth(2))
    assert torch.cat([batch.sample_index for batch in injected.calibration_dataloader()]).tolist() == [0, 1]


def test_a_missing_split_is_named():
    with pytest.raises(DataError, match=r"data\.train"):
        datamodule(train=None).setup("fit")


def test_a_split_smaller_than_a_batch_is_refused():
    with pytest.raises(DataError, match="3 samples.*batch of 4.*batch_size"):
        datamodule(train=ConstantDepth(3)).setup("fit")


def test_predict_does_not_need_the_other_splits():
    datamodule(train=None, val=None, predict=ConstantDepth(2)).setup("predict")


def test_depth_in_the_wrong_unit_is_caught_at_set_up():
    in_millimetres = ConstantDepth(8, depth_m=1500.0)
    in_millimetres.depth_scale = 1.0
    with pytest.raises(DataError, match="depth_scale 1000 was probably meant"):
        datamodule(train=in_millimetres).setup("fit")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("num_workers", -1),
        ("calibration_size", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("image_size", (0, 0)),
        ("image_size", (-32, 64)),
        ("image_size", (32, 3_200_000)),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"^data\.{key}: received \[?{str(value).strip('()')}\]?, expected"):
        datamodule(**{key: value})


def test_bars_are_zero_and_count_neither_in_losses_nor_in_metrics():
    images = SyntheticDepth(2, size=(16, 32))
    data = datamodule(val=images, resize="pad", image_mean=(0.2, 0.4, 0.6), image_std=(0.1, 0.1, 0.1))
    (batch,) = data.val_dataloader()
    assert data.placement("val", 0).shown == (slice(8, 24), slice(0, 32))
    for bar in (slice(0, 8), slice(24, 32)):
        assert batch.image[..., bar, :].abs().max() < 0.5 / 255 / 0.1 + 1e-6
        assert not batch.valid[..., bar, :].any()
    assert torch.equal(batch.depth_m[0, :, 8:24], images[0].depth_m)
    assert batch.valid.any()


def test_what_becomes_of_another_aspect_ratio_is_said_once_for_all_splits():
    wide, other = SyntheticDepth(2, size=(16, 32)), SyntheticDepth(2, size=(32, 16))
    data = datamodule(train=wide, val=wide, test=other, predict=ConstantDepth(1))
    assert data.resize_notes(data.sizes_of("train", "val", "test", "predict", "calibration")) == [
        "train, val: images are 2:1 (32 x 16), the network takes 1:1 (32 x 32): 50 % of the width is cut off at the "
        "sides (data.resize: pad or stretch keeps it)",
        "test: images are 1:2 (16 x 32), the network takes 1:1 (32 x 32): 50 % of the height is cut off at top and "
        "bottom (data.resize: pad or stretch keeps it)",
    ]


def test_an_unknown_resize_is_refused():
    with pytest.raises(ConfigError, match=r"data\.resize: received 'squash', expected one of crop, pad, stretch"):
        datamodule(resize="squash")


def test_an_augmentation_that_changes_the_size_is_refused():
    data = datamodule(augment=[v2.Resize((5, 7))])
    with pytest.raises(ConfigError, match=r"data\.augment makes an image of 5 x 7, expected 32 x 32"):
        next(iter(data.train_dataloader()))


def test_a_crop_that_is_enlarged_again_is_not():
    data = datamodule(augment=[v2.RandomCrop(16), v2.Resize((32, 32))])
    assert next(iter(data.train_dataloader())).image.shape == (4, 3, 32, 32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 2}, "a run with data.batch_size 4, but this one has 2: resume with 4"),
        ({"train": ConstantDepth(8)}, "a run with samples in data.train 16, but this one has 8"),
        ({"seed": 5}, "a run with data.seed 0, but this one has 5"),
    ],
)
def test_a_run_is_resumed_with_the_same_batches(tmp_path, changed, message):
    run = small_run.trainer(tmp_path)
    run.fit(small_run.task(), small_run.datamodule())
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = small_run.trainer(tmp_path, epochs=2)
    with pytest.raises(ConfigError, match=message):
        again.fit(small_run.task(), small_run.datamodule(**changed), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert again.global_step == 0
    # An evaluation may have any batches.
    again.validate(
        small_run.task(),
        small_run.datamodule(**changed),
        ckpt_path=tmp_path / "a.ckpt",
        weights_only=True,
        verbose=False,
    )


def test_a_run_with_other_accumulation_is_not_resumed(tmp_path):
    run = small_run.trainer(tmp_path)
    run.fit(small_run.task(), small_run.datamodule())
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = small_run.trainer(tmp_path, epochs=2, accumulate_grad_batches=2)
    with pytest.raises(ConfigError, match=r"trainer\.accumulate_grad_batches 1, but this one has 2"):
        again.fit(small_run.task(), small_run.datamodule(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)


class CountedDepth(NoisyDepth):
    """Which samples were decoded."""

    def __init__(self, length):
        super().__init__(length)
        self.decoded = []

    def load(self, index):
        self.decoded.append(index)
        return super().load(index)


def test_only_validation_images_that_are_used_are_decoded():
    data = datamodule(val=CountedDepth(100), batch_size=2)
    batches = data.validation_batches(images=6)
    assert [batch.sample_index.tolist() for batch in batches] == [[0, 1], [48, 49], [98, 99]]
    assert data.val.decoded == [0, 1, 48, 49, 98, 99]


def test_validation_batches_are_those_of_the_loader_also_with_workers():
    data = datamodule(val=NoisyDepth(5), batch_size=2)
    with_workers = datamodule(val=NoisyDepth(5), batch_size=2, num_workers=2)
    for one, other, loaded in zip(
        data.validation_batches(), with_workers.validation_batches(), data.val_dataloader(), strict=True
    ):
        for name in one._fields:
            assert torch.equal(getattr(one, name), getattr(loaded, name))
            assert torch.equal(getattr(other, name), getattr(loaded, name))
