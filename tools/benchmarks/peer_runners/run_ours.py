"""This package: ``depth-distill harden`` with one of its recipes, in its own environment. It returns a float file.

It is given the images that the others are given, and holds a quarter of them out to judge candidates on.
"""

from importlib.metadata import version
from io import StringIO

from peer_io import FLOAT, Job, main

from depth_distill.display.console import plain_console
from depth_distill.export.harden.hardening import harden
from depth_distill.export.harden.outcome import HardenOptions
from depth_distill.quantization.recipe import load_recipe
from depth_distill.quantization.target.target import load_target

# Methods that are no shipped recipe.
RECIPES = {"blocks": "[fold, equalize, split_channels, reconstruct_blocks]"}


def hardened(job: Job) -> str:
    """The file that ``harden`` returns."""
    held_out = len(job.images) // 4
    options = HardenOptions(
        source=job.model,
        images=job.calibration / "tensors",
        out=job.out / "float.onnx",
        recipe=load_recipe(RECIPES.get(job.method, job.method)),
        effort=None,
        calibration_images=len(job.images) - held_out,
        held_out=held_out,
    )
    found, _ = harden(options, load_target(job.target), plain_console(file=StringIO()))
    job.notes.append(f"returned: {found.verdict.recipe.title if found.verdict.hardened else 'the untouched file'}")
    return FLOAT


if __name__ == "__main__":
    main(version("depth-distill"), dict.fromkeys(("equalize", "auto", "robust", "best", "blocks"), hardened))
