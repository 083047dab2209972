"""The work of ``import``: complete the config, build, verify on real images, write the run folder."""

import argparse
import contextlib
import dataclasses
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from depth_distill.atomic import atomic_path, write_json
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.loading.imported import ImportedNetwork, build_module, load_foreign_weights
from depth_distill.loading.importing import (
    TOLERANCE,
    MeaningScore,
    SelectedOutput,
    better_meaning,
    codes_of,
    deviation,
    flat,
    output_range,
    require_plausible,
    score_meanings,
)
from depth_distill.loading.meaning import Meaning
from depth_distill.loading.trained import LoadedRun, build_untrained, resolved_config
from depth_distill.quantization.graph.channel_groups import ChannelGroups, channel_groups
from depth_distill.quantization.graph.trace import UntraceableError
from depth_distill.quantization.recipe import load_recipe
from depth_distill.quantization.target.target import load_target
from depth_distill.runs import CONFIG_FILE

_NETWORK = "--model.init_args.network.init_args"
_ONNX_MODULE = "depth_distill.loading.onnx_importer.OnnxModule"
_LOSS = {
    "class_path": "CompositeLoss",
    "init_args": {"terms": {"relative_l1": {"class_path": "RelativeL1Loss"}}},
}


def import_network(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Import, verify and write as the options say; returns the exit code.

    Raises:
        ConfigError: whatever does not fit; nothing is left behind then.
    """
    console = Console()
    with _new_folder(options.out) as out, tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / CONFIG_FILE
        content = _completed(options)
        _write_yaml(config, content)
        as_given = resolved_config(config, [*overrides, *_derived(content, overrides, config)])
        content |= {"data": as_given["data"]}
        content["model"]["init_args"]["network"] = as_given["network"]
        _write_yaml(config, content)
        if options.through_onnx:
            run = _through_onnx(content, config, out, console)
        else:
            try:
                run = build_untrained(config)
            except UntraceableError as error:
                console.print(Text(f"network     goes through ONNX, because {error}"), soft_wrap=True)
                run = _through_onnx(content, config, out, console)
        _verify(run, as_given["network"], options, console, out)
        checkpoint = _write(out, content, run)
    console.print(f"run folder  {options.out}", soft_wrap=True, highlight=False)
    command = shlex.join(["depth-distill", "ptq-table", "--checkpoint", str(checkpoint), "--out", str(out / "ptq")])
    console.print(f"next        {command}", soft_wrap=True, highlight=False)
    return 0


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that did not exist or was empty, removed again where the import fails."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty: give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be made ({error.strerror}): give another --out") from error
    try:
        yield out.absolute()
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _completed(options: argparse.Namespace) -> dict[str, Any]:
    """The config with what follows from the options."""
    content: dict[str, Any] = {} if options.config is None else _read(options.config)
    model = content.setdefault("model", {})
    if not isinstance(model, dict):
        raise ConfigError(f"{options.config}: model: expected class_path and init_args, received {model!r}")
    model.setdefault("class_path", "DepthTask")
    network = model.setdefault("init_args", {}).setdefault("network", {"class_path": "ImportedNetwork"})
    init = network.setdefault("init_args", {})
    if options.onnx is not None:
        init["module"] = _onnx_module(options.onnx)
        init["weights"] = None
    if options.meaning is not None:
        init["meaning"] = _meaning(options.meaning)
    if not str(network.get("class_path", "")).endswith("ImportedNetwork"):
        raise ConfigError(
            f"{options.config}: model.init_args.network is a {network.get('class_path')}, expected an ImportedNetwork"
        )
    if "meaning" not in init:
        raise ConfigError(
            "meaning: say what the output means, as --meaning '{encoding: inverse, near: 1, min_m: 0.5, max_m: 15}' "
            "(docs/your_network.md); depth-distill harden takes a network whose output has no known meaning"
        )
    data = content.setdefault("data", {})
    if isinstance(data, dict):
        if options.onnx is not None and "image_size" not in data:
            data["image_size"] = _image_size(options.onnx)
        if options.pictures is not None:
            folder = {"class_path": "ImageFolder", "init_args": {"root": str(options.pictures.absolute())}}
            for split in ("train", "val"):
                data.setdefault(split, folder)
    return content


def _meaning(text: str) -> dict[str, Any]:
    """The keys of a meaning, from YAML or a file with it."""
    try:
        found = yaml.safe_load(Path(text).read_text() if text.endswith((".yaml", ".yml")) else text)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"--meaning cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--meaning: expected keys such as encoding and min_m, received {found!r}")
    return found


def _derived(content: dict[str, Any], overrides: Sequence[str], config: Path) -> list[str]:
    """Options of the data that follow from the network, unless they are given."""
    data = content.get("data")
    given = set(data) if isinstance(data, dict) else set()
    given |= {
        word.removeprefix("--data.").split("=")[0].split(".")[0] for word in overrides if word.startswith("--data.")
    }
    if isinstance(data, str) or "--data" in overrides:
        return []
    init = resolved_config(config, overrides)["network"]["init_args"]
    meaning = Meaning(**{**init["meaning"], "output_range": _pair(init["meaning"].get("output_range"))})
    words = []
    if "depth_range" not in given and meaning.returns != "unknown":
        near_m, far_m = meaning.depth_range.min_m, meaning.depth_range.max_m
        words += ["--data.depth_range.min_m", str(near_m), "--data.depth_range.max_m", str(far_m)]
    inputs = init["input"]
    turn = -1 if inputs["colour_order"] == "BGR" else 1
    for key in ("mean", "std"):
        if f"image_{key}" not in given:
            values = [each / inputs["scale"] for each in inputs[key]][::turn]
            words += [f"--data.image_{key}", str(values)]
    return words


def _through_onnx(content: dict[str, Any], config: Path, out: Path, console: Console) -> LoadedRun:
    """Export the module to a file in the run folder, and build the network from that, as the config then says."""
    network = content["model"]["init_args"]["network"]
    file = out / "network.onnx"
    module, notes = _selected(network)
    for note in notes:
        console.print(Text(f"network     {note}"), soft_wrap=True)
    _export(module, content["data"]["image_size"], file)
    gone = dict.fromkeys(("weights", "weights_key", "prefix", "code", "output", "outputs"))
    init = {**network["init_args"], **gone, "module": _onnx_module(file), "method": "forward"}
    content["model"]["init_args"]["network"] = {**network, "init_args": init}
    _write_yaml(config, content)
    return build_untrained(config)


def _export(module: SelectedOutput, image_size: Sequence[int], file: Path) -> None:
    """Write the selected output of the user's module as ONNX."""
    from depth_distill.export.onnx_io.file_spec import FileSpec
    from depth_distill.export.onnx_io.float_onnx import export_float

    try:
        names = tuple(f"output_{place}" for place in range(1 if module.together else len(module.paths)))
        export_float(module, file, FileSpec(image_size[0], image_size[1], output_names=names))
    except ConfigError:
        raise
    except Exception as error:  # whatever torch.export raises
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"the module can neither be traced nor exported to ONNX ({reason[0] if reason else type(error).__name__}): "
            "export it with your own code, and give that file as --onnx"
        ) from error


