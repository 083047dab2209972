"""The teacher's outputs, computed once and kept on disk."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from depth_distill.data.tensor_cache import Field, TensorCache
from depth_distill.errors import ConfigError
from depth_distill.quantization.simulate.calibrate import weights_hash
from depth_distill.tasks import DistillationTask
from depth_distill.types import DepthBatch


class TeacherCache(Callback):
    """Keep the teacher's depth and features, so that the teacher runs once per view of each sample.

    This needs ``data.views``: with augmentation drawn anew in every epoch no output would be needed twice. The cache
    fills during the first ``data.views`` epochs; each process writes the samples that it is given. Its folder is named
    after a hash of all that the outputs depend on: weights and layers of the teacher, the samples, their size, resize,
    normalization, augmentation and seed. Another teacher therefore gets another folder. Samples are told apart by name
    only: delete the folder when their files change, and old folders when the disk is full.

    Args:
        folder: folder in which all caches are kept.
        dtype: type of the features on disk; depth is always ``float32``.

    Raises:
        ConfigError: at the start of ``fit``, without ``data.views``.
        DataError: see :class:`~depth_distill.data.tensor_cache.TensorCache`.
    """

    def __init__(self, folder: Path = Path("cache/teacher"), dtype: Literal["float16", "float32"] = "float16") -> None:
        self.folder = folder
        self.dtype = dtype
        self.cache: TensorCache | None = None
        self._views = 1

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, DistillationTask):
            raise ConfigError(f"TeacherCache needs a DistillationTask: a {type(pl_module).__name__} has no teacher")
        task = pl_module
        if datamodule is None or datamodule.views is None:
            raise ConfigError("TeacherCache needs data.views: the number of augmented views that epochs take in turn")
        self._views = datamodule.views
        dataset = datamodule.train
        example = task.teacher_forward(_example(task, datamodule.image_size))
        fields = {
            name: Field(tuple(value.shape[1:]), "float32" if name == "depth_m" else self.dtype)
            for name, value in example.items()
        }
        rows = len(dataset) * self._views
        key = _key(task.teacher, datamodule, fields, trainer.precision)
        size = TensorCache.size_bytes(rows, fields)
        folder = self.folder / key[:16]
        rank_zero_info(
            f"teacher cache: {size / 1e9:.2f} GB for {len(dataset)} samples x {self._views} views in {folder}"
        )
        self.cache = TensorCache(folder, key, rows, fields)
        rank_zero_info(f"teacher cache: {self.cache.filled} of {rows} rows are there")

        def cached_outputs(batch: DepthBatch) -> dict[str, Tensor]:
            return self._cached_outputs(task, batch, trainer.current_epoch % self._views)

        task.teacher_outputs = cached_outputs

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop(pl_module)

    def _stop(self, pl_module: LightningModule) -> None:
        if isinstance(pl_module, DistillationTask):
            pl_module.teacher_outputs = pl_module.teacher_forward

    def _cached_outputs(self, task: DistillationTask, batch: DepthBatch, view: int) -> dict[str, Tensor]:
        assert self.cache is not None
        rows = [index * self._views + view for index in batch.sample_index.tolist()]
        kept = self.cache.get(rows)
        if kept is None:
            outputs = task.teacher_forward(batch)
            self.cache.put(rows, outputs)
            # Rounded as they will be read the next time: the same numbers whether the cache is warm or cold.
            kept = {
                name: value if name == "depth_m" else value.to(getattr(torch, self.dtype)).float()
                for name, value in outputs.items()
            }
        return {name: value.to(batch.image.device, non_blocking=True) for name, value in kept.items()}


def _example(task: DistillationTask, image_size: tuple[int, int]) -> DepthBatch:
    """A batch of one black image, from which the shapes of the teacher's outputs are found."""
    image = torch.zeros(1, 3, *image_size, device=task.device)
    depth_m = torch.zeros(1, 1, *image_size, device=task.device)
    return DepthBatch(image, depth_m, depth_m > 0, torch.zeros(1, dtype=torch.long))


def _key(teacher: torch.nn.Module, datamodule: Any, fields: dict[str, Field], precision: Any) -> str:
    """SHA-256 of all that the teacher's outputs depend on."""
    dataset = datamodule.train
    parts = [
        weights_hash(teacher),
        str(teacher),
        str(fields),
        f"{datamodule.image_size} {datamodule.resize}",
        f"{datamodule.normalize.mean} {datamodule.normalize.std} {datamodule.augment}",
        f"{datamodule.seed} {datamodule.views} {precision}",
        *(dataset.source(index) for index in range(len(dataset))),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
