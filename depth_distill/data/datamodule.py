"""The Lightning data module: the splits of a config, and a training loader that resumes where the trainer does."""

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from typing_extensions import override

from depth_distill.data.sampling import EpochSampler, ViewDataset
from depth_distill.data.splits import DepthSplits
from depth_distill.types import DepthBatch


class DepthDataModule(DepthSplits, LightningDataModule):
    """Loaders for every stage; see :class:`~depth_distill.data.splits.DepthSplits` for the arguments."""

    @override
    def train_dataloader(self) -> DataLoader[DepthBatch]:
        """Training split, shuffled and augmented; the order depends only on (seed, epoch)."""
        dataset = self._dataset("train")
        if self.trainer is None:
            sampler = EpochSampler(dataset, self.seed, views=self.views)
        else:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress
            sampler = EpochSampler(
                dataset,
                self.seed,
                self.trainer.world_size,
                self.trainer.global_rank,
                seen=lambda: progress.current.ready * self.batch_size,
                views=self.views,
            )
        return self._loader(
            ViewDataset(dataset, self._training_view, self.seed, self.image_size), sampler=sampler, drop_last=True
        )
