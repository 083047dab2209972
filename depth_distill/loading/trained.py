"""Load a trained network and its data from a run folder, without Lightning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from torch import Tensor

from depth_distill.data import DepthSplits
from depth_distill.device import choose_device, device_of
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator, Network
from depth_distill.loading.imported import ImportedNetwork
from depth_distill.loading.parsing import instantiate, parse
from depth_distill.loading.run_config import NETWORK, Bands, StudentOptions, parse_run, read_config, run_parser
from depth_distill.models import CodeNetwork, DepthCodec, GraphNetwork
from depth_distill.models.checkpoints import load_weights, recorded_recipe
from depth_distill.quantization.conditions import ensure_codes
from depth_distill.quantization.head_choice import choose_head
from depth_distill.quantization.interface import InputLayout, Interface, RawOutputs
from depth_distill.quantization.passes.auto import Auto
from depth_distill.quantization.passes.base import Context, Pass, PassReport
from depth_distill.quantization.preparation import Execute, Preparer, structure_only
from depth_distill.quantization.recipe import Recipe, load_recipe
from depth_distill.quantization.recipe_search import Trial, chosen_recipe
from depth_distill.quantization.simulate.calibrate import activation_quantizers
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, remove_fake_quant
from depth_distill.quantization.target.target import CalibratorName, NpuTarget, load_target
from depth_distill.runs import CONFIG_FILE, require_checkpoint, resumed_run_folder
from depth_distill.streaming import Mapped


@dataclass(frozen=True)
class LoadedRun:
    """A network in evaluation mode, the data of its run, and the depth bands of its metrics.

    A student is loaded as a float network, without its fake quantization, as a tool chain gets it.

    Attributes:
        network: network in evaluation mode.
        data: data of the run.
        bands_m: depth bands of the metrics, in metres.
        ranges: (lowest, highest) by site that the activations of a student were trained with; empty for others.
    """

    network: CodeNetwork
    data: DepthSplits
    bands_m: Bands
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the network is, and where everything is computed."""
        return device_of(self.network)

    @property
    def interface(self) -> Interface:
        """Interface of the network before any pass."""
        return interface_of(self.network, self.data)

    @property
    def notes(self) -> Sequence[str]:
        """What becomes of images of another aspect ratio in the validation split, in a line; none where there are none.

        Raises:
            DataError: an image cannot be read.
        """
        return self.data.resize_notes(self.data.sizes_of("val"))

    def preparer(
        self,
        target: NpuTarget,
        images: Sequence[Tensor],
        calibrator: CalibratorName | None = None,
        execute: Execute | None = None,
        on_report: Callable[[Pass, PassReport], object] | None = None,
        progress: bool = False,
    ) -> Preparer:
        """Runs recipes on this network.

        Args:
            target: NPU that the network is prepared for.
            images: batches of calibration images, from :meth:`calibration_images`.
            calibrator: how activation ranges are measured; the target's own calibrator unless given.
            execute: runs each pass, see :class:`~depth_distill.quantization.preparation.Preparer`.
            on_report: called with every pass and its report.
            progress: whether long passes show a progress bar.

        Raises:
            ConfigError: the network cannot be traced, or returns something else than codes in [0, 1].
        """
        context = Context(target, images, self.interface, calibrator, self.ranges, progress=progress)
        ensure_codes(self.network, context)
        return Preparer(self.network, context, **_given(execute=execute, on_report=on_report))

    def chosen_recipe(
        self,
        recipe: Recipe,
        target: NpuTarget,
        images: Sequence[Tensor],
        calibrator: CalibratorName | None = None,
        on_trial: Callable[[Trial], object] | None = None,
        progress: bool = False,
        keep_head: bool = False,
        on_head: Callable[[str], object] = warn,
    ) -> Recipe:
        """The recipe itself; for ``auto``, the passes that are best for this network.

        With ``auto``, a network whose last activation the target substitutes also gets another end, see
        :func:`~depth_distill.quantization.head_choice.choose_head`.

        Args:
            recipe: any recipe.
            target: see :meth:`preparer`.
            images: batches of calibration images; for ``auto``, one in four judges the candidates.
            calibrator: see :meth:`preparer`.
            on_trial: called with every candidate when it has been tried.
            progress: whether long passes show a progress bar.
            keep_head: whether the network ends as it does in any case.
            on_head: called with a line for people if the network gets another end, or loses by its own; a warning
                unless given.
        """

        def prepare(calibration: Sequence[Tensor]) -> Preparer:
            return self.preparer(target, calibration, calibrator, progress=progress)

        if recipe.has(Auto.name) and target.substituted and not keep_head:
            choice = choose_head(recipe, images, prepare)
            recipe = choice.recipe
            if choice.line:
                on_head(choice.line)
        return chosen_recipe(recipe, images, prepare, **_given(on_trial=on_trial))

    def calibration_images(self, count: int | None = None) -> Sequence[Tensor]:
        """Batches of calibration images, ``(B, 3, H, W)``, on the device of the network.

        Args:
            count: number of images of the training split, evenly spaced; ``data.calibration_size`` unless given. If the
                config has a data set ``data.calibration``, all of it is used instead.
        """
        if count is not None:
            self.data.calibration_size = count
        device = self.device
        return Mapped(lambda batch: batch.image.to(device), self.data.calibration_batches())

    def evaluator(self, images: int | None = None, reference: Network | None = None) -> Evaluator:
        """Evaluator on the validation split; if ``images`` is given, on about that many, in evenly spaced batches."""
        network = self.network
        batches = self.data.validation_batches(images)
        return Evaluator(batches, network.codec, self.bands_m, reference, network.alignment, self.device)


