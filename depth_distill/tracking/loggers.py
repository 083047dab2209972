"""Loggers as the config names them, with what depends on the run filled in: folder, project, name, id."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from depth_distill.errors import ConfigError
from depth_distill.tracking.identity import Identity

_PACKAGES = {
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "MLFlowLogger": ("mlflow",),
    "CometLogger": ("comet_ml",),
    "NeptuneLogger": ("neptune",),
    "LitLogger": ("litlogger",),
}
"""Modules of each logger, one of which has to be installed; the first is the name of its package as well."""
_SECRET = re.compile(r"(api_?key|token|password|secret)$", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"\w+://[^/@\s]*:[^/@\s]+@")
_VARIABLES = {
    "WandbLogger": "WANDB_API_KEY",
    "MLFlowLogger": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "CometLogger": "COMET_API_KEY",
    "NeptuneLogger": "NEPTUNE_API_TOKEN",
}
"""Where each package looks for the key of its user."""
_PIP_NAMES = {"comet_ml": "comet-ml"}


def fill_in(configured: Any, run_folder: Path, job: str) -> Any:
    """The value of ``trainer.logger`` with the arguments that depend on the run.

    Args:
        configured: the parsed value: a logger, several, True, False or None.
        run_folder: folder of the run; relative folders of loggers are below it.
        job: subcommand.

    Raises:
        ConfigError: a logger needs a package that is not installed, and the message has the pip command; or it is
            given a key or password, which would be written into config.yaml and into the trackers.
    """
    if isinstance(configured, list | tuple):
        return [fill_in(each, run_folder, job) for each in configured]
    path = configured.get("class_path") if isinstance(configured, Namespace) else None
    if not isinstance(path, str):
        return configured
    name = path.rpartition(".")[2]
    _refuse_secrets(name, [configured.get("init_args"), configured.get("dict_kwargs")])
    _require_package(name)
    values = configured.clone()
    arguments = vars(values.get("init_args") or Namespace())
    if name == WandbLogger.__name__:
        arguments = _wandb(run_folder, job, arguments | dict(values.get("dict_kwargs") or {}))
        known = vars(values.get("init_args") or Namespace()).keys()
        values["dict_kwargs"] = {key: value for key, value in arguments.items() if key not in known}
        arguments = {key: value for key, value in arguments.items() if key in known}
    elif isinstance(arguments.get("save_dir"), str | Path):
        arguments = arguments | {"save_dir": str(run_folder / str(arguments["save_dir"]))}
    if name == "TensorBoardLogger" and arguments.get("version") is None and arguments.get("name") == "lightning_logs":
        arguments |= {"name": "tensorboard", "version": ""}  # one place, also after a resume
    if name == "MLFlowLogger":
        arguments["run_id"] = arguments.get("run_id") or Identity(run_folder).get("mlflow")
    values["init_args"] = Namespace(**arguments)
    return values


def loggers_of(configured: Any, wandb: bool, run_folder: Path, job: str) -> list[Logger] | bool:
    """The log of every run, ``metrics.csv``, and behind it what ``trainer.logger`` and ``--wandb`` name.

    Args:
        configured: the value of ``trainer.logger``, built.
        wandb: whether ``--wandb true`` is given.
        run_folder: folder of the run.
        job: subcommand.

    Returns:
        False where ``trainer.logger`` is.
    """
    if configured is False:
        return False
    named = [] if configured in (None, True) else configured
    loggers: list[Logger] = [CSVLogger(run_folder, name="", version="")]
    loggers += [named] if isinstance(named, Logger) else named
    if wandb and not any(isinstance(each, WandbLogger) for each in loggers):
        loggers.append(WandbLogger(**_wandb(run_folder, job, {})))
    return loggers


def _wandb(run_folder: Path, job: str, given: Mapping[str, Any]) -> dict[str, Any]:
    from depth_distill.tracking.wandb_options import wandb_options  # imports wandb, half a second

    run_folder.mkdir(parents=True, exist_ok=True)
    return wandb_options(run_folder, job, given)


def _refuse_secrets(logger: str, value: Any, key: str = "") -> None:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        for name, each in value.items():
            _refuse_secrets(logger, each, str(name))
    elif isinstance(value, list | tuple):
        for each in value:
            _refuse_secrets(logger, each, key)
    elif isinstance(value, str) and value and (_SECRET.search(key) or _PASSWORD_IN_URL.match(value)):
        raise ConfigError(
            f"trainer.logger: {key} of {logger} holds a secret, which would be written into config.yaml: leave it out "
            f"and set {_VARIABLES.get(logger, 'it')} in the environment"
        )


def _require_package(logger: str) -> None:
    modules = _PACKAGES.get(logger, ())
    if modules and not any(find_spec(module) for module in modules):
        package = _PIP_NAMES.get(modules[0], modules[0])
        raise ConfigError(
            f"trainer.logger: {logger} needs the package {package}, which is not installed: pip install {package}"
        )
