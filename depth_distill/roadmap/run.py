"""Train and measure the rows of a plan, one after the other, and keep every result."""

import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, fx

from depth_distill.atomic import write_json
from depth_distill.errors import ConfigError, UserError
from depth_distill.evaluation import Evaluator, InterfaceScorer
from depth_distill.export.backends.vendor_ptq import vendor_network
from depth_distill.lightning_cli import DepthCLI, build_cli
from depth_distill.loading.trained import LoadedRun, load_run
from depth_distill.quantization.analysis.mixed_precision import megabytes, mixed_network, search_mixed_precision
from depth_distill.quantization.analysis.sensitivity import sensitivity
from depth_distill.quantization.passes.stress import find_sigma
from depth_distill.quantization.recipe import NAIVE, Prepared, Recipe, load_recipe
from depth_distill.quantization.simulate.fake_quantize import fake_quantize
from depth_distill.quantization.simulate.npu_operators import npu_operators
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target
from depth_distill.roadmap.plan import Plan, Row
from depth_distill.roadmap.report import MEASURED

_FLOAT_BYTES = 4
_SEARCH_BATCHES = 2  # at least, evenly spread over the validation split: for the search of mixed precision


class Roadmap:
    """Measures what is missing of a plan, and keeps every result in ``roadmap.json`` as soon as it is there.

    Args:
        plan: what to do.
        out: folder of trainings and results; a roadmap that was interrupted goes on from there, in mid-training too.
        data_options: options that point configs at data, such as ``--data.root DIR``, for teacher and students.
        console: where progress goes.
    """

    def __init__(self, plan: Plan, out: Path, data_options: Sequence[str], console: Console) -> None:
        self.plan, self.out, self.data_options, self.console = plan, out, list(data_options), console
        self.file = out / "roadmap.json"
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {"networks": {}}

    def run(self) -> dict[str, Any]:
        """Train and measure; a row that cannot run keeps the reason in place of numbers."""
        teacher = Path(self.plan.teacher_checkpoint or self._train(self.out / "teacher", self.plan.teacher_config))
        self._require_same("made_with", self._made_with(teacher), self.found)
        bench = _Measurements(teacher, self.plan, self.data_options)
        for name, ratio in self.plan.networks.items():
            network = self.found["networks"].setdefault(name, {"sigma": None, "rows": {}})
            self.found["protocol"] = bench.evaluator.protocol
            if ratio is not None and network["sigma"] is None:
                self.console.print(f"{name}: looking for the spread that makes naive PTQ {ratio:g} times worse")
                network["sigma"] = find_sigma(bench.naive.graph, bench.loss_ratio, ratio)
            for row in self.plan.rows:
                if row.networks is None or name in row.networks:
                    self._fill(network, name, row, bench, teacher)
            network["rows"] = {
                row.name: network["rows"][row.name] for row in self.plan.rows if row.name in network["rows"]
            }
            write_json(self.file, self.found)
        return self.found

    def _made_with(self, teacher: Path) -> dict[str, Any]:
        shared = {key: value for key, value in asdict(self.plan).items() if key not in ("rows", "networks", "seeds")}
        return shared | {"teacher_checkpoint": str(teacher.absolute()), "data_options": self.data_options}

    def _require_same(self, name: str, made: dict[str, Any], kept: dict[str, Any]) -> None:
        """Refuse to mix results of different settings under one name."""
        made = json.loads(json.dumps(made))
        before = kept.setdefault(name, made)
        for key in before.keys() | made.keys():
            if before.get(key) != made.get(key):
                raise ConfigError(
                    f"{self.file}: {name} was made with {key} {before.get(key)!r}, and now it is {made.get(key)!r}: "
                    "choose another --out, or delete what is there"
                )

    def _fill(self, network: dict[str, Any], name: str, row: Row, bench: "_Measurements", teacher: Path) -> None:
        seeds = (row.seeds or self.plan.seeds) if row.kind == "distill" else [0]
        results = network["rows"].setdefault(row.name, {})
        made = {key: value for key, value in asdict(row).items() if key not in ("seeds", "networks")}
        recipe = load_recipe(row.recipe)
        made["recipe"] = f"{recipe}, {recipe.sha256[:8]}"  # a recipe may change under its name
        self._require_same(row.name, made, network.setdefault("rows_made_with", {}))
        for seed in seeds:
            if "abs_rel" in results.get(str(seed), {}):
                continue
            self.console.print(f"{name}: {row.name}" + (f", seed {seed}" if len(seeds) > 1 else ""))
            try:
                results[str(seed)] = self._measure(name, network["sigma"], row, seed, bench, teacher)
            except UserError as error:
                results[str(seed)] = {"why_not": str(error)}
                self.console.print(f"  cannot run: {error}", style="yellow", soft_wrap=True)
            write_json(self.file, self.found)

    def _measure(
        self, name: str, sigma: float | None, row: Row, seed: int, bench: "_Measurements", teacher: Path
    ) -> dict[str, float]:
        if row.kind == "float":
            return bench.float_row(NAIVE.stressed(sigma))
        recipe = load_recipe(row.recipe).stressed(sigma)
        if row.kind == "distill":
            folder = self.out / "runs" / _slug(f"{name} {row.name} {seed}")
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
            summary = json.loads((folder / "summary.json").read_text())
            return bench.student_row(load_run(best, overrides=self.data_options), float(summary["wall_s"]))
        if row.kind == "ptq":
            return bench.ptq_row(recipe)
        return bench.mixed_row(recipe, row.reach, self.out / "unfinished" / _slug(f"{name} {row.name}"))

    def _train(self, folder: Path, config: str, options: Mapping[str, Any] | None = None) -> Path:
        """Fit, or go on where it was interrupted; returns the best checkpoint."""
        summary, last = folder / "summary.json", folder / "checkpoints" / "last.ckpt"
        done = folder / "finished"
        if not done.is_file():
            words = ["fit", "--config", config, "--run_dir", str(folder), *self.data_options]
            words += [f"--{key}={_word(value)}" for key, value in (options or self.plan.teacher_options).items()]
            if last.is_file():
                self.console.print(f"  going on from {last}", soft_wrap=True)
                words += ["--ckpt_path", str(last)]
            build_cli(DepthCLI, words, run=True)
            done.touch()
        return Path(json.loads(summary.read_text())["best_checkpoint"])


