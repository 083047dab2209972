"""What ``trainer.logger`` may leave out: the folder of a logger, which is that of the run."""

from typing import Any

_NEED_A_FOLDER = ("TensorBoardLogger", "CSVLogger")
HERE = "."
"""Folder of a logger that is given none. Relative folders are below the run folder, so that a config can move."""


def with_folders(value: Any) -> Any:
    """A parsed option or config in which loggers that cannot be built without ``save_dir`` have one.

    Args:
        value: the value of an option, such as ``TensorBoardLogger`` or a list of loggers; or a config, in which only
            ``trainer.logger`` is looked at, also below the name of a subcommand.
    """
    if not isinstance(value, dict) or "class_path" in value:
        return _with_folder(value)
    trainer = value.get("trainer")
    if isinstance(trainer, dict) and "logger" in trainer:
        return value | {"trainer": trainer | {"logger": _with_folder(trainer["logger"])}}
    if "logger" in value:  # trainer as a file of its own
        return value | {"logger": _with_folder(value["logger"])}
    return value


def _with_folder(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_folder(each) for each in value]
    path = value.get("class_path") if isinstance(value, dict) else value
    if not isinstance(path, str) or path.rpartition(".")[2] not in _NEED_A_FOLDER:
        return value
    arguments = value.get("init_args") if isinstance(value, dict) else None
    rest = value if isinstance(value, dict) else {}
    return rest | {"class_path": path, "init_args": {"save_dir": HERE} | (arguments or {})}
