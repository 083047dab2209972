"""The teacher of a student that was distilled, from what the student's config says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depth_distill.errors import UserError, first_line
from depth_distill.loading.run_config import read_config
from depth_distill.loading.trained import LoadedRun, load_network_only


def teacher_of(config: Path, student: LoadedRun) -> LoadedRun | str:
    """The teacher of a run, without its data; or why it cannot be had, in words, empty for a run without a teacher.

    Args:
        config: config of the student's run.
        student: the student, whose images the teacher is going to be given.
    """
    checkpoint = _init_args(read_config(config)).get("teacher_checkpoint")
    if not isinstance(checkpoint, str):
        return ""
    try:
        teacher = load_network_only(Path(checkpoint))
    except UserError as error:
        return f"The teacher is not scored: {first_line(error)}"
    mine, others = (each.data for each in (student, teacher))
    if (mine.normalize.mean, mine.normalize.std) != (others.normalize.mean, others.normalize.std):
        return "The teacher is not scored: it takes images of another mean and std than its student."
    try:
        teacher.network.check_image_size(*mine.image_size)
    except UserError as error:
        return f"The teacher is not scored: {first_line(error)}"
    return teacher


def network_title(config: Path) -> str:
    """What a config calls its network: the class, and the encoder where it names one."""
    network = _init_args(read_config(config)).get("network")
    if not isinstance(network, Mapping):
        return "network"
    title = str(network.get("class_path", "network")).rpartition(".")[2]
    arguments = network.get("init_args")
    encoder = arguments.get("encoder") if isinstance(arguments, Mapping) else None
    return f"{title} {encoder}" if isinstance(encoder, str) else title


def _init_args(values: Mapping[str, Any]) -> Mapping[str, Any]:
    model = values.get("model")
    arguments = model.get("init_args") if isinstance(model, Mapping) else None
    return arguments if isinstance(arguments, Mapping) else {}