class _Measurements:
    """Measures rows on the teacher: its images, its float network, and the tool chain."""

    def __init__(self, teacher: Path, plan: Plan, data_options: Sequence[str]) -> None:
        run = load_run(teacher, overrides=data_options)
        self.target = load_target(plan.target)
        self.calibration: list[Tensor] = run.calibration_images(plan.calibration_images)
        self.prepare = run.preparer(self.target, self.calibration)
        self.naive = self.prepare(NAIVE)
        self.evaluator: Evaluator = run.evaluator(plan.images, reference=self.naive.reference)
        self.float_abs_rel = self.evaluator(self.naive.graph)["abs_rel"]

    def loss_ratio(self, graph: fx.GraphModule) -> float:
        """abs_rel after naive PTQ over that of FP32."""
        quantized = quantize_post_training(graph, self.target, self.calibration, progress=False)
        return self.evaluator(quantized)["abs_rel"] / self.float_abs_rel

    def float_row(self, recipe: Recipe) -> dict[str, float]:
        """The float network."""
        graph = self.prepare(recipe).graph
        count = sum(parameter.numel() for parameter in graph.parameters())
        return _row(self.evaluator(graph), count * _FLOAT_BYTES / 1e6, 0.0) | {"float": 1.0}

    def ptq_row(self, recipe: Recipe) -> dict[str, float]:
        """What the tool chain makes of the teacher behind a recipe."""
        prepared = self.prepare(recipe)
        return self._vendor_row(prepared, prepared.seconds)

    def student_row(self, student: LoadedRun, seconds: float) -> dict[str, float]:
        """What the tool chain makes of a student as it was trained; drift is from the teacher."""
        return self._vendor_row(student.preparer(self.target, self.calibration)(NAIVE), seconds)

    def mixed_row(self, recipe: Recipe, reach: float, unfinished: Path) -> dict[str, float]:
        """The smallest mixed network that is within reach of FP32, by fake quantization: no tool chain here does it.

        It is searched on a few images, because that takes some hundred evaluations, and measured on all.
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

    def _vendor_row(self, prepared: Prepared, seconds: float) -> dict[str, float]:
        scorer = InterfaceScorer(self.evaluator, prepared.interface)
        with tempfile.TemporaryDirectory() as folder:
            metrics = scorer(vendor_network(prepared.graph, prepared.batches, Path(folder)))
        size_mb = megabytes(npu_operators(fake_quantize(prepared.graph, self.target)), [])
        return _row(metrics, size_mb, seconds)


def _row(metrics: Mapping[str, float], size_mb: float, seconds: float) -> dict[str, float]:
    kept = {name: metrics[name] for name in MEASURED if name in metrics}
    return {**kept, "megabytes": size_mb, "seconds": seconds}


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    """A value with every placeholder in it replaced."""
    if isinstance(value, Mapping):
        return {key: _filled(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, words) for item in value]
    return words.get(value, value) if isinstance(value, str) else value


def _word(value: Any) -> str:
    """An option's value as the command line reads it: YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
