"""Run folders: how they are named, made and found again, and what comes next."""

import atexit
import contextlib
import netrc
import os
import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from depth_distill.atomic import is_being_written
from depth_distill.errors import ConfigError

CONFIG_FILE = "config.yaml"
METRICS_LOG = "metrics.csv"
LAYERS_LOG = "layers.csv"
SUMMARY_FILE = "summary.json"
EVALUATION_FILE = "evaluation.json"
DIVERGED_FILE = "diverged.json"
SWEEP_FILE = "sweep.json"
ROADMAP_FILE = "roadmap.json"
REPORT_FILE = "report.html"
LAST_CHECKPOINT = "last.ckpt"
BEST_CHECKPOINT = "best.ckpt"
LATEST = "latest"
EVALUATIONS = ("validate", "test", "predict")
"""Subcommands that evaluate a checkpoint, each in folders of its own: ``RUNS_DIR/<config>/<subcommand>/<time>``."""

_RUN_FOLDER = "DEPTH_DISTILL_RUN_FOLDER"
_LOCAL_RANK = "LOCAL_RANK"
_RANKS = (_LOCAL_RANK, "RANK", "NODE_RANK", "SLURM_PROCID")


def run_name(files: Sequence[Path]) -> str:
    """Name of a run, from its first config file.

    ``configs/quickstart.yaml`` is ``quickstart``, ``configs/teacher/resnet18.yaml`` is ``teacher-resnet18``, and the
    resolved config of an earlier run keeps the name of that run.
    """
    if not files:
        return "unnamed"
    path = files[0].absolute()
    if path.name == CONFIG_FILE:
        runs_of_config = path.parent.parent
        # A config of the user's may be called test.yaml: its trainings have checkpoints, evaluations have none.
        evaluated = runs_of_config.name in EVALUATIONS and not (path.parent / "checkpoints").is_dir()
        return (runs_of_config.parent if evaluated else runs_of_config).name or "unnamed"
    folder = path.parent.name
    return f"{folder}-{path.stem}" if path.parent.parent.name == "configs" else path.stem


def config_files(argv: Sequence[str]) -> list[Path]:
    """The files that a command line names with ``--config`` or ``-c``."""
    return [Path(value) for value in option_values(argv, "--config", "-c")]


def chosen_run_folder(argv: Sequence[str], checkpoint: str | None, configured: str | None) -> Path | None:
    """The existing or named folder that a run goes into; None if it gets a new one.

    A link, such as ``latest``, stands for the folder that it leads to now.

    Args:
        argv: the command line, whose ``--run_dir`` comes first.
        checkpoint: the checkpoint that the run resumes from, whose run folder comes second, so that a copied run goes
            on in the copy; None if it does not resume.
        configured: the ``run_dir`` of a config file.
    """
    given = [*option_values(argv, "--run_dir")]
    if given:
        return _through_link(Path(given[-1]))
    return resumed_run_folder(checkpoint) or (_through_link(Path(configured)) if configured else None)


def require_own_folder(folder: Path, command: str, checkpoint: str | None) -> None:
    """Check that a run may write into a folder that was named for it, and make it.

    It is a new or empty folder, that of a run that never came to a checkpoint to go on from, or, for ``fit``, that of
    the checkpoint that it resumes from. ``test`` would replace the config and the log of a ``fit`` by its own.

    Args:
        folder: the named folder.
        command: name of the subcommand.
        checkpoint: the checkpoint that is given, or ``last``; None if none is.

    Raises:
        ConfigError: it belongs to another run or to somebody else, or cannot be made.
    """
    if any(os.environ.get(name, "0") != "0" for name in _RANKS):
        return  # the first process, perhaps on another machine, checks and makes it
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"run_dir: {folder} cannot be made ({why}); give another folder") from error
    checkpoints = folder / "checkpoints"
    resumed = checkpoint if command == "fit" else None
    if resumed == "last" or (resumed is not None and Path(resumed).resolve().parent == checkpoints.resolve()):
        return
    if command == "fit":
        _forget_killed_run(checkpoints)
    if any(checkpoints.glob("*.ckpt")):
        raise ConfigError(
            f"run_dir: {folder} holds the checkpoints of another run; give a new folder, or let fit resume that run "
            f"with --ckpt_path {checkpoints / LAST_CHECKPOINT}"
        )
    if names and CONFIG_FILE not in names:
        raise ConfigError(f"run_dir: {folder} is neither empty nor a run folder; give a new folder")


def _forget_killed_run(checkpoints: Path) -> None:
    """Remove what a run left that was killed while it wrote its first ``last.ckpt``: nothing there can be resumed."""
    unfinished = list(checkpoints.glob(".last.*-partial.ckpt"))
    if not unfinished or (checkpoints / LAST_CHECKPOINT).exists() or any(map(is_being_written, unfinished)):
        return
    for path in (*checkpoints.glob("*.ckpt"), *unfinished):
        path.unlink(missing_ok=True)


def new_run_folder(base: Path, name: str) -> Path:
    """Make ``base/name/<date-time>``, which no other run has, also one that starts in the same second.

    Processes that Lightning starts for more devices get the folder of the first one. A folder in which nothing was
    written is removed when the process ends: not every run gets so far.

    Raises:
        ConfigError: ``base`` cannot hold folders; or a launcher, such as torchrun or srun, started several processes,
            which cannot agree on a new folder.
    """
    if os.environ.get(_LOCAL_RANK, "0") != "0" and _RUN_FOLDER in os.environ:
        return Path(os.environ[_RUN_FOLDER])
    launcher = _launcher()
    if launcher is not None:
        raise ConfigError(
            f"--run_dir is missing: {launcher} started several processes, which each would make a run folder of their "
            "own; give all of them the same --run_dir"
        )
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, copy = (base / name / stamp).absolute(), 1
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        while not _make(folder):
            folder, copy = folder.with_name(f"{stamp}-{copy}"), copy + 1
    except OSError as error:
        raise ConfigError(f"no run folder can be made in {base} ({error.strerror}): give another --runs_dir") from error
    os.environ[_RUN_FOLDER] = str(folder)
    atexit.register(_remove_if_empty, folder)
    return folder


