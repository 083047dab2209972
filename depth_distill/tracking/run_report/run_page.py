"""The page of a run: verdict, curves, metrics, panels, ranges of layers, config, and what to do next."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depth_distill.tracking.identity import FILE as TRACKING_FILE
from depth_distill.tracking.run_report.curves import METRIC_NAMES, SPLITS, band_names, curves
from depth_distill.tracking.run_report.folder import RunFolder, at, numbers, read_record
from depth_distill.tracking.run_report.judge import Monitored, fake_quant, monitored, verdict, warnings
from depth_distill.tracking.run_report.next_commands import next_commands
from depth_distill.tracking.run_report.page import Page, Section, Table
from depth_distill.tracking.run_report.panels import panels
from depth_distill.tracking.run_report.ranges import ranges

_JOBS = {"fit": "Training", "validate": "Validation", "test": "Test", "predict": "Prediction"}


def run_page(run: RunFolder) -> Page:
    """The page of a run folder that was read."""
    judged = monitored(run)
    network, data = _network(run), _data(run)
    return Page(
        title=f"{network} on {data}" if network and data else network or data or run.path.name,
        subtitle=f"{_JOBS[run.job]} {run.path}, started {run.started}{_version(run)}",
        verdict=verdict(run),
        warnings=warnings(run),
        facts=[(name, str(value)) for name, value in _facts(run, judged).items() if value not in (None, "")],
        sections=[each for each in _sections(run, judged) if each is not None],
    )


def _sections(run: RunFolder, judged: Monitored | None) -> list[Section | None]:
    plots, notes = curves(run, judged) if run.job == "fit" else ([], [])
    pictures, about_pictures = panels(run.path)
    layer_plots, about_layers = ranges(run.layers)
    empty = ["Nothing was logged."] if run.job == "fit" else []
    commands = next_commands(run)
    no_commands = ["There is no checkpoint to go on from."]
    if run.job == "fit":
        no_layers = ["layers.csv is missing: no epoch was measured (layers.every_n_epochs)."]
        layers = Section("Ranges and saturation of layers", about_layers or no_layers, layer_plots)
    return [
        Section("Curves", notes if plots else empty, plots) if run.job == "fit" else None,
        _metrics(run, judged),
        Section("Panels", about_pictures, pictures=pictures),
        layers if run.job == "fit" else None,
        Section("Config", ["As it was resolved, with every default."], text=("config.yaml", run.config_text))
        if run.config_text
        else None,
        Section(
            "Next", ["From the folder that this page was written from:"] if commands else no_commands, commands=commands
        ),
    ]


def _metrics(run: RunFolder, judged: Monitored | None) -> Section | None:
    if run.job == "predict":
        return None
    protocol = run.evaluation.get("protocol") or run.summary.get("protocol")
    lines = [f"Protocol: {protocol}. A dash is a band without pixels."] if protocol else []
    columns: dict[str, Mapping[str, float]] = {}
    if run.evaluation:
        found = numbers(run.evaluation.get("metrics"))
        for split in (str(run.evaluation.get("split")), "vendor"):
            columns |= {split: _of_split(found, split)}
    elif judged is not None:
        points = {"best": judged.best} | ({"last": judged.last} if judged.last.step != judged.best.step else {})
        for split in SPLITS:
            for title, point in points.items():
                values = {
                    name.removeprefix(f"{split}/"): each.value
                    for name in run.log.below(f"{split}/")
                    for each in run.log[name]
                    if each.step == point.step
                }
                columns[f"{split}, {title} (epoch {point.epoch + 1})"] = values
        if len(points) == 1:
            lines.append("The best epoch is the last one.")
    columns = {title: values for title, values in columns.items() if values}
    if not columns:
        return Section("Metrics", ["No validation is recorded."])
    if any(title.startswith("vendor") for title in columns):
        lines.append("vendor is INT8 after the tool chain's own PTQ, val the network as it is trained.")
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    bands = band_names([f"/{name}" for name in names])
    own = [name for name in ("loss", *METRIC_NAMES) if name in names]
    banded = [f"{name}_{band}" for name in METRIC_NAMES for band in bands if f"{name}_{band}" in names]
    others = [name for name in names if name not in own and name not in banded]
    tables = [_table(own + others, columns)]
    tables += [_table(banded, columns, "Metrics by depth band")] if banded else []
    return Section("Metrics", lines, tables=tables)


def _table(names: Sequence[str], columns: Mapping[str, Mapping[str, float]], folded: str = "") -> Table:
    rows = [[name, *(_cell(values.get(name)) for values in columns.values())] for name in names]
    return Table(["metric", *columns], rows, folded, bool(folded))


def _cell(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4f}"


def _of_split(found: Mapping[str, float], split: str) -> dict[str, float]:
    return {name.removeprefix(f"{split}/"): value for name, value in found.items() if name.startswith(f"{split}/")}


def _facts(run: RunFolder, judged: Monitored | None) -> dict[str, Any]:
    summary, quantized, size = run.summary, fake_quant(run), run.at("data", "image_size")
    best = summary.get("best_checkpoint")
    versions = _versions(run)
    scored = run.evaluation.get("checkpoint")
    identity = read_record(run.path / TRACKING_FILE, [])
    return {
        "image size": " x ".join(map(str, size)) if isinstance(size, list) else None,
        "task": _short(run.at("model", "class_path")),
        "teacher": run.at("model", "init_args", "teacher_checkpoint"),
        "checkpoint": scored,
        "fake quantization": None
        if quantized is None
        else f"{at(quantized, 'target')}, recipe {at(quantized, 'recipe')}",
        "judged by": None if judged is None else f"{judged.name}, {'higher' if judged.maximize else 'lower'} is better",
        "epochs and steps": f"{summary['epochs']}, {summary.get('steps')}" if "epochs" in summary else None,
        "batch size": run.at("data", "batch_size"),
        "optimizer": _optimizer(run),
        "time": _time(summary.get("wall_s")),
        "speed": f"{summary['train_images_per_s']} images/s" if "train_images_per_s" in summary else None,
        "seed": summary.get("seed", run.at("seed_everything")),
        "best checkpoint": Path(best).name if isinstance(best, str) else None,
        "Weights & Biases": identity.get("wandb"),
        "MLflow": identity.get("mlflow"),
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items())
        if isinstance(versions, dict)
        else None,
    }


def _network(run: RunFolder) -> str:
    """The network in a few words; empty if the config does not say."""
    network = run.at("model", "init_args", "network")
    arguments = at(network, "init_args")
    encoder, head = at(arguments, "encoder"), _short(at(arguments, "head", "class_path"))
    return ", ".join(str(each) for each in (_short(at(network, "class_path")), encoder, head) if each)


def _data(run: RunFolder) -> str:
    train = run.at("data", "train")
    name, root = _short(at(train, "class_path")), at(train, "init_args", "root")
    return f"{name} {root}" if name and root else name


def _optimizer(run: RunFolder) -> str | None:
    optimizer = run.at("model", "init_args", "optimizer")
    name, rate = _short(at(optimizer, "class_path")), at(optimizer, "init_args", "lr")
    schedule = _short(run.at("model", "init_args", "lr_scheduler", "class_path"))
    return ", ".join(str(each) for each in (name, f"lr {rate}" if rate else "", schedule) if each) or None


def _versions(run: RunFolder) -> Any:
    return at(run.summary, "versions") or at(run.evaluation, "versions")


def _version(run: RunFolder) -> str:
    version = at(_versions(run), "depth-distill")
    return f", depth-distill {version}" if version else ""


def _time(seconds: Any) -> str | None:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _short(class_path: Any) -> str:
    return class_path.rpartition(".")[2] if isinstance(class_path, str) else ""
