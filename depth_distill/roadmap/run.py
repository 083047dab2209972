"""Train and measure the rows of a plan one by one, and store every result."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import fx

from depth_distill import runs
from depth_distill.atomic import write_json
from depth_distill.codecs import HostCodec
from depth_distill.codecs.table_fit import fit_table
from depth_distill.errors import ConfigError, UserError
from depth_distill.evaluation import Evaluator, InterfaceScorer
from depth_distill.export.backends.runtime import OnnxFile
from depth_distill.export.backends.vendor_ptq import vendor_network
from depth_distill.export.bundle.decode_table import expected_codes
from depth_distill.export.bundle.steps import content_hash
from depth_distill.lightning_cli import DepthCLI, build_cli
from depth_distill.loading.trained import LoadedRun, load_run
from depth_distill.quantization.analysis.mixed_precision import megabytes, mixed_network, search_mixed_precision
from depth_distill.quantization.analysis.sensitivity import sensitivity
from depth_distill.quantization.passes.stress import find_sigma
from depth_distill.quantization.preparation import Prepared
from depth_distill.quantization.recipe import NAIVE, Recipe, load_recipe
from depth_distill.quantization.simulate.fake_quantize import fake_quantize
from depth_distill.quantization.simulate.npu_operators import npu_operators
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.substitutions import UNCONFIRMED
from depth_distill.quantization.target.target import NpuTarget, load_target
from depth_distill.roadmap.plan import Plan, RoadmapRow, slug
from depth_distill.roadmap.report import MEASURED, SUBSTITUTED

_FLOAT_BYTES = 4
_SEARCH_BATCHES = 2  # minimum for the search of mixed precision, evenly spaced in the validation split


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
        for of_teacher, teacher in teachers.items():
            measurements = _Measurements(teacher, self.plan, self.data_options)
            self.found["protocol"] = measurements.evaluator.protocol
            for name, ratio in self.plan.networks.items():
                several = [of_teacher] * bool(of_teacher) + [name] * (not of_teacher or len(self.plan.networks) > 1)
                self._run_network(", ".join(several), name, ratio, measurements, teacher)
        return self.found

    def _require_same_teachers(self) -> None:
        """Refuse to take a teacher that was trained with other options, before one is trained or goes on."""
        for name, more in self.plan.teachers.items():
            if not self._checkpoint_of(name):
                self._require_same(f"teacher {name}", dict(more), self.found.setdefault("teachers_made_with", {}))
        if "teachers_made_with" in self.found:
            write_json(self.file, self.found)

    def _run_network(
        self, title: str, name: str, ratio: float | None, measurements: "_Measurements", teacher: Path
    ) -> None:
        network = self.found["networks"].setdefault(title, {"sigma": None, "rows": {}})
        if ratio is not None and network["sigma"] is None:
            self.console.print(f"{title}: looking for the spread that makes naive PTQ {ratio:g} times worse")
            network["sigma"] = find_sigma(measurements.naive.graph, measurements.loss_ratio, ratio)
        for row in self.plan.rows:
            if row.networks is None or name in row.networks:
                self._fill(network, title, row, measurements, teacher)
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

    def _fill(
        self, network: dict[str, Any], name: str, row: RoadmapRow, measurements: "_Measurements", teacher: Path
    ) -> None:
        seeds = (row.seeds or self.plan.seeds) if row.kind == "distill" else [0]
        results = network["rows"].setdefault(row.name, {})
        made = {key: value for key, value in asdict(row).items() if key not in ("seeds", "networks", "planned")}
        if not row.decode_table:
            del made["decode_table"]
        recipe = load_recipe(row.recipe)
        made["recipe"] = f"{recipe}, {recipe.sha256[:8]}"  # a recipe may change under its name
        self._require_same(row.name, made, network.setdefault("rows_made_with", {}))
        for seed in seeds:
            if "abs_rel" in results.get(str(seed), {}):
                continue
            self.console.print(f"{name}: {row.name}" + (f", seed {seed}" if len(seeds) > 1 else ""))
            try:
                results[str(seed)] = self._measure(name, network["sigma"], row, seed, measurements, teacher)
            except UserError as error:
                results[str(seed)] = {"why_not": str(error)}
                self.console.print(f"  cannot run: {error}", style="yellow", soft_wrap=True)
            write_json(self.file, self.found)

    def _measure(
        self, name: str, sigma: float | None, row: RoadmapRow, seed: int, measurements: "_Measurements", teacher: Path
    ) -> dict[str, float]:
        if row.kind == "float":
            return measurements.float_row(NAIVE.stressed(sigma))
        recipe = load_recipe(row.recipe).stressed(sigma)
        if row.kind == "distill":
            folder = self.out / "runs" / slug(f"{name} {row.name} {seed}")
            quantizer = {"target": self.plan.target, "recipe": recipe.to_entries(), **row.fake_quant}
            options = {
                "seed_everything": seed,
                "model.init_args.teacher_checkpoint": str(teacher),
                "trainer.callbacks": [{"class_path": "FakeQuant", "init_args": quantizer}],
                **self.plan.options,
                **row.options,
            }
            options = {key: _filled(value, {"{teacher}": str(teacher.absolute())}) for key, value in options.items()}
            best = self._train(folder, self.plan.distill_config, options)
            summary = json.loads((folder / runs.SUMMARY_FILE).read_text())
            return measurements.student_row(load_run(best, overrides=self.data_options), float(summary["wall_s"]))
        if row.kind == "ptq":
            return measurements.ptq_row(recipe, row.decode_table)
        return measurements.mixed_row(recipe, row.reach, self.out / "unfinished" / slug(f"{name} {row.name}"))

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


class _Measurements:
    """Measures rows, with the images and the float network of the teacher."""

    def __init__(self, teacher: Path, plan: Plan, data_options: Sequence[str]) -> None:
        run = load_run(teacher, overrides=data_options)
        self.target = load_target(plan.target)
        self.substituting = None if plan.substituting is None else _both(self.target, load_target(plan.substituting))
        self.calibration = run.calibration_images(plan.calibration_images)
        self.prepare = run.preparer(self.target, self.calibration)
        self.naive = self.prepare(NAIVE)
        self.evaluator: Evaluator = run.evaluator(plan.images, reference=self.naive.reference)
        self.float_abs_rel = self.evaluator(self.naive.graph)["abs_rel"]

    def loss_ratio(self, graph: fx.GraphModule) -> float:
        """abs_rel after PTQ over that of FP32."""
        quantized = quantize_post_training(graph, self.target, self.calibration, progress=False)
        return self.evaluator(quantized)["abs_rel"] / self.float_abs_rel

    def float_row(self, recipe: Recipe) -> dict[str, float]:
        """Row of the float network."""
        graph = self.prepare(recipe).graph
        count = sum(parameter.numel() for parameter in graph.parameters())
        return _row(self.evaluator(graph), count * _FLOAT_BYTES / 1e6, 0.0) | {"float": 1.0}

    def ptq_row(self, recipe: Recipe, decode_table: bool) -> dict[str, float]:
        """Row of the teacher after a recipe and the tool chain's PTQ."""
        prepared = self.prepare(recipe)
        return self._vendor_row(prepared, prepared.seconds, decode_table)

    def student_row(self, student: LoadedRun, seconds: float) -> dict[str, float]:
        """Row of a trained student after the tool chain's PTQ; drift is relative to the teacher."""
        return self._vendor_row(student.preparer(self.target, self.calibration)(NAIVE), seconds)

    def mixed_row(self, recipe: Recipe, reach: float, unfinished: Path) -> dict[str, float]:
        """Row of the smallest mixed network within ``reach`` times FP32, by fake quantization.

        The search takes some hundred evaluations, so it uses a few images; the result is measured on all.
        """
        started = time.perf_counter()
        prepared = self.prepare(recipe)
        quantized, scorer = prepared.quantized, InterfaceScorer(self.evaluator, prepared.interface)
        batches = scorer.evaluator.batches
        fewer = Evaluator(batches[:: max(1, len(batches) // _SEARCH_BATCHES)], scorer.evaluator.codec)
        few = InterfaceScorer(fewer, prepared.interface)
        found = search_mixed_precision(
            quantized,
            few,
            sensitivity(quantized, few, resume=unfinished),
            prepared.batches,
            reach * few(prepared.graph)["abs_rel"],
            calibrator=self.target.calibrator,
        )
        layers, calibrator = found.chosen.layers, self.target.calibrator
        metrics = scorer(mixed_network(quantized, layers, prepared.batches, calibrator=calibrator))
        row = _row(metrics, found.chosen.megabytes, time.perf_counter() - started)
        return row | {"high_precision_layers": float(len(layers))}

    def _vendor_row(self, prepared: Prepared, seconds: float, decode_table: bool = False) -> dict[str, float]:
        metrics = self._after_vendor(prepared, self.target.substitutions, decode_table)
        size_mb = megabytes(npu_operators(fake_quantize(prepared.graph, self.target)), [])
        row = _row(metrics, size_mb, seconds)
        if self.substituting is not None:
            other = self._after_vendor(prepared, self.substituting, decode_table)
            row |= {SUBSTITUTED: other["abs_rel"], "substituted_drift_mm": other["drift_mm"]}
        return row

    def _after_vendor(
        self, prepared: Prepared, substitutions: Mapping[str, str], decode_table: bool
    ) -> dict[str, float]:
        """Metrics after the PTQ of a tool chain that makes some substitutions."""
        interface = prepared.interface
        names = interface.outputs.names
        with tempfile.TemporaryDirectory() as folder:
            network = vendor_network(
                prepared.graph, prepared.batches, Path(folder), output_names=names, substitutions=substitutions
            )
            if decode_table:
                interface = replace(interface, codec=self._behind_table(prepared, network))
            return InterfaceScorer(self.evaluator, interface)(network)

    def _behind_table(self, prepared: Prepared, network: OnnxFile) -> HostCodec:
        """The codec behind a table from what the tool chain's network says on the calibration images, if that helps."""
        codes = prepared.interface.outputs.codes
        with torch.inference_mode():
            device = torch.cat([codes(network(batch)).cpu() for batch in prepared.batches]).numpy()
        expected = expected_codes(prepared, self.evaluator.codec.host)
        fit = fit_table(prepared.interface.codec, device, expected)
        return fit.codec if fit.helps else prepared.interface.codec


def _both(target: NpuTarget, other: NpuTarget) -> dict[str, str]:
    """What is computed in place of operators where the other profile has a word, and elsewhere the target."""
    told = {operator: by for operator, by in other.substitutions.items() if by != UNCONFIRMED}
    return {**target.substitutions, **told}


def _row(metrics: Mapping[str, float], size_mb: float, seconds: float) -> dict[str, float]:
    kept = {name: metrics[name] for name in MEASURED if name in metrics}
    return {**kept, "megabytes": size_mb, "seconds": seconds}


def _filled(value: Any, replacements: Mapping[str, str]) -> Any:
    """A value in which every placeholder is replaced."""
    if isinstance(value, Mapping):
        return {key: _filled(item, replacements) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, replacements) for item in value]
    return replacements.get(value, value) if isinstance(value, str) else value


def _as_yaml(value: Any) -> str:
    """Value of a command-line option, as YAML."""
    return value if isinstance(value, str) else json.dumps(value)
