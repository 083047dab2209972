r"""What happens to networks of other people, family by family: import, fold, equalize, pinned layers, INT8.

    python tools/benchmarks/any_network.py --images PHOTOS --out benchmarks/any_network --only 'SMP|YOLO'

Each network is measured in a process of its own, on random weights with batch-norm statistics of the images. A module
is traced; where it cannot be, its ONNX file is imported. Columns:

* import, fold, equalize: largest difference of an output from the network itself (the module, or ONNX Runtime on the
  file) over its largest value, in FP32;
* pinned: layers whose channels cannot be rescaled, of all layers with a weight;
* naive, hardened: deviation from FP32 in INT8 as ``depth-distill harden`` measures it on held-out images, of the
  untouched and of the returned ONNX file.

A stage that does not work is a "no", with its reason. Writes ``any_network.json``, after every network, and
``any_network.md``. What stands in the JSON already is not measured again: delete it to start afresh. Networks of
packages that are not installed are said to be skipped.
"""

import argparse
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from rich.console import Console
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depth_distill.display.console import plain_console

sys.path.append(str(Path(__file__).parent))  # the list of networks, and those of them that are code of this folder

from any_network_entries import Entry, Tensors, entries

from depth_distill.atomic import atomic_path, write_json
from depth_distill.data.network_inputs import NetworkInputs, PixelFormat
from depth_distill.errors import ConfigError, UserError
from depth_distill.exit_codes import exit_code
from depth_distill.export.backends.runtime import OnnxFile
from depth_distill.export.bundle.steps import content_hash
from depth_distill.export.harden.hardening import harden
from depth_distill.export.harden.outcome import HardenOptions
from depth_distill.loading.onnx_importer import ImportedOnnx, import_onnx
from depth_distill.quantization.graph.channel_groups import channel_groups
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.equalize import channel_ranges, equalize
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.recipe import load_recipe
from depth_distill.quantization.target.target import load_target

SAME = 1e-4
"""A stage whose output differs by more of its largest value is a "no"."""
STAGES = ("import", "fold", "equalize")
_CALIBRATION, _HELD_OUT, _COMPARED = 8, 4, 2
_STEPS = 25  # of the equalization that is compared in FP32: any scales have to leave the function alone
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_OPSET = 17  # of files of networks that are given as modules
_WORDS = 150  # letters of a reason
_REASONS = (
    r".*\((.+)\).*",
    r"read by (?:.*\.)?(\w+?)(?:_\d+)?, not .*",
    r"\S+ ((?:adds|multiplies|concatenates) .*)",
)

Run = Callable[[Tensor], Sequence[Tensor]]
"""Every output of a network for one image."""


@dataclass
class Row:
    """What was found for one network.

    Attributes:
        name: name of the entry.
        group: heading.
        way: how the network came in.
        differences: largest relative difference by stage.
        layers: number of layers with a weight.
        pinned: number of these whose channels cannot be rescaled.
        pinned_by: the most frequent reasons.
        naive: relative deviation of the untouched network in INT8.
        hardened: the same of the file that is returned.
        recipe: what was done to that file.
        judge: whose INT8 it is.
        seconds: time of everything.
        reasons: why a stage is a "no", by stage.
        skipped: package that is missing.
        made_with: target and recipe that were asked for; a row of others is measured again.
    """

    name: str
    group: str
    way: str = ""
    differences: dict[str, float] = field(default_factory=dict)
    layers: int = 0
    pinned: int = 0
    pinned_by: list[str] = field(default_factory=list)
    naive: float | None = None
    hardened: float | None = None
    recipe: str = ""
    judge: str = ""
    seconds: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)
    skipped: str = ""
    made_with: str = ""

    @property
    def without_int8(self) -> bool:
        """Whether INT8 was left out."""
        return bool(self.way) and not self.judge and not {"harden", "export", "run"} & set(self.reasons)


@dataclass(frozen=True)
class Settings:
    """What every network is hardened with.

    Attributes:
        target: name of the NPU profile.
        recipe: recipe as ``depth-distill harden --recipe`` takes it; None to leave INT8 out.
    """

    target: str = "per-tensor-minmax"
    recipe: str | None = "auto"


def measure(entry: Entry, images: Path, folder: Path, settings: Settings = Settings()) -> Row:
    """All stages of one network; one that fails leaves its reason, and the others run where they can.

    Args:
        entry: the network.
        images: folder of pictures.
        folder: folder for its files.
        settings: how it is hardened.
    """
    row, started = Row(entry.name, entry.group), time.perf_counter()
    if entry.missing:
        row.skipped = entry.missing
        return row
    torch.manual_seed(0)
    try:
        _measure(entry, images, folder, settings, row)
    except Exception as error:  # whatever a network of somebody's raises: it becomes the reason
        row.reasons["import" if not row.way else "run"] = _reason(error)
    row.seconds = time.perf_counter() - started
    return row


