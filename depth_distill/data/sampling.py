"""Which sample comes when, and with which random numbers: the same for any number of workers, and after a resume."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from depth_distill.data.dataset import DepthDataset
from depth_distill.types import DepthBatch, DepthSample


class SampleKey(NamedTuple):
    """What identifies one view of one sample: its index, and the epoch that seeds its augmentation."""

    sample: int
    epoch: int


class EpochSampler(DistributedSampler[DepthSample]):
    """A shuffled order that depends on nothing but (seed, epoch), and that can start in the middle of an epoch.

    It is a ``DistributedSampler`` (of one replica, outside DDP), so Lightning leaves it as it is, and tells it the
    epoch.

    Args:
        dataset: what is sampled.
        seed: seeds the order.
        replicas: number of processes that share the data set.
        rank: this process among them.
        seen: how many of this process's samples of the epoch a resumed run has seen already; asked when an epoch
            begins.
        views: number of views of a sample that the epochs take in turn; None gives each epoch its own.
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
    """A loader that starts to load when its first batch is asked for, not when an iterator is made.

    Lightning makes the iterator of a resumed run before it has restored the epoch that the run is in.
    """

    def __iter__(self) -> Iterator[DepthBatch]:  # type: ignore[override]
        """Batches of the sampler's current epoch."""
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the sampler asks where to go on. With this method Lightning knows that the loader can resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""


class ViewDataset(Dataset[DepthBatch]):
    """A data set seen through a transform: sample, view of it, tensors for a batch.

    Args:
        dataset: the samples.
        view: maps a ``DepthSample`` to the fields of a ``DepthBatch``; draws from torch's generator, which is seeded
            from (seed, epoch, index) for the time of the call.
        seed: seeds the views.
    """

    def __init__(self, dataset: DepthDataset, view: Callable[[DepthSample, int], DepthBatch], seed: int = 0) -> None:
        self.dataset = dataset
        self.view = view
        self.seed = seed

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, key: SampleKey | int) -> DepthBatch:
        """The view of a sample; a plain index is epoch 0."""
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        sample = self.dataset[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(view_seed(self.seed, epoch, index))
            return self.view(sample, index)


def view_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit seed, unrelated for neighbouring arguments (BLAKE2, so the same on every machine)."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
