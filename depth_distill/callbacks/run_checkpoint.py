"""The best checkpoint of a run, and the last."""

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info
from typing_extensions import override


class RunCheckpoint(ModelCheckpoint):
    """Keep the best checkpoints and ``last.ckpt``; a run that is cut short writes ``last.ckpt`` only.

    Lightning would then also write a file named like the best ones, after a metric that is not of these weights: before
    the first validation it is 0.0000, and passes for the best of all.
    """

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        # Lightning writes last.ckpt only beside a new best one: a run that is killed would go on from there.
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.save_last and self._should_save_on_exception(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        if self.last_model_path:
            rank_zero_info(f"saved {self.last_model_path}; to go on from there, give it to fit as --ckpt_path")
