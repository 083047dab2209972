"""Where a run lands on disk, and what to do with it next."""

import netrc
import os
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from depth_distill.errors import ConfigError

CONFIG_FILE = "config.yaml"
METRICS_LOG = "metrics.csv"


def run_name(files: Sequence[Path]) -> str:
    """Name of a run, from its first config file.

    ``configs/quickstart.yaml`` is ``quickstart``, ``configs/teacher/resnet18.yaml`` is ``teacher-resnet18``, and the
    resolved config of an earlier run keeps that run's name.
    """
    if not files:
        return "unnamed"
    path = files[0].absolute()
    if path.name == CONFIG_FILE:
        return path.parent.parent.name or "unnamed"
    folder = path.parent.name
    return f"{folder}-{path.stem}" if path.parent.parent.name == "configs" else path.stem


def config_files(words: Sequence[str]) -> list[Path]:
    """The files that a command line names with ``--config`` or ``-c``."""
    files = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word in ("-c", "--config"):
            files.append(Path(following))
        elif word.startswith("--config="):
            files.append(Path(word.removeprefix("--config=")))
    return files


def new_run_folder(base: Path, name: str) -> Path:
    """``base/name/<date-time>``, not yet taken by another run."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, copy = base / name / stamp, 1
    while folder.exists():
        folder, copy = base / name / f"{stamp}-{copy}", copy + 1
    return folder


def resumed_run_folder(checkpoint: str | None) -> Path | None:
    """The run folder that a checkpoint belongs to; None if it does not lie in one."""
    if checkpoint is None:
        return None
    folder = Path(checkpoint).absolute().parent
    return folder.parent if folder.name == "checkpoints" and (folder.parent / CONFIG_FILE).is_file() else None


def require_checkpoint(checkpoint: str | None) -> None:
    """Check that a checkpoint is there, if one is given.

    Raises:
        ConfigError: it is not; the message lists those that are.
    """
    if checkpoint is None or not checkpoint.endswith(".ckpt") or Path(checkpoint).exists():
        return
    folder = Path(checkpoint).parent
    present = ", ".join(sorted(path.name for path in folder.glob("*.ckpt"))) or "none"
    raise ConfigError(f"{checkpoint}: no such checkpoint; in {folder} there is {present}")


def keep_metrics_log(folder: Path) -> None:
    """Put the log of the interrupted run aside as ``metrics.1.csv``, ...: the logger would delete it."""
    log = folder / METRICS_LOG
    if log.is_file():
        part = 1
        while (kept := folder / f"metrics.{part}.csv").exists():
            part += 1
        log.rename(kept)


def has_wandb_key(base_url: str) -> bool:
    """Whether Weights & Biases could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(urlsplit(base_url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def next_command(run_folder: Path, checkpoint: str) -> str:
    """The command that writes predictions with the checkpoint of a run."""
    config = run_folder / CONFIG_FILE
    words = ["python", "-m", "depth_distill", "predict", "--config", str(config), "--ckpt_path", checkpoint]
    return shlex.join(words)