def _measure(entry: Entry, images: Path, folder: Path, settings: Settings, row: Row) -> None:
    built = entry.build()
    if isinstance(built, Path):
        file, module = with_random_weights(built, images, folder / "network.onnx"), None
    else:
        module = Tensors(built).eval()
        batches = _images(images, (3, *entry.size))
        settle(module, torch.cat(batches[:4]))
        file = folder / "network.onnx"
        try:
            export(module, batches[0], file, entry.opset or _OPSET, entry.exporter)
        except Exception as error:  # whatever an exporter of torch raises
            if entry.is_file:
                raise
            row.reasons["export"] = _reason(error)
    if module is None or entry.is_file:
        imported = import_onnx(file)
        row.way, graph = "ONNX file", imported.graph
        batches = _images(images, imported.inputs[0].shape[1:])
        reference = _of_file(file)
    else:
        reference = module
        graph = _way_in(module, batches, file, row)
    _stages(graph, reference, batches, row)
    if file.exists() and settings.recipe is not None:
        _harden(file, images, folder, settings, row)


def _way_in(module: nn.Module, batches: list[Tensor], file: Path, row: Row) -> fx.GraphModule:
    """The traced module; where it cannot be traced, its ONNX file as a graph."""
    try:
        graph = trace(module)
        difference = _difference(module, graph, batches)
        if difference > SAME:
            raise ConfigError(f"the traced network differs by {difference:.1g}")
    except UserError as error:
        row.reasons["trace"] = _reason(error).removeprefix(f"{type(module).__name__} ")
        if not file.exists():
            raise
        graph = import_onnx(file).graph
        row.way = "through ONNX"
    else:
        row.way = "traced"
    return graph


def _stages(graph: fx.GraphModule, reference: Run, batches: list[Tensor], row: Row) -> None:
    calibration = batches[:_CALIBRATION]

    def folded() -> fx.GraphModule:
        return fold(graph)

    def equalized() -> fx.GraphModule:
        plain = fold(graph)
        _count_pinned(plain, row)
        return equalize(plain, channel_ranges(plain, calibration), _STEPS).graph_module

    for stage, made in zip(STAGES, (lambda: graph, folded, equalized), strict=True):
        try:
            row.differences[stage] = _difference(reference, made(), batches)
        except Exception as error:  # a row tells what happened, whatever it is
            row.reasons[stage] = _reason(error)
            continue
        if not row.differences[stage] <= SAME:
            row.reasons[stage] = "computes something else"


def _count_pinned(graph: fx.GraphModule, row: Row) -> None:
    groups = channel_groups(graph)
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    modules = {name: each for name, each in graph.named_modules() if name in called and isinstance(each, _LAYERS)}
    why = {
        name: groups.pinned.get(name) or ("" if name in groups.layers else f"is a {type(module).__name__}")
        for name, module in modules.items()
    }
    reasons = [each for each in why.values() if each]
    row.layers, row.pinned = len(modules), len(reasons)
    row.pinned_by = [f"{count} x {each}" for each, count in Counter(map(_kind, reasons)).most_common(3)]


def _kind(reason: str) -> str:
    """A reason without names of layers and nodes: the class or the name of the operator, or what it does."""
    for pattern in _REASONS:
        found = re.fullmatch(pattern, reason)
        if found:
            return found.group(1)
    return reason


def _harden(file: Path, images: Path, folder: Path, settings: Settings, row: Row) -> None:
    assert settings.recipe is not None
    options = HardenOptions(
        source=file,
        images=images,
        out=folder / "hardened.onnx",
        recipe=load_recipe(settings.recipe),
        effort="fast",
        calibration_images=_CALIBRATION,
        held_out=_HELD_OUT,
    )
    try:
        found, _ = harden(options, load_target(settings.target), plain_console(file=StringIO()))
    except Exception as error:  # a row tells what happened, whatever it is
        row.reasons["harden"] = _reason(error)
        return
    verdict = found.verdict
    row.judge, row.hardened = verdict.judge, verdict.after.relative
    row.naive = None if verdict.before is None else verdict.before.relative
    row.recipe = " + ".join(each.name for each in verdict.recipe.passes) if verdict.hardened else "untouched"
    if verdict.notes:
        row.reasons["harden"] = _cut(verdict.notes[0])


