"""The work of ``import``: complete the config, build, verify on real images, write the run folder."""

import argparse
import contextlib
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
import yaml  # type: ignore[import-untyped]
from rich.text import Text

from depth_distill.atomic import atomic_path, write_json
from depth_distill.commands.import_config import (
    completed_config,
    fill_data,
    given_keys,
    not_verified_again,
    onnx_module,
)
from depth_distill.commands.import_verification import Verification
from depth_distill.display.console import plain_console
from depth_distill.errors import ConfigError
from depth_distill.loading.imported import ImportedNetwork
from depth_distill.loading.original import OriginalNetwork, original_network
from depth_distill.loading.run_config import resolved_config
from depth_distill.loading.trained import LoadedRun, build_untrained
from depth_distill.quantization.graph.trace import UntraceableError
from depth_distill.runs import CONFIG_FILE

_LOSS = {
    "class_path": "CompositeLoss",
    "init_args": {"terms": {"relative_l1": {"class_path": "RelativeL1Loss"}}},
}


def import_network(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Import, verify and write as the options say; returns the exit code.

    Raises:
        ConfigError: whatever does not fit; nothing is left behind then.
    """
    console = plain_console()
    with _new_folder(options.out) as out, tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / CONFIG_FILE
        content = completed_config(options)
        given = given_keys(content, overrides)
        _write_yaml(config, content)
        as_given = resolved_config(config, overrides)
        if given is not None:
            fill_data(as_given["data"], as_given["network"], given)
        content["data"] = as_given["data"]
        content["model"]["init_args"]["network"] = as_given["network"]
        _write_yaml(config, content)
        arguments = not_verified_again(as_given["network"]["init_args"])  # the network that is imported is
        original, notes = original_network(arguments)
        if options.through_onnx:
            run = _through_onnx(original, content, config, out)
        else:
            try:
                run = build_untrained(config)
            except UntraceableError as error:
                console.print(Text(f"network     goes through ONNX, because {error}"), soft_wrap=True)
                run = _through_onnx(original, content, config, out)
        assert isinstance(run.network, ImportedNetwork)
        notes = list(dict.fromkeys([*notes, *run.network.notes]))
        for note in notes:
            console.print(Text(f"network     {note}"), soft_wrap=True)
        record = {"notes": notes, **Verification(run, run.network, original, arguments, options, console)()}
        for file in (out / "import.json", options.json):
            if file is not None:
                write_json(file, record)
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


def _through_onnx(original: OriginalNetwork, content: dict[str, Any], config: Path, out: Path) -> LoadedRun:
    """Export the module to a file in the run folder, and build the network from that, as the config then says."""
    network = content["model"]["init_args"]["network"]
    file = out / "network.onnx"
    count = _export(original, content["data"]["image_size"], file)
    gone = dict.fromkeys(("weights", "weights_key", "prefix", "code", "output"))
    outputs = None if count == 1 else [[place] for place in range(count)]
    init = {**network["init_args"], **gone, "outputs": outputs, "module": onnx_module(file), "method": "forward"}
    content["model"]["init_args"]["network"] = {**network, "init_args": init}
    _write_yaml(config, content)
    return build_untrained(config)


def _export(original: OriginalNetwork, image_size: Sequence[int], file: Path) -> int:
    """Write the selected output of the user's module as ONNX; returns the number of outputs."""
    from depth_distill.export.onnx_io.file_spec import FileSpec
    from depth_distill.export.onnx_io.float_onnx import export_float

    names = tuple(f"output_{place}" for place in range(1 if original.together else len(original.paths)))
    try:
        export_float(original, file, FileSpec(image_size[0], image_size[1], output_names=names))
    except ConfigError:
        raise
    except Exception as error:  # whatever torch.export raises
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"the module can neither be traced nor exported to ONNX ({reason[0] if reason else type(error).__name__}): "
            "export it with your own code, and give that file as --onnx"
        ) from error
    return len(names)


def _write(out: Path, content: dict[str, Any], run: LoadedRun) -> Path:
    """The run folder: a checkpoint, and its config, which reads the weights from there."""
    init = content["model"]["init_args"]
    arguments = not_verified_again(init["network"]["init_args"])
    init["network"]["init_args"] = {**arguments, "weights": None, "weights_key": None, "prefix": None}
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


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
