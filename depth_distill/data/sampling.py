"""Sample order and augmentation seeds that depend neither on the number of workers nor on interruptions."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.transforms import JointResize
from depth_distill.types import DepthBatch, DepthSample


class SampleKey(NamedTuple):
    """Key of one augmented view of one sample: the sample's index, and the epoch that seeds its augmentation."""

    sample: int
    epoch: int


class EpochSampler(DistributedSampler[DepthSample]):
    """A shuffled order that depends only on (seed, epoch), and that can start in the middle of an epoch.

    It is a ``DistributedSampler`` (with one replica outside DDP), so Lightning does not replace it, and sets its epoch.

    Args:
        dataset: data set to sample from.
        seed: seed of the order.
        replicas: number of processes that share the data set.
        rank: rank of this process.
        seen: returns how many of this process's samples of the epoch a resumed run has already seen; called when an
            epoch begins.
        views: number of views per sample, which the epochs cycle through; None gives each epoch new views.
    """

    def __init__(
        self,
        dataset: DepthDataset,
        seed: int = 0,
        replicas: int = 1,
        rank: int = 0,
        seen: Callable[[], int] = lambda: 0,
        views: int | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=replicas, rank=rank, shuffle=True, seed=seed)
        self.seen = seen
        self.views = views

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]
        """Keys of the current epoch."""
        epoch = self.epoch if self.views is None else self.epoch % self.views
        for index in itertools.islice(super().__iter__(), self.seen(), None):
            yield SampleKey(int(index), epoch)  # type: ignore[call-overload]


class EpochLoader(DataLoader[DepthBatch]):
    """A loader that starts loading when its first batch is requested, not when its iterator is created.

    Lightning creates the iterator of a resumed run before it restores the run's epoch.
    """

    def __iter__(self) -> Iterator[DepthBatch]:  # type: ignore[override]
        """Batches of the sampler's current epoch."""
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Empty, as the sampler finds its own position; the method tells Lightning that the loader can resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""


class ViewDataset(Dataset[DepthBatch]):
    """A data set with a transform applied: each item is one view of a sample, as tensors for a batch.

    Args:
        dataset: the samples.
        view: maps a ``DepthSample`` and its index to the fields of a ``DepthBatch``; draws from torch's generator,
            which is seeded from (seed, epoch, index) during the call.
        seed: seed of the views.
        resize: how samples are resized before; None leaves them as they are.
    """

    def __init__(
        self,
        dataset: DepthDataset,
        view: Callable[[DepthSample, int], DepthBatch],
        seed: int = 0,
        resize: JointResize | None = None,
    ) -> None:
        self.dataset = dataset
        self.view = view
        self.seed = seed
        self.resize = resize

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, key: SampleKey | int) -> DepthBatch:
        """The view of a sample; a plain index means epoch 0."""
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        sample = self.dataset[index] if self.resize is None else self.dataset.at_size(index, self.resize)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(view_seed(self.seed, epoch, index))
            return self.view(sample, index)


def view_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit seed, uncorrelated between neighbouring arguments and the same on every machine (BLAKE2)."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