def resumed_run_folder(checkpoint: str | None) -> Path | None:
    """The run folder in which a checkpoint lies; None if it does not lie in one."""
    if checkpoint is None:
        return None
    folder = Path(checkpoint).absolute().parent
    run = _through_link(folder.parent)
    return run if folder.name == "checkpoints" and (run / CONFIG_FILE).is_file() else None


def require_checkpoint(checkpoint: str | None) -> None:
    """Check that a checkpoint exists, if one is given.

    Raises:
        ConfigError: it does not exist, and the message lists those that do; or it is a URL, which Lightning would
            unpickle.
    """
    if checkpoint is not None and "://" in checkpoint:
        raise ConfigError(f"{checkpoint} is a URL: download the file, and give its path as --ckpt_path")
    if checkpoint is None or checkpoint == "last" or (checkpoint and Path(checkpoint).exists()):
        return
    folder = Path(checkpoint).parent
    if checkpoint in ("", "best", "hpc", "registry") or ":" in checkpoint.partition(os.sep)[0]:
        raise ConfigError(f"ckpt_path: received '{checkpoint}', expected the path of a .ckpt file, or last")
    names = sorted(path.name for path in folder.glob("*.ckpt") if not path.name.startswith("."))
    raise ConfigError(f"{checkpoint}: no such checkpoint; in {folder} there is {', '.join(names) or 'none'}")


def keep_metrics_log(folder: Path) -> None:
    """Rename the log of an interrupted run to ``metrics.1.csv``, ...: the logger would delete it."""
    log = folder / METRICS_LOG
    if log.is_file():
        part = 1
        while (kept := folder / f"metrics.{part}.csv").exists():
            part += 1
        log.rename(kept)


def has_wandb_key(base_url: str) -> bool:
    """Whether Weights & Biases could log in without asking for a key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:  # by host and port, and in the file that NETRC names, as wandb looks
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(base_url).netloc) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def link(path: Path, to: Path) -> bool:
    """Make ``path`` a relative link to a file or folder beside it, in place of a link that it was.

    Where the file system has no symbolic links, a file gets a second name (a hard link), and a folder none.

    Returns:
        Whether ``path`` leads there now. What is neither a link nor a file, such as a folder of that name, is left.
    """
    if path.absolute() == to.absolute() or (path.is_dir() and not path.is_symlink()):
        return False
    temporary = path.with_name(f".{path.name}.{os.getpid()}-link")
    target = to.relative_to(path.parent)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(target)
        except (OSError, NotImplementedError):
            os.link(to, temporary)
        temporary.replace(path)  # at once, so that it never leads nowhere
        return True
    return False


def by_short_name(path: Path) -> Path:
    """The path of a run, or of a checkpoint in one, by the links ``latest`` and ``best.ckpt`` where these exist."""
    if path.suffix == ".ckpt":
        best = path.parent / BEST_CHECKPOINT
        name = best.name if best.is_file() and path.is_file() and best.samefile(path) else path.name
        folder = path.parent
        return by_short_name(folder.parent) / folder.name / name
    latest = path.parent / LATEST
    return latest if latest.is_dir() and path.is_dir() and latest.samefile(path) else path


def title_of(checkpoint: Path) -> str:
    """What a table calls the run of a checkpoint: its folder, not ``latest``; a time stands behind its config."""
    folder = _through_link(checkpoint.absolute().parent.parent)
    stamped = re.match(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
    return f"{folder.parent.name} {folder.name}" if stamped else folder.name


def settled(path: Path) -> Path:
    """The file that a path leads to now, for a record: links such as ``latest`` and ``best.ckpt`` move on.

    A path below the working directory stays relative if it was.
    """
    real, here = path.resolve(), Path.cwd().resolve()
    return real.relative_to(here) if not path.is_absolute() and real.is_relative_to(here) else real


def next_command(run_folder: Path, checkpoint: str) -> str:
    """The command that writes predictions with a checkpoint of a run."""
    words = ["--config", str(by_short_name(run_folder) / CONFIG_FILE)]
    return shlex.join(["depth-distill", "predict", *words, "--ckpt_path", str(by_short_name(Path(checkpoint)))])


def _through_link(folder: Path) -> Path:
    """The folder itself; the one that it leads to if it is a link."""
    return folder.resolve() if folder.is_symlink() else folder


def option_values(argv: Sequence[str], *options: str) -> list[str]:
    """The values that a command line gives to an option, as ``--option VALUE`` or ``--option=VALUE``."""
    values = []
    for argument, following in zip(argv, [*argv, ""][1:], strict=True):
        name, equals, value = argument.partition("=")
        if argument in options:
            values.append(following)
        elif equals and name.startswith("--") and name in options:
            values.append(value)
    return values


def _launcher() -> str | None:
    """What started this process together with others; None if nothing did, or Lightning itself."""
    for name, rank, count in (("torchrun", "RANK", "WORLD_SIZE"), ("srun", "SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and os.environ.get(count, "1") not in ("", "1"):
            return name
    return "NODE_RANK" if os.environ.get("NODE_RANK", "0") not in ("", "0") else None


def _make(folder: Path) -> bool:
    """Whether the folder is new; of several processes that try, only one is told so."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