def _selected(network: dict[str, Any]) -> tuple[SelectedOutput, list[str]]:
    """The module as the user has it, and notes on its weights."""
    init, notes = network["init_args"], []
    module = build_module(init["module"], None if init["code"] is None else Path(init["code"]))
    if init["weights"] is not None:
        notes = load_foreign_weights(module, Path(init["weights"]), init["weights_key"], init["prefix"])
    paths = init["outputs"] if init["outputs"] is not None else [init["output"] or []]
    together = init["meaning"]["returns"] != "unknown"
    return SelectedOutput(module, init["method"], paths, together).eval(), notes


def _verify(run: LoadedRun, as_given: dict[str, Any], options: argparse.Namespace, console: Console, out: Path) -> None:
    """Check the network against the module on real images, print what was found, and write it down."""
    network = run.network
    assert isinstance(network, ImportedNetwork)
    for note in network.notes:
        console.print(Text(f"network     {note}"), soft_wrap=True)
    init = as_given["init_args"]
    if init["weights"] is None and init["module"]["class_path"] != _ONNX_MODULE:
        console.print("[yellow]network     no weights are given: it has those that it is built with[/yellow]")
    images = run.calibration_images(options.images)
    outputs = _original_outputs(as_given, images)
    known = network.has_meaning
    wanted = [codes_of(network.meaning, raw) if known and network.meaning.affine.clip else raw for raw in outputs]
    if known and not network.meaning.affine.clip:
        scale, offset, _ = network.meaning.affine
        wanted = [raw * scale + offset for raw in outputs]
    deviations = {"import": _deviation(wanted, network, images)}
    if not deviations["import"] <= TOLERANCE:
        raise ConfigError(
            f"the imported graph differs from the module by {deviations['import']:.3g} of the largest output on "
            f"{options.images} images, allowed is {TOLERANCE:g}: please report this network"
        )
    record: dict[str, Any] = {"notes": network.notes, "deviation": deviations}
    if known:
        found = output_range(network.meaning, outputs)
        require_plausible(found, network.meaning)
        record["output"] = dataclasses.asdict(found)
    preparer = run.preparer(load_target(options.target), images)
    for step, recipe in (("fold", "naive"), ("equalize", "equalize")):
        prepared = preparer(load_recipe(recipe))
        deviations[step] = _deviation(wanted, prepared.graph, images)
    groups = channel_groups(prepared.reference)
    record |= {"layers": len(groups.layers), "pinned": groups.pinned}
    console.print(_pinned_table(groups))
    console.print(_deviation_table(deviations))
    if known:
        console.print(
            f"output      {found.low:.4g} to {found.high:.4g}; {found.clipped:.1%} of the pixels are clipped to the "
            f"ends of {network.meaning.depth_range}",
            highlight=False,
        )
        scores = _check_meaning(run, as_given, options, console)
        record["meanings"] = [dataclasses.asdict(each) | {"meaning": _short(each.meaning)} for each in scores]
    for file in (out / "import.json", options.json):
        if file is not None:
            write_json(file, record)


