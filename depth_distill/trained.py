"""A trained network and its data, from a run folder: where every tool starts."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from depth_distill.callbacks import FakeQuant
from depth_distill.cli import DataCLI, build_cli
from depth_distill.data import DepthDataModule
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator, Network
from depth_distill.models import CodeNetwork, GraphNetwork
from depth_distill.models.checkpoints import load_weights
from depth_distill.quantization.insert import float_network
from depth_distill.runs import CONFIG_FILE, require_checkpoint, resumed_run_folder


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode, the data module of its run, and the depth bands of its metrics.

    A student comes without its fake quantization: the float weights are what a tool chain is given.
    """

    network: CodeNetwork
    datamodule: DepthDataModule
    bands_m: Sequence[tuple[float, float]]

    def calibration_images(self, count: int | None = None) -> list[Tensor]:
        """Batches of calibration images, ``(B, 3, H, W)``.

        Args:
            count: how many of the training split, evenly spread; ``data.calibration_size`` of them unless given. A
                config that names a data set for ``data.calibration`` gets all of that.
        """
        if count is not None:
            self.datamodule.calibration_size = count
        return [batch.image for batch in self.datamodule.calibration_dataloader()]

    def evaluator(self, images: int | None = None, reference: Network | None = None) -> Evaluator:
        """The validation split; about ``images`` of it, evenly spread over its batches, if given."""
        batches = list(self.datamodule.val_dataloader())
        if images is not None:
            count = max(1, min(len(batches), round(images / self.datamodule.batch_size)))
            batches = [batches[round(i * (len(batches) - 1) / max(count - 1, 1))] for i in range(count)]
        return Evaluator(batches, self.network.codec, self.bands_m, reference)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that :func:`load_trained` is given."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="a .ckpt of a run")
    parser.add_argument("--config", type=Path, help="config of the run; the one in its folder if not given")


def load_trained(checkpoint: Path, config: Path | None = None, overrides: Sequence[str] = ()) -> TrainedNetwork:
    """Build what a config describes and load the weights of a checkpoint.

    Args:
        checkpoint: of a ``fit``; read with ``weights_only=True``.
        config: its config; ``config.yaml`` of the run folder unless given.
        overrides: options of the command line that change the config, such as ``--data.root DIR``.

    Raises:
        ConfigError: no such file, no config beside it, a checkpoint that is damaged or of another network, or an image
            size that does not fit the network.
        DataError: a validation split that cannot be used.
    """
    require_checkpoint(str(checkpoint))
    folder = resumed_run_folder(str(checkpoint))
    if config is None and folder is None:
        raise ConfigError(f"{checkpoint} does not lie in a run folder with a {CONFIG_FILE}: give its config as well")
    config = config or Path(str(folder)) / CONFIG_FILE
    cli = build_cli(DataCLI, ["--config", str(config), *overrides], run=False)
    task: Any = cli.model
    if not isinstance(getattr(task, "network", None), CodeNetwork):
        raise ConfigError(f"{config} describes no task with a DepthNet as its network")
    for callback in cli.config_init["trainer"].callbacks or []:
        if isinstance(callback, FakeQuant):
            callback.prepare(task)
    network: CodeNetwork = task.network
    load_weights(network, checkpoint, str(config))
    if isinstance(network, GraphNetwork):
        network = GraphNetwork(float_network(network.graph), network)
    network.check_image_size(*cli.datamodule.image_size)
    cli.datamodule.setup("validate")
    return TrainedNetwork(network.eval(), cli.datamodule, task.val_metrics.bands_m)
