"""The manifest of a bundle: what its files are, with their hashes, and what its networks take and return."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from depth_distill.atomic import write_json
from depth_distill.codecs import HostCodec, HostTable, codec_of
from depth_distill.data.placement import require_mode
from depth_distill.data.reading import lies_inside
from depth_distill.errors import ConfigError
from depth_distill.export.interface.decoders import require_plain_names
from depth_distill.hashes import sha256
from depth_distill.quantization.interface import InputLayout, OutputLayout

MANIFEST = "manifest.json"
TABLE = "decode_table"
"""Entry of a decode table, which only bundles with one have."""
SCHEMA_VERSION = 2  # 2: a thermometer has num_codes and spacing, and the scripts lie in runners/


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write ``manifest.json`` with the hash and size of every file in the folder.

    Args:
        folder: folder of the bundle, complete except for the manifest.
        values: other entries of the manifest.
    """
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    write_json(folder / MANIFEST, {"schema_version": SCHEMA_VERSION, **values, "files": files})


def read_manifest(path: Path) -> dict[str, Any]:
    """The content of a manifest, which may be that of something else than a bundle; empty if it is no JSON object.

    Raises:
        ConfigError: the file cannot be read, or is no JSON.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): export again") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}; move the file elsewhere, or export again") from error
    return manifest if isinstance(manifest, dict) else {}


def check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Require all that a bundle is read by: files inside of its folder with hashes, input, outputs and codec.

    Raises:
        ConfigError: the schema is another one, or an entry is missing, damaged, or leaves the folder; the message names
            it.
    """
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: schema_version is {version}, expected {SCHEMA_VERSION}: export again")
    for key in ("files", "artifacts", "codec", "input", "outputs"):
        if not isinstance(manifest.get(key), dict):
            raise ConfigError(f"{path}: {key} is {manifest.get(key)!r:.60}, expected keys and values: export again")
    for name, entry in manifest["files"].items():
        if not lies_inside(path.parent, name):
            raise ConfigError(f"{path}: files: {name} lies outside of the bundle: do not use it, or export again")
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise ConfigError(f"{path}: files: {name} has no sha256: export again")
    for kind, name in manifest["artifacts"].items():
        if not isinstance(name, str) or name not in manifest["files"]:
            raise ConfigError(f"{path}: artifacts: {kind} is {name!r}, which is none of its files: export again")
    readers: tuple[tuple[str, Callable[[Mapping[str, Any]], object]], ...] = (
        ("codec", codec_in), ("input", input_in), ("outputs", outputs_in), (TABLE, table_in),
    )  # fmt: skip
    for key, read in readers:
        try:
            read(manifest)
        except KeyError as error:
            raise ConfigError(f"{path}: {key} has no {error.args[0]!r}: export again") from error
        except (TypeError, ValueError, AttributeError, ConfigError) as error:
            raise ConfigError(f"{path}: {key} cannot be read ({error}): export again") from error


def check_hash(folder: Path, manifest: Mapping[str, Any], name: str) -> None:
    """Require a file to be the one that the manifest was written for.

    Raises:
        ConfigError: it is missing, or was changed.
    """
    file = folder / name
    if not file.is_file():
        raise ConfigError(f"{file} is missing, though {MANIFEST} lists it: export again")
    if sha256(file) != manifest["files"][name]["sha256"]:
        raise ConfigError(f"{file} was changed since {MANIFEST} was written: export again")


def codec_in(manifest: Mapping[str, Any]) -> HostCodec:
    """The codec, which decodes codes to metres."""
    return codec_of(manifest["codec"])


def table_in(manifest: Mapping[str, Any]) -> HostTable | None:
    """The codec behind the decode table, for what a device returns; None of a bundle without one."""
    if TABLE not in manifest:
        return None
    entry = manifest[TABLE]
    if not isinstance(entry["source"], str):
        raise ValueError("source has no name")
    tables = entry["tables"]
    if not isinstance(tables, list) or not all(isinstance(each, list) for each in tables):
        raise ValueError("tables is no list of lists")
    return HostTable(codec_in(manifest), tables)


def input_in(manifest: Mapping[str, Any]) -> InputLayout:
    """Layout of the input."""
    image = manifest["input"]
    height, width = image["shape"][2:]
    mean, std = ([float(value) for value in image[key]] for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))):
        raise ValueError("mean and std have one finite number per colour")
    if not all(isinstance(size, int) and size > 0 for size in (height, width)):
        raise ValueError(f"a shape of {image['shape']}")
    mode = image.get("resize", {}).get("mode", "stretch")  # as every bundle was made before there was a choice
    require_mode(mode, "resize.mode")
    return InputLayout(height, width, mean, std, image["dtype"] == "uint8", resize=mode)


def outputs_in(manifest: Mapping[str, Any]) -> OutputLayout:
    """Layout of the outputs."""
    outputs = manifest["outputs"]
    names, channels = tuple(outputs["names"]), tuple(outputs["channels"])
    if len(names) != len(channels) or not names:
        raise ValueError(f"{len(names)} names and {len(channels)} numbers of channels")
    require_plain_names(names)
    return OutputLayout(names, channels, bool(outputs["logits"]))


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")
