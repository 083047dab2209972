"""The splits of a config: injected data sets in, loaders of normalized batches out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.placement import Placement, Size, require_mode, resize_note
from depth_distill.data.sampling import EpochLoader, EpochSampler, ViewDataset
from depth_distill.data.transforms import Augment, JointResize, Normalize
from depth_distill.data.validation import check_scale
from depth_distill.errors import ConfigError, DataError
from depth_distill.streaming import Streamed
from depth_distill.types import IMAGENET_MEAN, IMAGENET_STD, DepthBatch, DepthRange, DepthSample, ResizeMode

_LARGEST_SEED = 2**32 - 1  # of NumPy
_LARGEST_SIDE = 16_384  # an image of that size has 3 GB in float32


class DepthSplits:
    """Data sets by purpose, with loaders for evaluation and calibration. Splits that no stage needs are never read.

    Args:
        root: folder of the data on disk. It is not read here: configs refer to it as ``${data.root}``, so that one
            command-line option points a whole run at the data.
        train: training samples.
        val: validation samples, which select the checkpoint.
        test: samples for ``test``; by default ``val``.
        predict: samples for ``predict``; by default ``test``.
        calibration: images for post-training calibration; by default ``calibration_size`` samples of ``train``, evenly
            spaced and not augmented.
        calibration_size: number of calibration images to take from ``train``.
        image_size: (height, width) that every sample is resized to.
        resize: how an image of another aspect ratio comes to that size: ``crop`` cuts off what stands over, around the
            centre; ``pad`` shows it whole between bars of the mean colour, without depth; ``stretch`` distorts it.
        depth_range: depths outside it are ignored in both losses and metrics.
        augment: v2 transforms for training, applied in this order after the resize.
        image_mean: mean per colour channel, in [0, 1].
        image_std: standard deviation per colour channel.
        batch_size: images per step and process.
        num_workers: number of loader processes.
        seed: seed of order and augmentation.
        views: number of augmented views per sample, which the epochs cycle through; by default every epoch has new
            views. With a few views, the teacher's outputs can be cached.

    Raises:
        ConfigError: a number is too small or too large, an ``image_std`` is not positive, or ``resize`` is none of
            these.
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
        resize: ResizeMode = "crop",
        depth_range: DepthRange = DepthRange(0.5, 15.0),  # noqa: B008 - frozen
        augment: Sequence[nn.Module] = (),
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
        batch_size: int = 16,
        num_workers: int = 2,
        seed: int = 0,
        views: int | None = None,
    ) -> None:
        least = {"batch_size": 1, "num_workers": 0, "calibration_size": 1, "views": 1, "seed": 0}
        for key, value in zip(least, (batch_size, num_workers, calibration_size, views, seed), strict=True):
            if value is not None and value < least[key]:
                raise ConfigError(f"data.{key}: received {value}, expected at least {least[key]}")
        if seed > _LARGEST_SEED:
            raise ConfigError(f"data.seed: received {seed}, expected at most {_LARGEST_SEED}")
        if min(image_size) < 1 or max(image_size) > _LARGEST_SIDE:
            raise ConfigError(
                f"data.image_size: received {list(image_size)}, expected height and width of 1 to {_LARGEST_SIDE}"
            )
        require_mode(resize)
        if not all(std > 0 for std in image_std):
            raise ConfigError(f"data.image_std: received {list(image_std)}, expected positive numbers")
        super().__init__()
        self.root = root
        self.train = train
        self.val = val
        # Not "or", which calls len(): that reads the disk, and replaces an empty split by another.
        self.test = test if test is not None else val
        self.predict = predict if predict is not None else self.test
        self.calibration = calibration
        self.calibration_size = calibration_size
        self.image_size = image_size
        self.resize = resize
        self.joint_resize = JointResize(image_size, resize, image_mean)
        self.depth_range = depth_range
        self.augment = Augment(augment)
        self.normalize = Normalize(image_mean, image_std)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.views = views

    def setup(self, stage: str) -> None:
        """Check the splits that a stage reads: each exists, is not empty, and has a plausible depth unit.

        Raises:
            DataError: a check fails; the message names the file and the cure.
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
        """Validation split in order, not augmented."""
        return self._loader(self.evaluation_view("val"))

    def validation_batches(self, images: int | None = None) -> Streamed[DepthBatch]:
        """The validation split; if ``images`` is given, about that many images in evenly spaced batches.

        Only batches that are asked for are read, and only as many kept as fit into a small part of the memory.
        """
        view = self.evaluation_view("val")
        batches = self._in_batches(range(len(view)))
        if images is not None:
            count = max(1, min(len(batches), round(images / self.batch_size)))
            batches = [batches[round(i * (len(batches) - 1) / max(count - 1, 1))] for i in range(count)]
        return self._streamed(view, batches)

    def test_dataloader(self) -> DataLoader[DepthBatch]:
        """Test split in order, not augmented."""
        return self._loader(self.evaluation_view("test"))

    def predict_dataloader(self) -> DataLoader[DepthBatch]:
        """Prediction split in order, not augmented."""
        return self._loader(self.evaluation_view("predict"))

    def calibration_dataloader(self) -> DataLoader[DepthBatch]:
        """Calibration images in order, not augmented: those given to an NPU's tool chain."""
        view, chosen = self._calibration()
        return self._loader(Subset(view, chosen))

    def calibration_batches(self) -> Streamed[DepthBatch]:
        """The batches of :meth:`calibration_dataloader`, read when they are asked for."""
        view, chosen = self._calibration()
        return self._streamed(view, self._in_batches(chosen))

    def evaluation_view(self, split: str) -> ViewDataset:
        """The samples of a split, resized and normalized but not augmented."""
        return ViewDataset(self._dataset(split), self._to_batch, self.seed, self.joint_resize)

    def placement(self, split: str, index: int) -> Placement:
        """Where the image of a sample lies in what the network takes."""
        if self.resize != "pad":  # the network sees nothing but the image
            return Placement(self.joint_resize.size, self.joint_resize.size)
        return Placement.of(self._dataset(split).image_size(index), self.image_size, self.resize)

    def resize_notes(self, sizes: Mapping[str, Iterable[Size]]) -> list[str]:
        """What becomes of images of another aspect ratio, a line for splits with the same; empty where there are none.

        Args:
            sizes: (height, width) of the images by split; see :meth:`sizes_of`.
        """
        splits: dict[str, list[str]] = {}
        for split, found in sizes.items():
            splits.setdefault(resize_note(found, self.image_size, self.resize), []).append(split)
        return [f"{', '.join(names)}: {note}" for note, names in splits.items() if note]

    def sizes_of(self, *splits: str) -> dict[str, set[Size]]:
        """Sizes (height, width) of some images of each split that there is.

        Raises:
            DataError: the split is empty, or an image cannot be read.
        """
        return {each: getattr(self, each).image_sizes() for each in splits if getattr(self, each) is not None}

    def _calibration(self) -> tuple[ViewDataset, Sequence[int]]:
        """The samples that calibration images are taken from, and which of them."""
        if self.calibration is not None:
            view = self.evaluation_view("calibration")
            return view, range(len(view))
        view = self.evaluation_view("train")
        count = min(self.calibration_size, len(view))
        return view, torch.linspace(0, len(view) - 1, count).round().long().tolist()

    def _in_batches(self, samples: Sequence[int]) -> list[Sequence[int]]:
        return [samples[start : start + self.batch_size] for start in range(0, len(samples), self.batch_size)]

    def _streamed(self, view: ViewDataset, batches: Sequence[Sequence[int]]) -> Streamed[DepthBatch]:
        def read(positions: Sequence[int]) -> Iterator[DepthBatch]:
            workers = min(self.num_workers, len(positions) - 1)  # a process is started faster than not for one batch
            chosen = [list(batches[each]) for each in positions]
            return iter(DataLoader(view, batch_sampler=chosen, num_workers=workers))

        return Streamed(len(batches), read, lambda batch: sum(each.nbytes for each in batch))

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
        view = self.augment(sample)
        if tuple(view.image.shape) != (3, *self.image_size):
            raise ConfigError(
                f"data.augment makes an image of {' x '.join(map(str, view.image.shape[-2:]))}, expected "
                f"{' x '.join(map(str, self.image_size))}, as data.image_size says: let its transforms keep the size"
            )
        return self._to_batch(view, index)

    def _to_batch(self, sample: DepthSample, index: int) -> DepthBatch:
        return DepthBatch(
            image=self.normalize(sample.image),
            depth_m=sample.depth_m,
            valid=sample.valid & self.depth_range.contains(sample.depth_m),
            sample_index=torch.tensor(index),
        )