def settle(module: nn.Module, images: Tensor) -> None:
    """Random weights that a network could have: uneven channels, and batch norms with statistics of ``images``.

    Factors that start at almost zero (layer scale) are drawn, too: with them, blocks would do nothing.
    """
    norms = [each for each in module.modules() if isinstance(each, _BatchNorm)]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.rsplit(".", 1)[-1] in ("gamma", "lambda1", "ls", "gamma_1") or "layer_scale" in name:
                parameter.uniform_(0.2, 0.6)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches, here of one
            if norm.affine:
                norm.weight.copy_(torch.randn_like(norm.weight).mul_(0.4).exp_())
                norm.bias.normal_(1.0, 0.3)  # most values pass a ReLU: around 0, rounding grows by a fifth per layer
            norm.train()
        if norms:
            module(images)
    module.eval()


def with_random_weights(file: Path, images: Path, path: Path) -> Path:
    """A copy of an ONNX file with weights drawn at random, for files that ship with one constant in all of them."""
    imported = import_onnx(file, verify=False)
    graph = imported.graph
    for module in graph.modules():
        if isinstance(module, _LAYERS):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
    batches = _images(images, imported.inputs[0].shape[1:])
    settle(graph, torch.cat(batches[: 4 if imported.any_batch else 1]))
    onnx.save(_with_values(imported, graph), path)
    return path


def _with_values(imported: ImportedOnnx, graph: fx.GraphModule) -> onnx.ModelProto:
    """The imported file with weights and statistics of its own graph."""
    model = imported.model
    writers = {name: node for node in model.graph.node for name in node.output}
    for path, tensor in imported.written.items():
        module, node = graph.get_submodule(path), writers[tensor]
        values: list[Tensor | None] = []
        if isinstance(module, _BatchNorm) and node.op_type == "BatchNormalization":
            values = [module.weight, module.bias, module.running_mean, module.running_var]
        elif isinstance(module, _LAYERS) and node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            transposed = any(each.name == "transB" and each.i for each in node.attribute)
            turned = node.op_type == "Gemm" and not transposed
            values = [module.weight.T if turned else module.weight, module.bias]
        for place, value in enumerate(values, start=1):
            if value is not None and place < len(node.input):
                name = f"{tensor}_value_{place}"
                array = np.ascontiguousarray(value.detach().numpy())
                model.graph.initializer.append(numpy_helper.from_array(array, name))
                node.input[place] = name
    return model


