"""How a run appears in Weights & Biases: project, name and id, and offline where there is no key."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from depth_distill import runs
from depth_distill.tracking.identity import Identity

PROJECT = "depth-distill"
"""Where neither the config nor ``WANDB_PROJECT`` names one."""


def wandb_options(run_folder: Path, job: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``wandb.init`` for a run, under the names that Lightning's ``WandbLogger`` takes.

    What a config gives comes first, then the environment (``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_NAME``,
    ``WANDB_RUN_ID``, ``WANDB_MODE``), then what is made up here. Nothing is ever asked for: without a key the run is
    logged offline, into the run folder.

    Args:
        run_folder: folder of the run; its last two parts are the name, and the id of a run that goes on is kept there.
        job: subcommand, by which runs can be told apart.
        given: what the config gives; None is nothing.
    """
    found = {key: value for key, value in given.items() if value is not None}
    found["save_dir"] = str(run_folder / str(found.get("save_dir", ".")))
    found.setdefault("project", os.environ.get("WANDB_PROJECT") or PROJECT)
    if os.environ.get("WANDB_ENTITY"):
        found.setdefault("entity", os.environ["WANDB_ENTITY"])
    found.setdefault("job_type", os.environ.get("WANDB_JOB_TYPE") or job)
    if "WANDB_NAME" not in os.environ and "WANDB_SWEEP_ID" not in os.environ:
        found.setdefault("name", "/".join(run_folder.parts[-2:]))
    if "id" not in found and "version" not in found and "WANDB_RUN_ID" not in os.environ:
        found["id"] = Identity(run_folder).get("wandb")
    if not found.get("offline"):
        if found.get("mode") == "online" and mode() == "offline" and not os.environ.get("WANDB_MODE"):
            found["mode"] = "offline"  # without a key it would ask for one
        found.setdefault("mode", mode())
    return found


def mode() -> str | None:
    """The mode of ``wandb.init``: what ``WANDB_MODE`` says, and offline where nobody could log in; None is online."""
    # Said explicitly: wandb itself reads its environment once in the life of a process.
    asked = os.environ.get("WANDB_MODE", "").lower()
    if asked == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return "disabled"
    if asked in ("offline", "dryrun"):
        return "offline"
    return None if runs.has_wandb_key(wandb.Settings().base_url) else "offline"
