"""The splits of a config and how they become batches: injected data sets in, normalized batches out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.sampling import EpochLoader, EpochSampler, ViewDataset
from depth_distill.data.transforms import Augment, JointResize, Normalize
from depth_distill.data.validation import check_scale
from depth_distill.errors import ConfigError, DataError
from depth_distill.types import IMAGENET_MEAN, IMAGENET_STD, DepthBatch, DepthRange, DepthSample


class DepthSplits:
    """Data sets by what they are for, and loaders to evaluate and calibrate on. What no stage needs is never read.

    Args:
        root: folder of the data on disk. Nothing here reads it: configs refer to it as ``${data.root}``, so that one
            option on the command line points a whole run at somebody's data.
        train: samples to learn from.
        val: samples to choose the checkpoint by.
        test: samples for ``test``; ``val`` unless given.
        predict: samples for ``predict``; ``test`` unless given.
        calibration: images for post-training calibration; unless given, ``calibration_size`` of ``train``, evenly
            spread and not augmented.
        calibration_size: how many of ``train`` to calibrate with.
        image_size: (height, width) that every sample is resized to.
        depth_range: depths outside it are not used, neither for learning nor for metrics.
        augment: v2 transforms for training, applied after the resize, in this order.
        image_mean: mean of each colour channel, in [0, 1].
        image_std: standard deviation of each colour channel.
        batch_size: images a step and process.
        num_workers: loader processes.
        seed: seeds order and augmentation.
        views: how many differently augmented views of a sample there are, taken in turn epoch by epoch; a new one
            every epoch if not given. With a few of them a teacher's answers can be cached.

    Raises:
        ConfigError: ``views`` below 1, or an ``image_std`` that is not positive.
    """

    def __init__(
        self,
        root: Path | None = None,
        train: DepthDataset | None = None,
        val: DepthDataset | None = None,
        test: DepthDataset | None = None,
        predict: DepthDataset | None = None,
        calibration: DepthDataset | None = None,
        calibration_size: int = 128,
        image_size: tuple[int, int] = (96, 128),
        depth_range: DepthRange = DepthRange(0.5, 15.0),  # noqa: B008 - frozen
        augment: Sequence[nn.Module] = (),
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
        batch_size: int = 16,
        num_workers: int = 2,
        seed: int = 0,
        views: int | None = None,
    ) -> None:
        if views is not None and views < 1:
            raise ConfigError(f"data.views: received {views}, expected at least 1")
        if not all(std > 0 for std in image_std):
            raise ConfigError(f"data.image_std: received {list(image_std)}, expected positive numbers")
        super().__init__()
        self.root = root
        self.train = train
        self.val = val
        self.test = test or val
        self.predict = predict or self.test
        self.calibration = calibration
        self.calibration_size = calibration_size
        self.image_size = image_size
        self.depth_range = depth_range
        self.resize = JointResize(image_size)
        self.augment = Augment(augment)
        self.normalize = Normalize(image_mean, image_std)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.views = views

    def setup(self, stage: str) -> None:
        """Check what the stage will read: the split exists, is not empty, and its depth unit is plausible.

        Raises:
            DataError: naming the file and the cure.
        """
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}[stage]
        for split in needed:
            dataset = self._dataset(split)
            len(dataset)
            if stage != "predict" and dataset.has_depth:
                check_scale(dataset, self.depth_range)
        if stage == "fit" and len(self._dataset("train")) < self.batch_size:
            raise DataError(
                f"the training split has {len(self._dataset('train'))} samples, fewer than one batch of "
                f"{self.batch_size}; lower data.batch_size"
            )

    def val_dataloader(self) -> DataLoader[DepthBatch]:
        """In order, not augmented."""
        return self._loader(self.evaluation_view("val"))

    def validation_batches(self, images: int | None = None) -> list[DepthBatch]:
        """The validation split in memory; about ``images`` of it, evenly spread over its batches, if given."""
        batches = list(self.val_dataloader())
        if images is None:
            return batches
        count = max(1, min(len(batches), round(images / self.batch_size)))
        return [batches[round(i * (len(batches) - 1) / max(count - 1, 1))] for i in range(count)]

    def test_dataloader(self) -> DataLoader[DepthBatch]:
        """In order, not augmented."""
        return self._loader(self.evaluation_view("test"))

    def predict_dataloader(self) -> DataLoader[DepthBatch]:
        """In order, not augmented."""
        return self._loader(self.evaluation_view("predict"))

    def calibration_dataloader(self) -> DataLoader[DepthBatch]:
        """In order, not augmented; the images an NPU's tool chain would be given."""
        if self.calibration is not None:
            return self._loader(self.evaluation_view("calibration"))
        view = self.evaluation_view("train")
        count = min(self.calibration_size, len(view))
        return self._loader(Subset(view, torch.linspace(0, len(view) - 1, count).round().long().tolist()))

    def evaluation_view(self, split: str) -> ViewDataset:
        """The samples of a split as batches see them, one by one."""
        return ViewDataset(self._dataset(split), self._evaluation_view, self.seed)

    def _dataset(self, split: str) -> DepthDataset:
        dataset = getattr(self, split)
        if dataset is None:
            raise DataError(f"the config gives no data.{split}: name a data set there (class_path and init_args)")
        return dataset

    def _loader(
        self,
        dataset: ViewDataset | Subset[DepthBatch],
        sampler: EpochSampler | None = None,
        drop_last: bool = False,
    ) -> DataLoader[DepthBatch]:
        return (DataLoader if sampler is None else EpochLoader)(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _training_view(self, sample: DepthSample, index: int) -> DepthBatch:
        return self._to_batch(self.augment(self.resize(sample)), index)

    def _evaluation_view(self, sample: DepthSample, index: int) -> DepthBatch:
        return self._to_batch(self.resize(sample), index)

    def _to_batch(self, sample: DepthSample, index: int) -> DepthBatch:
        return DepthBatch(
            image=self.normalize(sample.image),
            depth_m=sample.depth_m,
            valid=sample.valid & self.depth_range.contains(sample.depth_m),
            sample_index=torch.tensor(index),
        )
