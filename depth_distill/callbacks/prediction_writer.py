"""Files with the predictions of ``predict``."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor
from typing_extensions import override

from depth_distill.display.pictures import PanelRow, depth_panel, save_depth_png, save_figure
from depth_distill.errors import ConfigError
from depth_distill.types import DepthBatch


class PredictionWriter(BasePredictionWriter):
    """One 16-bit PNG and one colour panel per image, at the network's resolution: of what the network saw of the image.

    With ``data.resize: crop``, that is the middle of an image of another aspect ratio; with ``pad``, the whole image,
    and the files are smaller than ``data.image_size``, as the bars are cut off.

    The files are ``predictions/depth/<name>.png`` and ``predictions/panels/<name>.png`` in the run folder, where
    ``<name>`` is the name of the sample.

    Args:
        depth_scale: units per metre of the 16-bit PNG.
        panels: whether to draw the colour panels (about 0.2 s per image).

    Raises:
        ConfigError: ``depth_scale`` is not positive.
    """

    def __init__(self, depth_scale: float = 1000.0, panels: bool = True) -> None:
        super().__init__("batch")
        if not 0 < depth_scale < math.inf:
            raise ConfigError(f"predictions.depth_scale: received {depth_scale}, expected a positive number")
        self.depth_scale = depth_scale
        self.panels = panels

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: DepthBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write every image of the batch."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        for position, index in enumerate(batch.sample_index.tolist()):
            name = datamodule.predict.name(index)
            rows, columns = datamodule.placement("predict", index).shown
            prediction_m = prediction[position][..., rows, columns]
            save_depth_png(prediction_m, self._file(trainer, "depth", name), self.depth_scale)
            if self.panels:
                has_depth = bool(batch.valid[position].any())
                row = PanelRow(
                    title=name,
                    image=datamodule.normalize.inverse(batch.image[position])[..., rows, columns],
                    prediction_m=prediction_m,
                    depth_m=batch.depth_m[position][..., rows, columns] if has_depth else None,
                    valid=batch.valid[position][..., rows, columns] if has_depth else None,
                )
                save_figure(depth_panel([row]), self._file(trainer, "panels", name))

    def _file(self, trainer: Trainer, kind: Literal["depth", "panels"], name: str) -> Path:
        return Path(trainer.default_root_dir) / "predictions" / kind / f"{name}.png"
