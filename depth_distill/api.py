"""The package from Python: load a trained network, prepare it for an NPU, evaluate it, export it.

``depth_distill.export`` is the fifth name of this interface; see
:func:`~depth_distill.export.bundle.pipeline.export`.
"""

from collections.abc import Sequence
from pathlib import Path

from depth_distill.evaluation import InterfaceScorer
from depth_distill.loading.trained import LoadedRun, load_run
from depth_distill.quantization.preparation import Prepared
from depth_distill.quantization.recipe import DEFAULT_RECIPE, RecipeLike, load_recipe
from depth_distill.quantization.target.target import NpuTarget, load_target


def load_network(checkpoint: str | Path, config: str | Path | None = None, overrides: Sequence[str] = ()) -> LoadedRun:
    """A trained network in evaluation mode, with the data of its run.

    Args:
        checkpoint: path of a ``.ckpt`` file of a ``fit``; it is read with ``weights_only=True``.
        config: path of its config; ``config.yaml`` of the run folder unless given.
        overrides: options that change data or network, as on the command line: ``["--data.root", "my_data"]``.

    Raises:
        ConfigError: no such checkpoint or config, or one that does not fit the other.
        DataError: a validation split that cannot be used.
    """
    return load_run(Path(checkpoint), None if config is None else Path(config), overrides)


def prepare(
    network: LoadedRun,
    recipe: RecipeLike = DEFAULT_RECIPE,
    target: str | Path | NpuTarget = "per-tensor-minmax",
    calibration_images: int = 64,
) -> Prepared:
    """A network behind a recipe: ``graph`` in float, ``quantized`` as the target computes it.

    Args:
        network: network from :func:`load_network`; it is not changed.
        recipe: name of a shipped recipe, path of a recipe file, list of passes, or a ``Recipe``. With ``auto``, the
            passes are chosen by trying; the recipe of the result has them.
        target: name or file of an NPU profile, or a profile.
        calibration_images: number of calibration images, of the training split unless the config names others.

    Raises:
        ConfigError: no such recipe or target, or a pass that cannot run on this network; the message names it.
        DataError: calibration images that cannot be used.
    """
    profile = target if isinstance(target, NpuTarget) else load_target(target)
    images = network.calibration_images(calibration_images)
    return network.preparer(profile, images)(network.chosen_recipe(load_recipe(recipe), profile, images))


def evaluate(network: LoadedRun, prepared: Prepared | None = None, images: int | None = None) -> dict[str, float]:
    """Metrics on the validation split of a network, or of what the target computes behind a recipe.

    Args:
        network: network from :func:`load_network`.
        prepared: the same network behind a recipe; the result is then that of INT8, with its drift from FP32 in mm.
        images: about how many images to score on; all unless given.

    Returns:
        Metrics by name: ``abs_rel``, ``rmse``, ``delta1``, ... and, of a prepared network, ``drift_mm``.

    Raises:
        DataError: a validation split that cannot be used.
    """
    if prepared is None:
        return network.evaluator(images)(network.network)
    evaluator = network.evaluator(images, reference=prepared.reference)
    return InterfaceScorer(evaluator, prepared.interface)(prepared.quantized)
