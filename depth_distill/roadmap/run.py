"""Train and measure the rows of a plan one by one, and store every result."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from depth_distill import runs
from depth_distill.atomic import write_json
from depth_distill.errors import ConfigError, UserError
from depth_distill.export.bundle.steps import content_hash
from depth_distill.lightning_cli import DepthCLI, build_cli
from depth_distill.loading.run_config import read_config
from depth_distill.loading.trained import config_of, load_run
from depth_distill.quantization.passes.stress import find_sigma
from depth_distill.quantization.recipe import NAIVE, load_recipe
from depth_distill.quantization.target.target import load_target
from depth_distill.roadmap.measurements import Measurements
from depth_distill.roadmap.plan import Plan, RoadmapRow, slug


@dataclass(frozen=True)
class _Teacher:
    """A teacher, and what its rows need.

    Attributes:
        checkpoint: checkpoint of the teacher.
        measurements: measures rows against it.
        student_options: options of its students that come from the teacher's.
    """

    checkpoint: Path
    measurements: Measurements
    student_options: Mapping[str, Any]


class Roadmap:
    """Measures the missing results of a plan, and stores each in ``roadmap.json`` at once.

    Args:
        plan: plan to run.
        out: folder of trainings and results; an interrupted roadmap continues from there, even within a training.
        data_options: command-line options for the data of teacher and students, such as ``--data.root DIR``.
        console: console for progress.
    """

    def __init__(self, plan: Plan, out: Path, data_options: Sequence[str], console: Console) -> None:
        self.plan, self.out, self.data_options, self.console = plan, out, list(data_options), console
        self.file = out / runs.ROADMAP_FILE
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {"networks": {}}

    def run(self) -> dict[str, Any]:
        """Train and measure; for a row that cannot run, the reason is stored instead of numbers."""
        self._require_same_teachers()
        teachers = {
            name: Path(self._checkpoint_of(name) or self._train_teacher(name, more))
            for name, more in (self.plan.teachers or {"": {}}).items()
        }
        self._require_same("made_with", self._made_with(teachers), self.found)
        if self.plan.planned_float is not None:
            planned = {row.name: row.planned for row in self.plan.rows if row.planned is not None}
            self.found["planned"] = {name: value / self.plan.planned_float for name, value in planned.items()}
        for of_teacher, checkpoint in teachers.items():
            measurements = Measurements(checkpoint, self.plan, self.data_options)
            teacher = _Teacher(checkpoint, measurements, _shared_with_students(self.plan.teachers.get(of_teacher, {})))
            self.found["protocol"] = measurements.protocol
            for name, ratio in self.plan.networks.items():
                several = [of_teacher] * bool(of_teacher) + [name] * (not of_teacher or len(self.plan.networks) > 1)
                self._run_network(", ".join(several), name, ratio, teacher)
        return self.found

    def _require_same_teachers(self) -> None:
        """Refuse to take a teacher that was trained with other options, before one is trained or goes on."""
        for name, more in self.plan.teachers.items():
            if not self._checkpoint_of(name):
                self._require_same(f"teacher {name}", dict(more), self.found.setdefault("teachers_made_with", {}))
        if "teachers_made_with" in self.found:
            write_json(self.file, self.found)

    def _run_network(self, title: str, name: str, ratio: float | None, teacher: _Teacher) -> None:
        network = self.found["networks"].setdefault(title, {"sigma": None, "rows": {}})
        if ratio is not None and network["sigma"] is None:
            self.console.print(f"{title}: looking for the spread that makes naive PTQ {ratio:g} times worse")
            network["sigma"] = find_sigma(teacher.measurements.naive.graph, teacher.measurements.loss_ratio, ratio)
        for row in self.plan.rows:
            if row.networks is None or name in row.networks:
                self._fill(network, title, row, teacher)
        network["rows"] = {row.name: network["rows"][row.name] for row in self.plan.rows if row.name in network["rows"]}
        write_json(self.file, self.found)

    def _checkpoint_of(self, teacher: str) -> str | None:
        return self.plan.teacher_checkpoints.get(teacher) if teacher else self.plan.teacher_checkpoint

    def _teacher_folder(self, teacher: str) -> Path:
        return self.out / "teachers" / slug(teacher) if teacher else self.out / "teacher"

    def _train_teacher(self, teacher: str, options: Mapping[str, Any]) -> Path:
        return self._train(
            self._teacher_folder(teacher), self.plan.teacher_config, {**self.plan.teacher_options, **options}
        )

    def _made_with(self, teachers: Mapping[str, Path]) -> dict[str, Any]:
        left_out = ("rows", "networks", "seeds", "teachers", "teacher_checkpoints", "planned_float")
        shared = {key: value for key, value in asdict(self.plan).items() if key not in left_out}
        places = {name: str(path.absolute()) for name, path in teachers.items()}
        # Profiles may change under their name.
        options: dict[str, Any] = {
            "data_options": self.data_options,
            "profile": content_hash(load_target(self.plan.target).to_dict()),
        }
        if self.plan.substituting is None:
            del shared["substituting"]
        else:
            options["substituting_profile"] = content_hash(load_target(self.plan.substituting).to_dict())
        return shared | {"teacher_checkpoint": places.get("", places)} | options

    def _require_same(self, name: str, made: dict[str, Any], kept: dict[str, Any]) -> None:
        """Refuse to mix results of different settings in one folder."""
        made = json.loads(json.dumps(made))
        before = kept.setdefault(name, made)
        for key in before.keys() | made.keys():
            if before.get(key) != made.get(key):
                raise ConfigError(
                    f"{self.file}: {name} was made with {key} {before.get(key)!r}, but now {key} is {made.get(key)!r}: "
                    "choose another --out, or delete that folder"
                )

    def _fill(self, network: dict[str, Any], name: str, row: RoadmapRow, teacher: _Teacher) -> None:
        seeds = (row.seeds or self.plan.seeds) if row.kind == "distill" else [0]
        results = network["rows"].setdefault(row.name, {})
        made = {key: value for key, value in asdict(row).items() if key not in ("seeds", "networks", "planned")}
        if not row.decode_table:
            del made["decode_table"]
        made |= {"recipe": _identity(row.recipe), "then": _identity(row.then)}
        if row.then == "naive":
            del made["then"]
        if row.kind == "distill" and teacher.student_options:
            made["of_teacher"] = dict(teacher.student_options)
        self._require_same(row.name, made, network.setdefault("rows_made_with", {}))
        for seed in seeds:
            if "abs_rel" in results.get(str(seed), {}):
                continue
            self.console.print(f"{name}: {row.name}" + (f", seed {seed}" if len(seeds) > 1 else ""))
            try:
                results[str(seed)] = self._measure(name, network["sigma"], row, seed, teacher)
            except UserError as error:
                results[str(seed)] = {"why_not": str(error)}
                self.console.print(f"  cannot run: {error}", style="yellow", soft_wrap=True)
            write_json(self.file, self.found)

    def _measure(
        self, name: str, sigma: float | None, row: RoadmapRow, seed: int, teacher: _Teacher
    ) -> dict[str, float]:
        if row.kind == "float":
            return teacher.measurements.float_row(NAIVE.stressed(sigma))
        recipe = load_recipe(row.recipe).stressed(sigma)
        if row.kind == "distill":
            folder = self.out / "runs" / slug(f"{name} {row.name} {seed}")
            quantizer = {"target": self.plan.target, "recipe": recipe.to_entries(), **row.fake_quant}
            options = {
                **teacher.student_options,
                "seed_everything": seed,
                "model.init_args.teacher_checkpoint": str(teacher.checkpoint),
                "trainer.callbacks": [{"class_path": "FakeQuant", "init_args": quantizer}],
                **self.plan.options,
                **row.options,
            }
            known = _placeholders(teacher.checkpoint, self.data_options)
            options = {key: _filled(value, known) for key, value in options.items()}
            best = self._train(folder, self.plan.distill_config, options)
            summary = json.loads((folder / runs.SUMMARY_FILE).read_text())
            trained = load_run(best, overrides=self.data_options)
            return teacher.measurements.student_row(trained, load_recipe(row.then), float(summary["wall_s"]))
        if row.kind == "ptq":
            return teacher.measurements.ptq_row(recipe, row.decode_table)
        return teacher.measurements.mixed_row(recipe, row.reach, self.out / "unfinished" / slug(f"{name} {row.name}"))

    def _train(self, folder: Path, config: str, options: Mapping[str, Any] | None = None) -> Path:
        """Fit, or continue an interrupted training; returns the best checkpoint."""
        summary, last = folder / runs.SUMMARY_FILE, folder / "checkpoints" / "last.ckpt"
        done = folder / "finished"
        if not done.is_file():
            argv = ["fit", "--config", config, "--run_dir", str(folder), *self.data_options]
            argv += [f"--{key}={_as_yaml(value)}" for key, value in (options or {}).items()]
            if last.is_file():
                self.console.print(f"  continuing from {last}", soft_wrap=True)
                argv += ["--ckpt_path", str(last)]
            build_cli(DepthCLI, argv, run=True)
            done.touch()
        return Path(json.loads(summary.read_text())["best_checkpoint"])


def _identity(recipe: Any) -> str:
    """A recipe with its content, which may change under its name."""
    loaded = load_recipe(recipe)
    return f"{loaded}, {loaded.sha256[:8]}"


def _shared_with_students(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a teacher that its students have, too: those of the network, without its weights, and the data."""
    kept = ("model.init_args.network", "data.")
    return {key: value for key, value in options.items() if key.startswith(kept) and not key.endswith(".weights")}


def _placeholders(teacher: Path, data_options: Sequence[str]) -> dict[str, Any]:
    """What rows may say in braces, and what it means with a teacher and with data."""
    config = read_config(config_of(teacher))
    given = runs.option_values(data_options, "--data.root")
    return {
        "{teacher}": str(teacher.absolute()),
        "{teacher_network}": config["model"]["init_args"]["network"],
        "{data_root}": given[-1] if given else config["data"].get("root"),
    }


def _filled(value: Any, replacements: Mapping[str, Any]) -> Any:
    """A value in which every placeholder is replaced."""
    if isinstance(value, Mapping):
        return {key: _filled(item, replacements) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, replacements) for item in value]
    return replacements.get(value, value) if isinstance(value, str) else value


def _as_yaml(value: Any) -> str:
    """Value of a command-line option, as YAML."""
    return value if isinstance(value, str) else json.dumps(value)
