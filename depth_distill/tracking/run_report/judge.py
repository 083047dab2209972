"""What a run reached, in sentences: best and last value, the trend, what INT8 costs, what went wrong."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depth_distill import runs
from depth_distill.tracking.run_report.folder import RunFolder, at, numbers, read_record
from depth_distill.tracking.run_report.log import Point
from depth_distill.yaml_files import read_yaml

_DEFAULT = ("val/abs_rel", "val/loss")
_NOTABLE = 0.01  # of a metric: less is called nothing
_FEWEST = 4  # validations to tell a trend from
_LEARNS_ON = 0.05  # of the highest learning rate: below this a run has ended as planned
_SAME_DATA = (("data", "val"), ("data", "image_size"), ("data", "depth_range"))


@dataclass(frozen=True)
class Monitored:
    """The metric that a run is judged by.

    Attributes:
        name: of the metric.
        maximize: whether more is better.
        points: its finite values, at least one.
        note: why it is not the one that the config names.
    """

    name: str
    maximize: bool
    points: Sequence[Point]
    note: str = ""

    @property
    def best(self) -> Point:
        """The first of the best points."""
        return (max if self.maximize else min)(self.points, key=lambda each: each.value)

    @property
    def last(self) -> Point:
        """The last point."""
        return self.points[-1]

    def gain(self, before: float, after: float) -> float:
        """By which share of ``before`` a value got better."""
        return ((after - before) if self.maximize else (before - after)) / max(abs(before), 1e-12)


def monitored(run: RunFolder) -> Monitored | None:
    """The metric that the config monitors; another one where that was not logged, and None where none was."""
    asked = str(run.at("checkpoint", "monitor") or _DEFAULT[0])
    others = [*_DEFAULT, *run.log.below("vendor/"), *run.log.below("val/")]
    for name in (asked, *others):
        points = [each for each in run.log[name] if math.isfinite(each.value)]
        if points:
            note = "" if name == asked else f"{asked}, which the config monitors, was never logged; judged by {name}."
            is_asked = name == asked and run.at("checkpoint", "monitor") is not None
            maximize = run.at("checkpoint", "mode") == "max" if is_asked else "/delta" in name
            return Monitored(name, maximize, points, note)
    return None


def verdict(run: RunFolder) -> list[str]:
    """The sentences on top of the page of a run."""
    if run.job != "fit":
        return _of_evaluation(run)
    found = monitored(run)
    if found is None:
        return ["This run has no validation in its log, so there is nothing to judge it by."]
    best, last = found.best, found.last
    text = f"Best {found.name} {_text(best.value)} at epoch {best.epoch + 1}{_of(run)}"
    text += (
        ", the last one" if last.step == best.step else f"; at the last, epoch {last.epoch + 1}, {_text(last.value)}"
    )
    return [f"{text}. {_trend(run, found)}", *_int8(run, best)]


def warnings(run: RunFolder) -> list[str]:
    """What is wrong with a run, or missing: cut short, not finite, one epoch only, unreadable files."""
    notes = list(run.notes)
    if run.job == "fit":
        notes = [*_cut_short(run), *notes]
        found = monitored(run)
        if found is not None and found.note:
            notes.append(found.note)
    judged = [name for name in run.log.series if not _is_band(name)]  # no image need have such pixels
    for name, point in run.log.non_finite(judged).items():
        notes.append(f"{name} is {point.value} from step {point.step}, epoch {point.epoch + 1}, on.")
    return notes


def epochs_done(run: RunFolder) -> int | None:
    """The number of finished epochs; None where no epoch was finished."""
    done = run.summary.get("epochs")
    return done if isinstance(done, int) else None


def _of(run: RunFolder) -> str:
    done = epochs_done(run)
    return "" if done is None else f" of {done}"


def _cut_short(run: RunFolder) -> list[str]:
    why = run.diverged.get("message")
    if isinstance(why, str):
        return [f"The run diverged: {why}."]
    planned, steps = run.at("trainer", "max_epochs"), run.at("trainer", "max_steps")
    done, last = epochs_done(run), run.log.last
    if done is None:
        reached = "nothing was logged" if last is None else f"the log ends at step {last.step}"
        return [f"{runs.SUMMARY_FILE} is missing, and {reached}: the run was cut short, or is still going on."]
    taken = run.summary.get("steps")
    if isinstance(steps, int) and steps > 0 and isinstance(taken, int) and taken >= steps:
        return []
    if isinstance(planned, int) and 0 < done < planned:
        return [
            f"{done} of {planned} epochs are done: the run was cut short, or ended by a callback or limit, or is still "
            "going on."
        ]
    return []


def _trend(run: RunFolder, found: Monitored) -> str:
    values = [each.value for each in found.points]
    if len(values) < _FEWEST:
        return f"With {_count(len(values), 'validation')} there is no saying whether it had levelled off."
    late = max(2, len(values) // 4)
    choose = max if found.maximize else min
    before, after = choose(values[:-late]), choose(values[-late:])
    gain, worse = found.gain(before, after), -found.gain(found.best.value, values[-1])
    if gain > _NOTABLE:
        text = f"It was still improving: the last {late} of {len(values)} validations gained {gain:.1%}"
        rate = [each.value for each in run.log["train/lr"] if math.isfinite(each.value)]
        planned = bool(rate) and rate[-1] < _LEARNS_ON * max(rate)
        cure = "a longer schedule" if planned else "more epochs"
        reason = ", although the learning rate had come down" if planned else ""
        return f"{text}{reason}; {cure} may help."
    if worse > 5 * _NOTABLE:
        return f"It got worse after that: the last value is {worse:.1%} behind the best."
    return f"It had levelled off: the last {late} of {len(values)} validations gained less than {_NOTABLE:.0%}."


def _int8(run: RunFolder, best: Point) -> list[str]:
    """What INT8 costs, where the run has vendor metrics: against the same step, and against its float teacher."""
    values = {name: _at(run, name, best.step) for name in ("vendor/abs_rel", "val/abs_rel")}
    vendor, val = values["vendor/abs_rel"], values["val/abs_rel"]
    if vendor is None or val is None:
        return []
    teacher, reason = _teacher(run)
    against = "in float" if best.epoch < _start_epoch(run) else "simulated in training"
    text = f"INT8 after the tool chain's own PTQ: abs_rel {vendor:.4f}, {_change(val, vendor)} {against} ({val:.4f})"
    if teacher is None:
        return [f"{text}{reason}."]
    return [f"{text}, and {_change(teacher, vendor)} the float teacher ({teacher:.4f})."]


def _start_epoch(run: RunFolder) -> int:
    quantized = fake_quant(run)
    start = at(quantized, "start_epoch")
    return start if isinstance(start, int) else 0


def fake_quant(run: RunFolder) -> Mapping[str, Any] | None:
    """The options of ``FakeQuant`` in the config; None where a run trains in float."""
    callbacks = run.at("trainer", "callbacks")
    for each in callbacks if isinstance(callbacks, list) else [callbacks]:
        if str(at(each, "class_path")).rpartition(".")[2] == "FakeQuant":
            options = at(each, "init_args")
            return options if isinstance(options, Mapping) else {}
    return None


def _teacher(run: RunFolder) -> tuple[float | None, str]:
    """abs_rel of the teacher by the record of its own run, or why that cannot be compared."""
    checkpoint = run.at("model", "init_args", "teacher_checkpoint")
    folder = runs.resumed_run_folder(checkpoint) if isinstance(checkpoint, str) else None
    if folder is None:
        return None, ""
    summary = read_record(folder / runs.SUMMARY_FILE, [])
    best = Path(str(summary.get("best_checkpoint")))
    value = numbers(summary.get("metrics")).get("val/abs_rel")
    if value is None or best.name != Path(str(checkpoint)).resolve().name:
        return None, ""
    try:
        config = read_yaml(folder / runs.CONFIG_FILE)
    except ValueError:
        return None, ""
    if any(at(config, *keys) != run.at(*keys) for keys in _SAME_DATA):
        return None, "; its float teacher was validated on other data, and is not compared"
    return value, ""


def _change(before: float, after: float) -> str:
    change = after / before - 1 if before else math.nan
    if abs(change) < _NOTABLE / 10:
        return "the same as"
    return f"{abs(change):.1%} {'worse' if change > 0 else 'better'} than"


def _of_evaluation(run: RunFolder) -> list[str]:
    values = numbers(run.evaluation.get("metrics"))
    if not values:
        return [
            "This folder has the predictions of a checkpoint, which were not scored."
            if run.job == "predict"
            else "This evaluation was cut short: it has no result."
        ]
    split = str(run.evaluation.get("split"))
    parts = [
        f"{key} {_text(values[key])}" for name in ("abs_rel", "rmse", "delta1") if (key := f"{split}/{name}") in values
    ]
    text = f"On the {split} split: {', '.join(parts)}." if parts else f"The {split} split was scored."
    vendor, own = values.get("vendor/abs_rel"), values.get(f"{split}/abs_rel")
    if vendor is None or own is None:
        return [text]
    return [text, f"INT8 after the tool chain's own PTQ: abs_rel {vendor:.4f}, {_change(own, vendor)} that."]


def _at(run: RunFolder, name: str, step: int) -> float | None:
    return next((each.value for each in run.log[name] if each.step == step and math.isfinite(each.value)), None)


def _is_band(name: str) -> bool:
    return name.startswith(("val/", "vendor/", "test/")) and name.endswith("m") and "-" in name


def _count(number: int, name: str) -> str:
    return f"one {name}" if number == 1 else f"{number} {name}s"


def _text(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"
