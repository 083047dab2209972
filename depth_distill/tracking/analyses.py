"""What a command that trains nothing leaves in Weights & Biases: numbers, a table, a picture, a bundle."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from depth_distill.errors import ConfigError, one_line
from depth_distill.tracking.results import finishing_trackers, use_checkpoint


def track(
    job: str,
    folder: Path,
    checkpoint: Path | None,
    config: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    tables: Mapping[str, Table] | None = None,
    pictures: Iterable[Path] = (),
    bundle: Path | None = None,
) -> None:
    """Log the result of a command as a run of its own, which uses the checkpoint that it was made from.

    Args:
        job: the command, which is the type of the job.
        folder: folder of the results; offline files go there, or beside a bundle.
        checkpoint: what was analysed; the run that made it is linked to this one where it was logged, too.
        config: options that tell this result from another.
        metrics: numbers, into the history and the summary.
        tables: tables as they are printed, by name.
        pictures: picture files, each under its name and ``_picture``.
        bundle: folder of a bundle, which becomes an artifact of type ``bundle``.

    Raises:
        ConfigError: Weights & Biases refuses it or cannot be reached; what the command wrote is there.
    """
    import wandb

    from depth_distill.tracking.wandb_options import wandb_options

    folder.mkdir(parents=True, exist_ok=True)
    options = wandb_options(folder.absolute(), job, {})
    options["dir"] = options.pop("save_dir")
    options.pop("id", None)  # each time is a run of its own
    try:
        with finishing_trackers():
            run = wandb.init(config=dict(config), **options)
            if checkpoint is not None:
                use_checkpoint(run, checkpoint)
            found: dict[str, Any] = {name: float(value) for name, value in (metrics or {}).items()}
            found |= {name: _table(table) for name, table in (tables or {}).items()}
            # Not under the name of the table, which it would replace.
            found |= {f"{path.stem}_picture": wandb.Image(str(path)) for path in pictures if path.is_file()}
            if found:
                run.log(found)
            if bundle is not None:
                artifact = wandb.Artifact(f"bundle-{bundle.name}", type="bundle", metadata=dict(config))
                artifact.add_dir(str(bundle), policy="immutable", skip_cache=True)
                run.log_artifact(artifact)
    except wandb.Error as error:
        raise ConfigError(
            f"Weights & Biases: {one_line(error)}; the results are written, and with WANDB_MODE=offline nothing is sent"
        ) from error


def _table(table: Table) -> Any:
    """A printed table as one of Weights & Biases: numbers where all cells of a column are numbers or empty."""
    import wandb

    columns = [_column(list(column.cells)) for column in table.columns]
    names: list[str | int] = [str(column.header) for column in table.columns]
    return wandb.Table(columns=names, data=[list(row) for row in zip(*columns, strict=True)])


def _column(cells: list[Any]) -> list[Any]:
    texts = [str(cell) for cell in cells]
    try:
        numbers = [None if text in ("", "-") else float(text) for text in texts]
    except ValueError:
        return texts
    return texts if all(number is None for number in numbers) else numbers
