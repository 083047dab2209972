"""The config of ``import``: what the user wrote, with what follows from the options and from the network itself."""

import argparse
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from depth_distill.errors import ConfigError
from depth_distill.loading.imported import NetworkInput
from depth_distill.loading.meaning import Meaning
from depth_distill.loading.run_config import read_config
from depth_distill.yaml_files import parse_yaml, read_yaml

ONNX_MODULE = "depth_distill.loading.onnx_importer.OnnxModule"


def completed_config(options: argparse.Namespace) -> dict[str, Any]:
    """The config with what follows from the options of ``import``.

    Raises:
        ConfigError: it describes no imported network, or not what its output means.
    """
    content: dict[str, Any] = {}
    if options.config is not None:
        content = read_config(options.config)
        if not content:
            raise ConfigError(f"{options.config}: expected the keys data and model")
    model = content.setdefault("model", {})
    if not isinstance(model, dict):
        raise ConfigError(f"{options.config}: model: expected class_path and init_args, received {model!r}")
    model.setdefault("class_path", "DepthTask")
    network = model.setdefault("init_args", {}).setdefault("network", {"class_path": "ImportedNetwork"})
    init = network.setdefault("init_args", {})
    if options.onnx is not None:
        init["module"] = onnx_module(options.onnx)
        init["weights"] = None
    if options.meaning is not None:
        init["meaning"] = _meaning(options.meaning)
    if not str(network.get("class_path", "")).endswith("ImportedNetwork"):
        raise ConfigError(
            f"{options.config}: model.init_args.network is a {network.get('class_path')}, expected an ImportedNetwork"
        )
    if "meaning" not in init:
        raise ConfigError(
            "meaning: say what the output means, as --meaning '{encoding: inverse, near: 1, min_m: 0.5, max_m: 15}' "
            "(docs/your_network.md); depth-distill harden takes a network whose output has no known meaning"
        )
    data = content.setdefault("data", {})
    if isinstance(data, str):  # a file, relative to the folder of the config
        content["data"] = str(options.config.absolute().parent / data)
    elif isinstance(data, dict):
        if options.onnx is not None and "image_size" not in data:
            data["image_size"] = _image_size(options.onnx)
        if options.pictures is not None:
            folder = {"class_path": "ImageFolder", "init_args": {"root": str(options.pictures.absolute())}}
            for split in ("train", "val"):
                data.setdefault(split, folder)
    return content


def _meaning(text: str) -> dict[str, Any]:
    """The keys of a meaning, from YAML or a file with it."""
    found = read_yaml(Path(text)) if text.endswith((".yaml", ".yml")) else parse_yaml(text, "--meaning")
    if not isinstance(found, dict):
        raise ConfigError(f"--meaning: expected keys such as encoding and min_m, received {found!r}")
    return found


def fill_data(data: dict[str, Any], network: dict[str, Any], given: Collection[str]) -> None:
    """Depth range and normalization of the data, in place, as the network has them, unless they are given."""
    arguments = network["init_args"]
    output_range = arguments["meaning"]["output_range"]
    meaning = Meaning(**{**arguments["meaning"], "output_range": output_range and tuple(output_range)})
    if "depth_range" not in given and meaning.returns != "unknown":
        data["depth_range"] = {"min_m": meaning.depth_range.min_m, "max_m": meaning.depth_range.max_m}
    mean, std = NetworkInput(**arguments["input"]).normalization
    for key, values in (("image_mean", mean), ("image_std", std)):
        if key not in given:
            data[key] = list(values)


def given_keys(content: dict[str, Any], overrides: Sequence[str]) -> set[str] | None:
    """Keys of the data that the config or the command line gives; None if they give all of it, in a file."""
    data = content["data"]
    if not isinstance(data, dict) or "--data" in overrides:
        return None
    words = [word.removeprefix("--data.") for word in overrides if word.startswith("--data.")]
    return {*data, *(re.split(r"[.=]", word)[0] for word in words)}


def onnx_module(file: Path) -> dict[str, Any]:
    """The description of an ONNX file as a module."""
    return {"class_path": ONNX_MODULE, "init_args": {"file": str(file.absolute())}}


def not_verified_again(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an ``ImportedNetwork`` whose ONNX file, if it is one, is not verified once more."""
    module = arguments["module"]
    if module["class_path"] != ONNX_MODULE:
        return arguments
    return {**arguments, "module": {**module, "init_args": {**module["init_args"], "verify": False}}}


def _image_size(file: Path) -> list[int]:
    """Height and width of the one image that an ONNX file takes."""
    from depth_distill.loading.onnx_importer.files import declared_inputs
    from depth_distill.loading.onnx_importer.reading import read_model

    dims = [each.type.tensor_type.shape.dim for each in declared_inputs(read_model(file))]
    shape = [each.dim_value for each in dims[0]] if len(dims) == 1 else []
    if len(shape) != 4 or not all(shape[2:]):
        raise ConfigError(f"{file}: expected one image of a fixed height and width: give --data.image_size '[H, W]'")
    return shape[2:]
