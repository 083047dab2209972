"""The decode table of a bundle: fitted on what a tool chain or a device returns for the calibration images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from depth_distill.codecs import HostCodec, HostTable, describe_codec, formula
from depth_distill.codecs.table_fit import fit_table
from depth_distill.display.pictures import save_figure
from depth_distill.errors import ConfigError, DataError
from depth_distill.export.backends.backends import Backend
from depth_distill.export.bundle.bundle import INTEGER_KINDS
from depth_distill.export.bundle.steps import StepRunner, tensor_hash
from depth_distill.export.compare.fitted_table import FittedDecoder, figure, verdict
from depth_distill.export.interface.decoders import IntegerCodes, write_decoders
from depth_distill.hashes import sha256
from depth_distill.models import DepthCodec
from depth_distill.quantization.interface import OutputLayout
from depth_distill.quantization.preparation import Prepared

PICTURE = "decode_table.png"


class Returned(Protocol):
    """What a device returned for the calibration images."""

    @property
    def title(self) -> str:
        """Where it comes from."""

    def codes(self, codec: HostCodec, layout: OutputLayout, count: int, size: tuple[int, int]) -> NDArray[np.float32]:
        """Codes ``(N, C, H, W)`` of ``count`` images, in order."""


@dataclass(frozen=True)
class GivenTable:
    """A table that was fitted before.

    Attributes:
        title: where it comes from.
        codec: the codec behind it.
    """

    title: str
    codec: HostTable


TableSource = Backend | Returned | GivenTable
"""A tool chain to run and fit on, outputs of a device to fit on, or a table."""


@dataclass(frozen=True)
class DecodeTable:
    """What is known about the decode table of a bundle, as its manifest has it.

    Attributes:
        source: whose outputs it corrects, such as ``ONNX Runtime PTQ``.
        backend: name of that tool chain; None if it is none that runs here.
        artifact: kind of the file that it ran.
        verdict: what the table does, in one sentence.
        fit: deviations on images that it was not fitted on; None of a table that was given.
        tables: one table per code; empty if none helps.
    """

    source: str
    backend: str | None
    artifact: str | None
    verdict: str
    fit: Mapping[str, Any] | None
    tables: tuple[tuple[float, ...], ...]

    @property
    def line(self) -> str:
        """The verdict, with the tool chain that it is about."""
        return f"decode table for {self.source}: {self.verdict}"

    def codec(self, inner: HostCodec) -> HostTable | None:
        """The codec behind the table; None without one."""
        return HostTable(inner, self.tables) if self.tables else None

    def to_manifest(self, inner: HostCodec) -> dict[str, Any]:
        """Entries of the manifest: ``decode_table``, or why there is none."""
        codec = self.codec(inner)
        if codec is None:
            return {"decode_table_refused": self.line}
        return {
            "decode_table": {
                "source": self.source,
                "backend": self.backend,
                "artifact": self.artifact,
                "files": list(INTEGER_KINDS),
                "verdict": self.verdict,
                "fit": self.fit,
                "formula": formula(codec),
                "tables": [list(each) for each in codec.tables],
            }
        }


def ran_on(backend: Backend, scales: str) -> tuple[str, bool]:
    """Which file a target's tool chain runs, and whether it quantizes it itself.

    Args:
        backend: the tool chain.
        scales: of the target.

    Raises:
        ConfigError: the tool chain cannot do that.
    """
    artifact, quantize = ("float", True) if scales == "vendor" else ("int8", False)
    if quantize and not backend.quantizes:
        raise ConfigError(
            f"the target's tool chain quantizes the float file itself, and {backend.name} cannot: fit the decode table "
            "on one that can (`depth-distill list backends`), or on --device-outputs"
        )
    if not quantize and "int8" not in backend.takes:
        raise ConfigError(f"the target's tool chain reads the INT8 file, and {backend.name} does not: take another one")
    return artifact, quantize


def table_step(
    source: TableSource | None,
    prepared: Prepared,
    trained: HostCodec,
    folder: Path,
    written: Mapping[str, str],
    steps: StepRunner,
) -> DecodeTable | None:
    """:func:`find_table` as a step of an export, fitted on the calibration images; None where none is asked for.

    Args:
        source: what to fit on, or a table.
        prepared: the networks that the files were written from.
        trained: codec of the trained network.
        folder: folder of the files, in that of the steps.
        written: names of the files by kind.
        steps: steps of the export.
    """
    if source is None or isinstance(source, GivenTable):  # nothing is fitted: a picture would be of another table
        (folder / PICTURE).unlink(missing_ok=True)
    if source is None:
        return None

    def find() -> dict[str, Any]:
        return asdict(find_table(source, prepared, expected_codes(prepared, trained), folder, written))

    if isinstance(source, Backend):
        depends_on: Any = [sha256(folder / written[kind]) for kind in ("float", "int8")] + [source.name]
        depends_on += [tensor_hash(each) for each in prepared.context.images]
        picture = str((folder / PICTURE).relative_to(steps.folder))
        found = steps.run(f"fit decode table on {source.name}", depends_on, find, [picture])
    else:
        found = steps.run(f"decode table of {source.title}", None, find, value=False)
    table = DecodeTable(**{**found, "tables": tuple(tuple(each) for each in found["tables"])})
    steps.console.print(f"       {table.line}", style="dim", highlight=False, soft_wrap=True)
    return table


def find_table(
    source: TableSource, prepared: Prepared, expected: NDArray[np.float32], folder: Path, written: Mapping[str, str]
) -> DecodeTable:
    """The table for a tool chain or device, cross-validated, with its picture in the bundle.

    Args:
        source: what to fit on, or a table.
        prepared: the networks that the files were written from.
        expected: codes ``(N, C, H, W)`` of the float network for the calibration images.
        folder: folder of the files.
        written: names of the files by kind.

    Raises:
        ConfigError: the tool chain refuses the file, or a table is of another codec.
        DataError: there are too few images, or outputs of the device cannot be used.
    """
    codec, layout = prepared.interface.codec, prepared.interface.outputs
    if isinstance(source, GivenTable):
        if describe_codec(source.codec.inner) != describe_codec(codec):
            raise ConfigError(
                f"{source.title} was fitted to the codec {source.codec.inner} of {source.codec.depth_range}, not to "
                f"{codec} of {codec.depth_range}"
            )
        return DecodeTable(source.title, None, None, "given, not fitted here", None, source.codec.tables)
    if len(expected) < 2:
        raise DataError("a decode table is judged on other images: expected 2 calibration images or more, received 1")
    artifact: str | None = None
    if isinstance(source, Backend):
        artifact, quantize = ran_on(source, prepared.context.target.scales)
        images = prepared.interface.inputs.prepare(torch.cat([each.cpu() for each in prepared.context.images])).numpy()
        ran = source.run(folder / written[artifact], images, folder / "calibration" if quantize else None, repeats=0)
        device = layout.codes({name: torch.from_numpy(each) for name, each in ran.outputs.items()}).numpy()
        title, backend = source.title + " PTQ" * quantize, source.name
    else:
        device = source.codes(codec, layout, len(expected), (expected.shape[2], expected.shape[3]))
        title, backend = source.title, None
    fit = fit_table(codec, device, expected)
    every = np.ones((len(expected), 1, *expected.shape[2:]), bool)
    fitted = FittedDecoder(fit, layout, device, expected, every, False, "the float network")
    save_figure(figure(fitted), folder / PICTURE)
    return found_table(fitted, title, backend, artifact)


def found_table(
    fitted: FittedDecoder, source: str, backend: str | None = None, artifact: str | None = None
) -> DecodeTable:
    """What a fit found, with the tables only if they help; see :class:`DecodeTable` for the other arguments."""
    fit = fitted.fit
    return DecodeTable(source, backend, artifact, verdict(fitted), fit.to_dict(), fit.codec.tables if fit.helps else ())


def expected_codes(prepared: Prepared, trained: HostCodec) -> NDArray[np.float32]:
    """Codes ``(N, C, H, W)`` of the trained network for the calibration images, as the files' codec has them.

    Args:
        prepared: the networks that the files were written from.
        trained: codec of the trained network, which a head of another kind may have replaced in the files.
    """
    codec, found = prepared.interface.codec, []
    for images in prepared.context.images:
        with torch.inference_mode():
            codes = prepared.reference(images).float()
            if str(codec) != str(trained):
                codes = DepthCodec(codec).encode(DepthCodec(trained).decode(codes))
        found.append(codes.cpu().numpy())
    return np.concatenate(found)


def write_bundle_decoders(
    codec: HostCodec,
    table: HostTable | None,
    layout: OutputLayout,
    folder: Path,
    integers: IntegerCodes | None,
    source: str = "",
) -> None:
    """Write ``decode.py`` and ``decode.h``; with a table, they have it, and ``decode_float`` decodes without.

    Args:
        codec: codec of the float network.
        table: the codec behind a decode table.
        layout: layout of the outputs.
        folder: folder of the bundle.
        integers: 8-bit integers of a single output.
        source: whose outputs the table corrects.
    """
    if table is None:
        for name in ("decode_float.py", "decode_float.h"):
            (folder / name).unlink(missing_ok=True)
        write_decoders(codec, layout, folder, integers)
        return
    note = (
        f"With the decode table for {source}: for what a device returns, and integer files. Float and FP16 files have "
        "decode_float."
    )
    write_decoders(table, layout, folder, integers, note=note)
    write_decoders(codec, layout, folder, integers, "decode_float", "For float and FP16 files: without decode table.")


def integers_of(scales: Mapping[str, Mapping[str, Any]], layout: OutputLayout) -> IntegerCodes | None:
    """The 8-bit integers of the one output of ``model.int8.onnx``; None where there are several outputs.

    Args:
        scales: of :func:`~depth_distill.export.onnx_io.encodings.scales`.
        layout: layout of the outputs.
    """
    entry = scales.get(layout.names[0], {})
    if len(layout.names) != 1 or entry.get("dtype") not in ("uint8", "int8") or isinstance(entry["scale"], list):
        return None
    return IntegerCodes(float(entry["scale"]), int(entry["zero_point"]), entry["dtype"] == "int8")
