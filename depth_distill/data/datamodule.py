"""The Lightning data module: the splits of a config, and a training loader that resumes where the trainer does."""

from typing import Any

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from typing_extensions import override

from depth_distill.data.sampling import EpochSampler, ViewDataset
from depth_distill.data.splits import DepthSplits
from depth_distill.errors import ConfigError
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
            ViewDataset(dataset, self._training_view, self.seed, self.joint_resize), sampler=sampler, drop_last=True
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        """What the order of the samples and the number of steps of an epoch depend on."""
        return self._steps() if self.trainer is not None and self.train is not None else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare with the run that is resumed.

        Raises:
            ConfigError: it had other batches: samples would be repeated or left out, and the learning-rate schedule
                would end too early or too late.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return
        for key, value in self._steps().items():
            if state_dict.get(key, value) != value:
                raise ConfigError(
                    f"the checkpoint is of a run with {key} {state_dict[key]}, but this one has {value}: resume with "
                    f"{state_dict[key]}, or start a new run"
                )

    def _steps(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {
            "data.batch_size": self.batch_size,
            "data.seed": self.seed,
            "data.views": self.views,
            "samples in data.train": len(self._dataset("train")),
            "trainer.accumulate_grad_batches": self.trainer.accumulate_grad_batches,
            "trainer.limit_train_batches": self.trainer.limit_train_batches,
            "processes": self.trainer.world_size,
        }
