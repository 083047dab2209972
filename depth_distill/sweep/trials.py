"""The trials of a sweep: processes that run side by side, and a record that a sweep goes on from."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from depth_distill.atomic import write_json
from depth_distill.errors import ConfigError
from depth_distill.exit_codes import INTERRUPTED, TERMINATED
from depth_distill.runs import LAST_CHECKPOINT, SUMMARY_FILE, SWEEP_FILE
from depth_distill.sweep.file import SweepFile

_POLL_S = 0.2
_HOPELESS = 3  # trials that fail before any has finished
_STOPPED = (INTERRUPTED, TERMINATED, -signal.SIGINT, -signal.SIGTERM)
_KILLED = -signal.SIGKILL  # by somebody else, or because it takes too much memory


@dataclass
class Trial:
    """One suggestion and what became of it.

    Attributes:
        number: from 1.
        parameters: values by option.
        state: ``running``, ``finished`` or ``failed``; one that was interrupted is running in the record.
        value: of the metric.
        metrics: all that the command measured.
        seconds: that it took.
        message: its last line, where it failed.
        drawn: what the search has to know of it.
    """

    number: int
    parameters: dict[str, Any]
    state: str = "running"
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    message: str | None = None
    drawn: dict[str, Any] | None = None


class Trials:
    """Run the trials of a sweep, and keep their record in ``sweep.json`` of a folder.

    Args:
        sweep: the sweep.
        out: folder of the record and of the trials: ``trials/001`` is the run folder of the first, ``001.log`` what it
            printed.
        overrides: further options of every trial.

    Raises:
        ConfigError: the folder holds another sweep.
    """

    def __init__(self, sweep: SweepFile, out: Path, overrides: Sequence[str] = ()) -> None:
        self.sweep, self.out, self.overrides = sweep, out, list(overrides)
        self.record = out / SWEEP_FILE
        self.made_with = {
            "parameters": {each.name: [each.distribution, dict(each.options)] for each in sweep.parameters},
            "metric": sweep.metric,
            "command": [sweep.subcommand, *sweep.words, *self.overrides],
        }
        self.all: list[Trial] = []
        self._environment: dict[str, str] = dict(os.environ)
        if self.record.is_file():
            kept = json.loads(self.record.read_text())
            made_with = json.loads(json.dumps(self.made_with))
            for key, value in made_with.items():
                if kept.get("made_with", {}).get(key) != value:
                    raise ConfigError(f"{out} holds the trials of a sweep with other {key}: give another --out")
            self.all = [Trial(**each) for each in kept["trials"]]

    @property
    def finished(self) -> list[Trial]:
        """Those that have a value, the best first."""
        done = [each for each in self.all if each.value is not None]
        return sorted(done, key=lambda each: each.value or 0.0, reverse=self.sweep.maximize)

    def run(
        self,
        suggest: Callable[[Sequence[Trial]], dict[str, Any] | None],
        count: int | None,
        parallel: int,
        on_end: Callable[[Trial], None],
        drawn_key: str,
    ) -> None:
        """Run trials until there are ``count``, or the search has no more.

        Args:
            suggest: the search.
            count: trials in all, with those of the record; None for as many as the search has.
            parallel: trials at once.
            on_end: called with each that ended.
            drawn_key: key of a suggestion that goes into the record and not to the command.

        Raises:
            ConfigError: the first three trials failed.
        """
        waiting = [each for each in self.all if each.state == "running"]  # of a sweep that was interrupted
        # torch takes all cores for each process otherwise.
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // parallel))}
        self._environment = threads | os.environ if parallel > 1 else dict(os.environ)
        running: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
        exhausted = False
        with _terminable():
            try:
                while True:
                    while len(running) < parallel and not exhausted:
                        trial = waiting.pop(0) if waiting else self._next(suggest, count, drawn_key)
                        if trial is None:
                            exhausted = True
                            break
                        running[trial.number] = (self._start(trial), time.monotonic())
                    if not running:
                        return
                    time.sleep(_POLL_S)
                    for number, (process, started) in list(running.items()):
                        if process.poll() is None:
                            continue
                        del running[number]
                        trial = self.all[number - 1]
                        self._end(trial, process.returncode, time.monotonic() - started)
                        on_end(trial)
                        self._stop_if_hopeless()
            finally:
                for process, _ in running.values():
                    process.terminate()
                for process, _ in running.values():
                    process.wait()

    @property
    def is_unfinished(self) -> bool:
        """Whether nothing has a value, or a trial was stopped and waits to go on."""
        return not self.finished or any(each.state == "running" for each in self.all)

    def _next(self, suggest: Callable[..., dict[str, Any] | None], count: int | None, drawn_key: str) -> Trial | None:
        if count is not None and len(self.all) >= count:
            return None
        suggestion = suggest(self.all)
        if suggestion is None:
            return None
        drawn = suggestion.pop(drawn_key, None)
        trial = Trial(len(self.all) + 1, suggestion, drawn=drawn)
        self.all.append(trial)
        self._save()
        return trial

    def words(self, trial: Trial) -> list[str]:
        """The options of a trial."""
        folder = self.folder(trial)
        words = [*self.sweep.words, *self.overrides, *self.sweep.arguments(trial.parameters)]
        if self.sweep.subcommand != "fit":
            return [*words, f"--json={folder / 'result.json'}"]
        last = folder / "checkpoints" / LAST_CHECKPOINT
        return [*words, f"--run_dir={folder}", *([f"--ckpt_path={last}"] if last.is_file() else [])]

    def folder(self, trial: Trial) -> Path:
        """Where the results of a trial are."""
        return self.out / "trials" / f"{trial.number:03d}"

    def _start(self, trial: Trial) -> subprocess.Popen[bytes]:
        folder = self.folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)  # of a trial that was stopped after it had measured
        words = [sys.executable, "-m", "depth_distill", self.sweep.subcommand, *self.words(trial)]
        with folder.with_suffix(".log").open("ab") as log:
            # In a session of its own, so that Ctrl-C reaches this process alone, which stops the others in good order.
            return subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )

    def _end(self, trial: Trial, code: int, seconds: float) -> None:
        # It goes on when the sweep does; what is killed again is too large for the machine.
        stopped = f"stopped with exit code {code}"
        if code in _STOPPED or (code == _KILLED and trial.message != stopped):
            trial.message = stopped
            self._save()
            return
        trial.seconds = round(seconds, 1)
        # With 1 a command that has measured gives its verdict; fit has none.
        has_measured = code == 0 or (code == 1 and self.sweep.subcommand != "fit")
        trial.metrics, trial.message = self._metrics(trial) if has_measured else {}, None
        trial.value = trial.metrics.get(self.sweep.metric)
        trial.state = "finished" if trial.value is not None else "failed"
        if trial.state == "failed":
            trial.message = self._reason(trial, code)
        self._save()

    def _metrics(self, trial: Trial) -> dict[str, float]:
        name = SUMMARY_FILE if self.sweep.subcommand == "fit" else "result.json"
        try:
            content = json.loads((self.folder(trial) / name).read_text())
        except (OSError, ValueError):
            return {}
        values: Mapping[str, Any] = content.get("metrics", content) if isinstance(content, dict) else {}
        return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}

    def _reason(self, trial: Trial, code: int) -> str:
        if code == 0:
            known = ", ".join(sorted(key for key in trial.metrics if not re.search(r"m$", key))) or "nothing"
            return f"the command measures no {self.sweep.metric}; it has {known}"
        log = self.folder(trial).with_suffix(".log")
        lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or [f"exit code {code}"])[-1].removeprefix("error: ")

    def _stop_if_hopeless(self) -> None:
        failed = [each for each in self.all if each.state == "failed"]
        if len(failed) >= _HOPELESS and not self.finished:
            raise ConfigError(f"the first {len(failed)} trials failed, the last one with: {failed[-1].message}")

    def _save(self) -> None:
        trials = [asdict(each) for each in self.all]
        write_json(self.record, {"made_with": self.made_with, "maximize": self.sweep.maximize, "trials": trials})


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as an exception does, so that no trial is left behind."""

    def stop(*_: Any) -> None:
        raise SystemExit(TERMINATED)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