def load_run(
    checkpoint: Path, config: Path | None = None, overrides: Sequence[str] = (), device: str = "cpu"
) -> LoadedRun:
    """Build what a config describes and load the weights of a checkpoint.

    Args:
        checkpoint: checkpoint of a ``fit``; it is read with ``weights_only=True``.
        config: config of the checkpoint; ``config.yaml`` of the run folder unless given.
        overrides: command-line options that change data or network, such as ``--data.root DIR``.
        device: where to compute: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU if there is one.

    Raises:
        ConfigError: there is no such device, the checkpoint or its config does not exist, the checkpoint is damaged or
            of another network, or the image size does not fit the network.
        DataError: the validation split cannot be used.
    """
    return _build(config_of(checkpoint, config), overrides, checkpoint, device=device)


def build_untrained(config: Path, overrides: Sequence[str] = (), device: str = "cpu") -> LoadedRun:
    """Build what a config describes, with the weights that training starts from.

    Args:
        config: config of a ``fit``.
        overrides: see :func:`load_run`.
        device: see :func:`load_run`.

    Raises:
        ConfigError: see :func:`load_run`.
        DataError: see :func:`load_run`.
    """
    return _build(config, overrides, None, device=device)


def load_network_only(source: Path, config: Path | None = None, overrides: Sequence[str] = ()) -> LoadedRun:
    """A network whose data are not read: they need not be there.

    Args:
        source: checkpoint of a ``fit``; or a config, whose network has its own weights.
        config: config of the checkpoint; ``config.yaml`` of the run folder unless given.
        overrides: see :func:`load_run`.

    Raises:
        ConfigError: see :func:`load_run`.
    """
    if source.suffix in (".yaml", ".yml"):
        return _build(source, overrides, None, read_data=False)
    return _build(config_of(source, config), overrides, source, read_data=False)


def load_data(config: Path, overrides: Sequence[str] = ()) -> tuple[DepthSplits, Bands]:
    """The data of a config and the depth bands of its metrics, without the network.

    Args:
        config: config of a ``fit``, or of data alone.
        overrides: see :func:`load_run`.

    Raises:
        ConfigError: see :func:`load_run`.
    """
    parser = run_parser()
    if "train" in read_config(config):  # of data alone
        values = parse(parser, ["--data", str(config), *overrides], [config])
    else:
        values = parse_run(parser, config, overrides)
    values[NETWORK] = None
    built = instantiate(parser, values)
    return built.data, built.model.init_args.bands_m


def config_of(checkpoint: Path, config: Path | None = None) -> Path:
    """The config of a checkpoint: ``config`` if given, otherwise the one in its run folder.

    Raises:
        ConfigError: the checkpoint does not exist, or has no config.
    """
    require_checkpoint(str(checkpoint))
    folder = resumed_run_folder(str(checkpoint))
    if config is None and folder is None:
        raise ConfigError(f"{checkpoint} is not in a run folder with a {CONFIG_FILE}: give its config as well")
    return config or Path(str(folder)) / CONFIG_FILE


def _build(
    config: Path, overrides: Sequence[str], checkpoint: Path | None, read_data: bool = True, device: str = "cpu"
) -> LoadedRun:
    chosen = choose_device(device)  # refused before anything is read
    parser = run_parser()
    values = parse_run(parser, config, overrides)
    if values[NETWORK] is None:
        raise ConfigError(f"{config} describes no task with a network: expected model.init_args.network")
    if not isinstance(values.seed_everything, bool):
        torch.manual_seed(values.seed_everything)
    built = instantiate(parser, values)
    task = built.model.init_args
    network: CodeNetwork = task.network
    if built.student is not None:
        network = _student(network, built.student, built.data, checkpoint)
    if task.channels_last:
        # Convolutions then add in another order: with the same layout, results equal those of training.
        network.to(memory_format=torch.channels_last)
    if checkpoint is not None:
        load_weights(network, checkpoint, str(config))
    ranges: dict[str, tuple[float, float]] = {}
    if isinstance(network, GraphNetwork):
        ranges = {site: each.bounds for site, each in activation_quantizers(network.graph).items() if each.has_range}
        network = GraphNetwork(remove_fake_quant(network.graph), network, network.codec)
    network.check_image_size(*built.data.image_size)
    network.check_normalization(built.data.normalize.mean, built.data.normalize.std)
    if read_data:
        built.data.setup("validate")
    return LoadedRun(network.eval().to(chosen), built.data, tuple(map(tuple, task.bands_m)), ranges)


def _student(network: CodeNetwork, student: StudentOptions, data: DepthSplits, checkpoint: Path | None) -> GraphNetwork:
    """The fake-quantized graph of a student, with the structure but not the weights of its checkpoint."""
    target = load_target(student.target)
    recorded = None if checkpoint is None else recorded_recipe(checkpoint)
    recipe = load_recipe(student.recipe if recorded is None else recorded)
    context = Context(target, (), interface_of(network, data))
    prepared = Preparer(network, context, structure_only)(recipe)
    return GraphNetwork(
        fake_quantize(prepared.graph, target, student.learnable), network, DepthCodec(prepared.interface.codec)
    )


def interface_of(network: CodeNetwork, data: DepthSplits) -> Interface:
    """Interface of a network before any pass: normalized images and codes."""
    normalize = data.normalize
    inputs = InputLayout(*data.image_size, normalize.mean, normalize.std, resize=data.resize)
    if isinstance(network, ImportedNetwork) and not network.has_meaning:
        return Interface(inputs, RawOutputs(network.output_names, ()), network.codec.host)
    return Interface.of_codes(inputs, network.codec.host)


def _given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}