def _check_meaning(
    run: LoadedRun, as_given: dict[str, Any], options: argparse.Namespace, console: Console
) -> list[MeaningScore]:
    """Score what the output means, and what it could mean as well, against ground truth."""
    network = run.network
    assert isinstance(network, ImportedNetwork)
    if not run.data.val or not run.data.val.has_depth:
        console.print("meaning     not checked, because there is no ground truth")
        return []
    batches = run.data.validation_batches(options.images)
    evaluator = Evaluator(batches, network.codec, run.bands_m, alignment=network.alignment)
    outputs = _original_outputs(as_given, [batch.image for batch in batches])
    scores = score_meanings(network.meaning, evaluator, outputs)
    table = Table(title=f"What the output could mean: abs_rel on {sum(len(each.image) for each in batches)} images")
    table.add_column("meaning")
    for heading in ("abs_rel", "correlation"):
        table.add_column(heading, justify="right")
    for place, each in enumerate(scores):
        name = _short(each.meaning) + (" (as given)" if place == 0 else "")
        table.add_row(Text(name), f"{each.abs_rel:.4f}", f"{each.correlation:.2f}")
    console.print(table)
    better = better_meaning(scores)
    if better is not None:
        message = (
            f"meaning: as given ({_short(scores[0].meaning)}) abs_rel is {scores[0].abs_rel:.3f}, but "
            f"{better.abs_rel:.3f} as {_short(better.meaning)}"
        )
        if not options.keep_meaning:
            raise ConfigError(f"{message}: correct it, or give --keep-meaning")
        console.print(Text(message), style="yellow", soft_wrap=True)
    return scores


