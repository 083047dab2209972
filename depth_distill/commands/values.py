"""Values of options, checked before any work: numbers, names, files to read and places to write."""

import argparse
import math
import os
import re
from pathlib import Path

from depth_distill.errors import ConfigError
from depth_distill.quantization.target.target import load_target
from depth_distill.shipped_configs import find_config, shipped_names
from depth_distill.suggestions import did_you_mean

_PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")


def whole_number(text: str) -> int:
    """A count: 1 or more."""
    if not re.fullmatch(r"\+?\d+", text.strip()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, received '{text}'")
    return int(text)


def seed_number(text: str) -> int:
    """A seed: 0 or more."""
    if not re.fullmatch(r"\+?\d+", text.strip()):
        raise argparse.ArgumentTypeError(f"must be a whole number of 0 or more, received '{text}'")
    return int(text)


def finite_number(text: str) -> float:
    """Any number but NaN and the infinities."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, received '{text}'")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0."""
    value = finite_number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be positive, received {value}")
    return value


def number_from_zero(text: str) -> float:
    """A finite number that is not negative."""
    value = finite_number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, received {value}")
    return value


def target_name(text: str) -> str:
    """Name or file of an NPU profile that can be read."""
    try:
        load_target(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def recipe_word(text: str) -> str:
    """Name of a recipe, its file, or a list of passes; what is in it is checked where it is run."""
    if text.lstrip().startswith("["):
        return text
    if text.endswith((".yaml", ".yml")):
        if not Path(text).is_file():
            raise argparse.ArgumentTypeError(f"there is no file '{text}'")
        return text
    names = shipped_names("recipe")
    if text not in names:
        raise argparse.ArgumentTypeError(f"there is no recipe '{text}'; {did_you_mean(text, names)}")
    return text


def head_name(text: str) -> str:
    """What a single code becomes."""
    if not re.fullmatch(r"single|pair|thermometer(:(2|4|8|16))?", text):
        raise argparse.ArgumentTypeError(
            f"must be single, pair, or thermometer:N with N 2, 4, 8 or 16, received '{text}'"
        )
    return text


def config_file(text: str) -> Path:
    """A file, also by the name of a shipped config."""
    try:
        return find_config(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def output_file(text: str) -> Path:
    """A file that can be written: found out before the work, and not after it."""
    path = Path(text)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long
        raise argparse.ArgumentTypeError(f"{text:.100}: {error.strerror}") from error
    _require_room(path.absolute().parent)
    if is_folder:
        raise argparse.ArgumentTypeError(f"must be the path of a file, {path} is a folder")
    return path


def output_picture(text: str) -> Path:
    """A picture that can be written, of a kind that its suffix says."""
    path = output_file(text)
    if path.suffix.lower() not in _PICTURES:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(_PICTURES)}, received '{text}'")
    return path


def output_folder(text: str) -> Path:
    """A folder that is there or can be made."""
    path = Path(text)
    _require_room(path.absolute(), "exists and is not a folder: choose another")
    return path


def _require_room(folder: Path, reason: str = "is a file, expected a folder there") -> None:
    """Require a folder into which files can be written, or one that can be made."""
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
    except OSError as error:  # a name that is too long
        raise argparse.ArgumentTypeError(f"{folder!s:.100}: {error.strerror}") from error
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} {reason}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{there} cannot be written to: choose another, or change its permissions")


def device_name(text: str) -> str:
    """A device by name; whether it is there is found out where torch is imported."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda or cuda:N, received '{text}'")
    return text


def require_own_folder(out: Path, marker: str, command: str) -> None:
    """Refuse a folder with anything but an earlier result of the same command, whose files would be mixed.

    Args:
        out: the folder, which need not exist.
        marker: file that every result of the command has.
        command: name of the command.

    Raises:
        ConfigError: there are files, and no marker.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise ConfigError(f"--out {out} has files that are not of {command}: give a folder of its own")
