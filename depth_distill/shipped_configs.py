"""The configs that come with the package: where they are, and their names."""

import re
from collections.abc import Sequence
from pathlib import Path

from depth_distill.errors import ConfigError
from depth_distill.suggestions import did_you_mean

_NAME = re.compile(r"[\w-]+(/[\w-]+)*")  # no suffix, so no file
_OPTIONS = ("-c", "--config", "--data")


def shipped_folder() -> Path:
    """Folder of the shipped configs: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    return next((folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()), package)


def shipped_names(folder: str = ".") -> list[str]:
    """Names of the shipped configs in a folder and below it, such as ``quickstart`` and ``teacher/resnet18``."""
    base = shipped_folder() / folder
    return sorted(str(path.relative_to(base).with_suffix("").as_posix()) for path in base.rglob("*.yaml"))


def find_config(name_or_path: str | Path) -> Path:
    """The file that ``--config`` names: a file of that path, or else a shipped config of that name.

    A path that is neither is returned as it is, for its reader to complain about.

    Raises:
        ConfigError: a name without a suffix that nothing has; the message gives the nearest one.
    """
    word = str(name_or_path)
    if Path(word).exists() or not _NAME.fullmatch(word):
        return Path(word)
    shipped = shipped_folder() / f"{word}.yaml"
    if not shipped.is_file():
        raise ConfigError(
            f"there is no file '{word}', and no shipped config of that name; {did_you_mean(word, shipped_names())}"
        )
    return shipped


def with_config_files(words: Sequence[str]) -> list[str]:
    """A command line with each name of a shipped config, after ``--config`` or ``--data``, replaced by its file.

    Raises:
        ConfigError: see :func:`find_config`.
    """
    found = []
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if before in _OPTIONS and not word.startswith("-"):
            word = str(find_config(word))
        elif equals and option in _OPTIONS:
            word = f"{option}={find_config(value)}"
        found.append(word)
    return found