def export(module: nn.Module, image: Tensor, file: Path, opset: int, exporter: str) -> None:
    """Write a module as its owner would, with one of torch's exporters."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        more: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
        torch.onnx.export(
            module,
            (image,),
            file,
            opset_version=opset,
            input_names=["image"],
            **(more if exporter == "dynamo" else {"dynamo": False}),
        )


def _images(folder: Path, shape: Sequence[int]) -> list[Tensor]:
    """Calibration images and those to compare on, with a batch of 1."""
    inputs = NetworkInputs(folder, tuple(shape), "image", PixelFormat.named("imagenet"), "stretch")
    count = min(len(inputs), _CALIBRATION + _COMPARED)
    return [inputs.load(index)[None] for index in range(count)]


def _of_file(file: Path) -> Run:
    session = OnnxFile(file)
    return lambda image: list(session(image).values())


def _difference(reference: Run, network: Run, batches: list[Tensor]) -> float:
    """Largest difference of an output over its largest value; infinite where shapes or NaN differ."""
    largest = 0.0
    with torch.inference_mode():
        for image in batches[-_COMPARED:]:
            expected, received = reference(image), network(image)
            received = [received] if isinstance(received, Tensor) else received
            for one, other in zip(expected, received, strict=True):
                if one.shape != other.shape:
                    return float("inf")
                scale = float(one.abs().max()) or 1.0
                largest = max(largest, float((one - other).abs().max().nan_to_num(nan=float("inf"))) / scale)
    return largest


def _reason(error: BaseException) -> str:
    lines = [each.strip() for each in str(error).splitlines() if each.strip()]
    text = lines[0] if lines else ""
    return _cut(text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")


def _cut(text: str) -> str:
    """A reason of one line, without paths of this machine."""
    text = re.sub(r"(/[\w.+-]+)+/", "", text)
    return text if len(text) <= _WORDS else f"{text[: _WORDS - 3]}..."


def markdown(rows: Sequence[Row]) -> str:
    """One table per group, and below it the reasons."""
    lines: list[str] = []
    for group in dict.fromkeys(each.group for each in rows):
        mine = [each for each in rows if each.group == group]
        lines += [f"### {group}", ""]
        lines += ["| network | way in | import | fold | equalize | pinned | naive | hardened | by | s |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |"]
        lines += [f"| {' | '.join(_cells(each))} |" for each in mine]
        notes = [f"- {each.name}: {note}" for each in mine for note in _notes(each)]
        lines += ["", *notes, ""]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    if row.skipped:
        return [row.name, f"skipped: no package {row.skipped}", *[""] * 8]
    stages = [_stage(row, stage) for stage in STAGES]
    pinned = f"{row.pinned} / {row.layers}" if row.layers else ""
    absent = "not run" if row.without_int8 else "no"
    int8 = [absent if each is None else _percent(each) for each in (row.naive, row.hardened)]
    return [row.name, row.way or "no", *stages, pinned, *int8, row.recipe, f"{row.seconds:.0f}"]


def _stage(row: Row, stage: str) -> str:
    value = row.differences.get(stage)
    if value is None:
        return "no"
    return f"no ({value:.0e})" if stage in row.reasons else f"{value:.0e}"


def _percent(relative: float) -> str:
    return f"{100 * relative:.2g} %" if relative < float("inf") else "NaN"


def _notes(row: Row) -> list[str]:
    pinned = [f"pinned by {', '.join(row.pinned_by)}"] if row.pinned_by else []
    return [*(f"{stage}: {reason}" for stage, reason in row.reasons.items()), *pinned]


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures; 12 are enough")
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON and Markdown")
    parser.add_argument("--only", default="", metavar="REGEX", help="networks whose group or name this is found in")
    parser.add_argument("--target", default="per-tensor-minmax", help="name of an NPU profile, or its .yaml file")
    parser.add_argument("--recipe", default="auto", help="passes to harden with, as depth-distill harden takes them")
    parser.add_argument("--float-only", action="store_true", help="leave INT8 out; a later run without this adds it")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one network")
    options = parser.parse_args(args)
    return exit_code(lambda: _work(options, plain_console()))


def _work(options: argparse.Namespace, console: Console) -> None:
    file = options.out / "any_network.json"
    load_target(options.target)
    load_recipe(options.recipe)
    done = {each["name"]: Row(**each) for each in json.loads(file.read_text())} if file.is_file() else {}
    every, made_with = entries(), _made_with(options)
    for entry in every:
        before = done.get(entry.name)
        if before is not None and not options.float_only and before.made_with != made_with:
            before = None
        is_done = before is not None and not before.skipped and (options.float_only or not before.without_int8)
        if is_done or not re.search(options.only, f"{entry.group} {entry.name}"):
            continue
        row = replace(_apart(entry, options), made_with=made_with)
        console.print(" | ".join(_cells(row)), highlight=False, soft_wrap=True)
        for note in _notes(row):
            console.print(f"    {note}", highlight=False, soft_wrap=True, markup=False)
        done[entry.name] = row
        rows = [done[each.name] for each in every if each.name in done]
        write_json(file, [asdict(each) for each in rows])
        with atomic_path(options.out / "any_network.md") as temporary:
            temporary.write_text(markdown(rows), encoding="utf-8")
    console.print(f"written  {options.out / 'any_network'}.json and .md", soft_wrap=True, highlight=False)


def _made_with(options: argparse.Namespace) -> str:
    """What tells rows of other settings apart: also a profile or recipe of the same name that was edited."""
    content = [load_target(options.target).to_dict(), load_recipe(options.recipe).to_dict()]
    return f"{options.target}, {options.recipe}: {content_hash(content)[:16]}"


def _apart(entry: Entry, options: argparse.Namespace) -> Row:
    """A row from a process of its own, so that a crash or a network that takes for ever ends there."""
    if entry.missing:
        return Row(entry.name, entry.group, skipped=entry.missing)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        settings = Settings(options.target, None if options.float_only else options.recipe)
        # A forked process has everything imported; a network takes seconds, and so do imports.
        method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
        process = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]
            target=_child,
            args=(entry.name, options.images, Path(folder), settings, result),
        )
        process.start()
        process.join(options.timeout)
        if process.is_alive():
            process.kill()
            process.join()
            return Row(entry.name, entry.group, reasons={"run": f"took longer than {options.timeout:g} s"})
        if not result.is_file():
            return Row(entry.name, entry.group, reasons={"run": f"its process ended with {process.exitcode}"})
        return Row(**json.loads(result.read_text()))


def _child(name: str, images: Path, folder: Path, settings: Settings, result: Path) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # exporters and ONNX Runtime print what nobody asked for
        os.dup2(nowhere.fileno(), 2)
        entry = next(each for each in entries() if each.name == name)
        write_json(result, asdict(measure(entry, images, folder, settings)))


if __name__ == "__main__":
    sys.exit(main())