def _original_outputs(network: dict[str, Any], images: Sequence[Tensor]) -> list[Tensor]:
    """What the user's module returns for images, by batch: maps ``(B, C, H, W)``, or all outputs as ``(B, N)``."""
    init = network["init_args"]
    module, _ = _selected(network)
    known = init["meaning"]["returns"] != "unknown"
    with torch.inference_mode():
        returned = [module(each.flip(1) if init["input"]["colour_order"] == "BGR" else each) for each in images]
    if not known:
        return [flat(each) for each in returned]
    return [_maps(raw, init["resize"], each) for raw, each in zip(returned, images, strict=True)]


def _deviation(wanted: Sequence[Tensor], network: nn.Module, images: Sequence[Tensor]) -> float:
    with torch.inference_mode():
        return deviation([flat(each) for each in wanted], [flat(network(each)) for each in images])


def _deviation_table(deviations: dict[str, float]) -> Table:
    table = Table(title="Deviation from the module, relative to its largest output")
    for heading in ("step", "deviation", "allowed"):
        table.add_column(heading)
    for name, value in deviations.items():
        table.add_row(name, f"{value:.1e}", f"{TOLERANCE:.0e}")
    return table


def _write(out: Path, content: dict[str, Any], run: LoadedRun) -> Path:
    """The run folder: a checkpoint, and its config, which reads the weights from there."""
    init = content["model"]["init_args"]
    init["network"]["init_args"] |= {"weights": None, "weights_key": None, "prefix": None}
    init.setdefault("loss", _LOSS)
    _write_yaml(out / CONFIG_FILE, content)
    state = {f"network.{name}": value for name, value in run.network.state_dict().items()}
    checkpoint = out / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(exist_ok=True)
    with atomic_path(checkpoint) as temporary:
        torch.save(
            {
                "epoch": 0,
                "global_step": 0,
                "pytorch-lightning_version": pytorch_lightning.__version__,
                "state_dict": state,
                "callbacks": {},
            },
            temporary,
        )
    return checkpoint


def _pinned_table(groups: ChannelGroups) -> Table:
    """The layers whose channels equalization cannot rescale, and why."""
    table = Table(title=f"{len(groups.pinned)} of {len(groups.layers)} layers keep the scale of their channels")
    table.add_column("layer")
    table.add_column("why")
    for name, reason in groups.pinned.items():
        table.add_row(Text(name), Text(reason))
    return table


def _maps(raw: Tensor, resize: str | None, image: Tensor) -> Tensor:
    """An output as ``(B, C, H, W)`` of the image's size, as the graph has it."""
    maps = raw[:, None] if raw.ndim == 3 else raw
    if maps.shape[-2:] == image.shape[-2:] or resize is None:
        return maps
    options = {} if resize == "nearest" else {"align_corners": False}
    return torch.nn.functional.interpolate(maps, size=image.shape[-2:], mode=resize, **options)


def _onnx_module(file: Path) -> dict[str, Any]:
    return {"class_path": _ONNX_MODULE, "init_args": {"file": str(file.absolute())}}


def _image_size(file: Path) -> list[int]:
    """Height and width of the one image that an ONNX file takes."""
    import onnx

    try:
        model = onnx.load(file, load_external_data=False)
        shape = [each.dim_value for each in model.graph.input[-1].type.tensor_type.shape.dim]
    except Exception as error:  # protobuf's errors share no base class
        raise ConfigError(f"{file} cannot be read as an ONNX file ({str(error).splitlines()[0]})") from error
    if len(shape) != 4 or not all(shape[2:]):
        raise ConfigError(f"{file}: its input has no fixed height and width: give --data.image_size '[H, W]'")
    return shape[2:]


def _read(config: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{config}: expected the keys data and model, received {content!r}")
    return content


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _pair(value: Any) -> Any:
    return None if value is None else tuple(value)


def _short(meaning: Meaning) -> str:
    shown: dict[str, str] = {"returns": meaning.returns}
    if meaning.returns in ("codes", "relative"):
        shown |= {"encoding": meaning.encoding, "near": str(meaning.near)}
    if meaning.unit_m != 1:
        shown["unit_m"] = f"{meaning.unit_m:g}"
    return ", ".join(f"{key}: {value}" for key, value in shown.items())
