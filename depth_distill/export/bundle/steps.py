"""Steps of a long job: timed, named in errors, and skipped if nothing that they depend on changed."""

import copy
import errno
import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, fx

from depth_distill.atomic import atomic_path, write_json
from depth_distill.errors import ConfigError, UserError
from depth_distill.export.bundle.bundle import STEPS_RECORD
from depth_distill.hashes import sha256
from depth_distill.quantization.passes.base import Context, Pass, PassReport, PassResult
from depth_distill.quantization.simulate.calibrate import structure_hash, weights_hash


class StepError(ConfigError):
    """A step failed for a reason that a user can fix; the message has the name of the step."""


class StepRunner:
    """Runs steps and records their results, so that an interrupted job can continue.

    Args:
        folder: folder for the files of the job and their record ``steps.json``; if it is there, that job continues.
        console: console for progress.
        depends_on: what every result depends on, as JSON.
    """

    def __init__(self, folder: Path, console: Console, depends_on: Any = None) -> None:
        self.folder = folder
        self.console = console
        self.depends_on = depends_on
        self.seconds: dict[str, float] = {}
        self.kept: list[str] = []
        self._record = self._read()

    def run(
        self, name: str, depends_on: Any, make: Callable[[], Any], files: Sequence[str] = (), value: bool = True
    ) -> Any:
        """Result of ``make``, or its recorded result if nothing changed.

        Args:
            name: name of the step.
            depends_on: everything that the result depends on, as JSON; large values as hashes.
            make: does the work; it returns JSON and writes files into the folder.
            files: names of these files or folders.
            value: whether the result can be recorded; if False, the step is always run.

        Raises:
            StepError: ``make`` failed for a reason that a user can fix, such as a full disk.
        """
        key = content_hash([self.depends_on, depends_on])
        self.console.print(Text.assemble((f"{len(self.seconds) + 1:>3}", "dim"), f"  {name}"), end="")
        entry = self._record.get(name)
        if value and entry is not None and entry["key"] == key and entry["files"] == self._hashes(files):
            self.seconds[name] = entry["seconds"]
            self.kept.append(name)
            self.console.print("  kept from the last run", style="dim", highlight=False)
            return entry["value"]
        self.console.print()
        start = time.perf_counter()
        try:
            if value and not (self.folder / STEPS_RECORD).is_file():
                write_json(self.folder / STEPS_RECORD, self._record)  # the folder is recognized from the first file on
            result = make()
            self.seconds[name] = time.perf_counter() - start
            if value:
                entry = {"key": key, "files": self._hashes(files), "seconds": self.seconds[name], "value": result}
                self._record[name] = entry
                write_json(self.folder / STEPS_RECORD, self._record)
        except UserError as error:
            raise StepError(f"step {name!r}: {error}") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            raise StepError(f"step {name!r}: {self.folder} cannot be written to: {error.strerror}") from error
        self.console.print(f"       {self.seconds[name]:.1f} s", style="dim", highlight=False)
        return result

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads((self.folder / STEPS_RECORD).read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _hashes(self, files: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in files:
            path = self.folder / name
            for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if each.is_file():
                    found[str(each.relative_to(self.folder))] = sha256(each)
            if not path.exists():
                found[name] = "missing"
        return found


def resumable_passes(steps: StepRunner) -> Callable[[Pass, fx.GraphModule, Context], PassResult]:
    """An ``Execute`` for :class:`~depth_distill.quantization.preparation.Preparer`: each pass of a recipe is a step.

    The weights after a pass are stored, so that an export that was interrupted during the next pass does not repeat it.
    Passes that change the structure, whose result a file of weights could not restore, are always run.
    """

    def execute(pass_: Pass, graph: fx.GraphModule, context: Context) -> PassResult:
        title = f"recipe: {pass_.name}"
        if not pass_.values_only:
            found: PassResult = steps.run(title, None, lambda: pass_(graph, context), value=False)
            return found
        name = f"{pass_.name}.pt"

        def make() -> dict[str, Any]:
            result = pass_(graph, context)
            buffer = io.BytesIO()  # where the disk is full, torch's own writer says something about positions
            torch.save({key: value.cpu() for key, value in result.graph.state_dict().items()}, buffer)
            with atomic_path(steps.folder / name) as temporary:
                temporary.write_bytes(buffer.getvalue())
            tables.append(result.report.table)
            return {"summary": result.report.summary, "values": dict(result.report.values)}

        tables: list[Table | None] = []
        images = [tensor_hash(each) for each in context.images]
        # Rounding is judged against the reference, which passes that change the function leave as it was.
        graphs = [graph] if context.reference is None else [graph, context.reference]
        hashes = [(weights_hash(each), structure_hash(each)) for each in graphs]
        depends_on = [pass_.to_dict(), hashes, images, context.chosen_calibrator]
        report = steps.run(title, depends_on, make, [name])
        restored = pass_.shaped(copy.deepcopy(graph))
        restored.load_state_dict(torch.load(steps.folder / name, weights_only=True))
        return PassResult(restored, PassReport(report["summary"], report["values"], tables[0] if tables else None))

    return execute


def tensor_hash(values: Tensor) -> str:
    """SHA-256 of the bytes of a tensor."""
    return hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def source_hash(folder: Path) -> str:
    """SHA-256 of the Python files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
