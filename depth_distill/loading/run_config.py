"""The part of a config that a trained network is loaded from: data, network, and the student's structure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from depth_distill.data import DepthSplits
from depth_distill.errors import ConfigError
from depth_distill.loading.config_errors import explain_interpolation
from depth_distill.loading.imported import ImportedNetwork
from depth_distill.loading.parsing import PARSER, parse
from depth_distill.metrics import BANDS_M
from depth_distill.models import CodeNetwork
from depth_distill.quantization.recipe import DEFAULT_RECIPE
from depth_distill.quantization.simulate.fake_quant import SiteKind
from depth_distill.yaml_files import read_yaml

NETWORK = "model.init_args.network"
"""Key of the network in a config."""
_TASK_KEYS = ("network", "bands_m", "channels_last")
_FAKE_QUANT = ("FakeQuant", "depth_distill.callbacks.FakeQuant", "depth_distill.callbacks.fake_quant.FakeQuant")

Bands = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class StudentOptions:
    """Options of the callback FakeQuant that determine the structure of a checkpoint."""

    target: str = "per-tensor-minmax"
    learnable: Sequence[SiteKind] = ()
    recipe: str | list[Any] = DEFAULT_RECIPE


def run_parser() -> ArgumentParser:
    """Parser of the keys of a ``fit`` that a network and its data are built from."""
    parser = ArgumentParser(**PARSER)
    parser.add_argument("--config", action="config")
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    parser.add_class_arguments(DepthSplits, "data", fail_untyped=False, sub_configs=True)
    parser.add_argument(f"--{NETWORK}", type=CodeNetwork | None, default=None)
    parser.add_argument("--model.init_args.bands_m", type=Bands, default=BANDS_M)
    parser.add_argument("--model.init_args.channels_last", type=bool, default=True)
    parser.add_argument("--student", type=StudentOptions | None, default=None)
    return parser


def parse_run(parser: ArgumentParser, config: Path, overrides: Sequence[str]) -> Namespace:
    """The values of a config, with options of the command line.

    Raises:
        ConfigError: the config cannot be read, a key is unknown, or a value does not fit its key.
    """
    text = OmegaConf.to_yaml(OmegaConf.create(_relevant(config)))
    return parse(parser, ["--config", text, *overrides], [config])


def resolved_config(config: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The data and the network of a config as plain data: all defaults, no interpolations.

    Args:
        config: config of a ``fit``.
        overrides: see :func:`load_run`.

    Raises:
        ConfigError: see :func:`load_run`.
    """
    values = parse_run(run_parser(), config, overrides)
    return {"data": _plain(values["data"]), "network": _plain(values[NETWORK])}


def _relevant(config: Path) -> dict[str, Any]:
    """The part of a config that :func:`_parser` reads, with interpolations unresolved, so that options affect them."""
    content = read_config(config)
    data, model = content.get("data"), content.get("model")
    if isinstance(data, str):  # a file, relative to the config's folder
        data = str(config.parent / data)
    if isinstance(model, str):
        model = read_config(config.parent / model)
    task = _mapping(_mapping(model).get("init_args"))
    callbacks = _mapping(content.get("trainer")).get("callbacks") or []
    network = _mapping(task.get("network"))
    if str(network.get("class_path", "")).rpartition(".")[2] == ImportedNetwork.__name__:
        _mapping(network.setdefault("init_args", {})).setdefault("image_size", "${data.image_size}")
    found: dict[str, Any] = {"model": {"init_args": {key: task[key] for key in _TASK_KEYS if key in task}}}
    if "seed_everything" in content:
        found["seed_everything"] = content["seed_everything"]
    if data is not None:
        found["data"] = data
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        values = _mapping(callback)
        if values.get("class_path", callback) in _FAKE_QUANT:
            arguments = _mapping(values.get("init_args"))
            found["student"] = {key: arguments[key] for key in ("target", "learnable", "recipe") if key in arguments}
    return found


def read_config(config: Path) -> dict[str, Any]:
    """The keys of a config, interpolations unresolved; none of a file that holds anything else.

    Raises:
        ConfigError: see :func:`~depth_distill.yaml_files.read_yaml`; or an interpolation is not closed.
    """
    try:
        return _mapping(OmegaConf.to_container(OmegaConf.create(read_yaml(config) or {}), resolve=False))
    except (OmegaConfBaseException, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(explain_interpolation(error, [config])) from error


def _plain(value: Any) -> Any:
    """Parsed values as YAML can hold them."""
    if isinstance(value, Namespace):
        return {key: _plain(each) for key, each in vars(value).items()}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
