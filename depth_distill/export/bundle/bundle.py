"""A bundle: the folder that an export writes, with a manifest that describes every file."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from depth_distill.codecs import HostCodec, HostTable
from depth_distill.data.network_inputs import PixelFormat
from depth_distill.errors import ConfigError
from depth_distill.export.bundle.manifest import (
    MANIFEST,
    TABLE,
    check_hash,
    check_manifest,
    codec_in,
    input_in,
    outputs_in,
    read_manifest,
    table_in,
)
from depth_distill.quantization.interface import InputLayout, OutputLayout

STEPS_RECORD = "steps.json"
"""Record of the steps of an unfinished export, in its work folder."""
INTEGER_KINDS = ("int8", "mixed")
"""Files whose codes a decode table is for; those of float and FP16 files are the float network's."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        folder: folder of the bundle.
        manifest: content of ``manifest.json``.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def artifacts(self) -> dict[str, Path]:
        """Network files by kind: ``float``, ``int8``, ``fp16``, ``mixed``, ``metric``, ``metric_int8``."""
        return {kind: self.folder / name for kind, name in self.manifest["artifacts"].items()}

    def artifact(self, kind: str) -> Path:
        """One of the network files.

        Raises:
            ConfigError: the bundle has no such file.
        """
        if kind not in self.artifacts:
            raise ConfigError(f"{self.folder} has no {kind!r} artifact; it has {', '.join(self.artifacts)}")
        return self.artifacts[kind]

    def kind_of(self, file: Path) -> str | None:
        """The kind of a network file of the bundle; None of any other file."""
        return next((kind for kind, path in self.artifacts.items() if path.name == file.name), None)

    def require_float(self, file: Path) -> None:
        """Require a network file of the bundle to be the float network: nothing else returns its codes.

        Raises:
            ConfigError: it is another file, such as one with integers, or one that returns metres.
        """
        kind = self.kind_of(file)
        if kind not in ("float", "fp16"):
            raise ConfigError(
                f"{file} is the {kind} file of its bundle, expected the float network: give {self.artifact('float')}"
            )

    @property
    def codec(self) -> HostCodec:
        """The codec, which decodes codes to metres."""
        return codec_in(self.manifest)

    @property
    def table(self) -> HostTable | None:
        """The codec behind the decode table, which is what the codes of a device mean; None without a table."""
        return table_in(self.manifest)

    @property
    def table_source(self) -> str:
        """Whose outputs the decode table corrects, such as ``ONNX Runtime PTQ``; empty without a table."""
        return str(self.manifest[TABLE]["source"]) if TABLE in self.manifest else ""

    @property
    def table_backend(self) -> str | None:
        """Name of the tool chain that the decode table was fitted on; None of a device, a given table, or no table."""
        return self.manifest[TABLE].get("backend") if TABLE in self.manifest else None

    def codec_for(self, kind: str) -> HostCodec:
        """What the codes of a file mean: those of ``int8`` and ``mixed`` go through the decode table, if there is one.

        Args:
            kind: ``float``, ``int8``, ``fp16`` or ``mixed``.
        """
        return (self.table if kind in INTEGER_KINDS else None) or self.codec

    def decode(self, outputs: Mapping[str, NDArray[Any]], kind: str = "int8") -> NDArray[np.float32]:
        """Depth ``(N, 1, H, W)`` in metres from float outputs by name, each ``(N, C, H, W)``.

        Args:
            outputs: what a device or runtime returned.
            kind: the file that ran: of ``float`` and ``fp16``, codes are those of the float network; of ``int8`` and
                ``mixed``, and of a device, they go through the decode table, if there is one.

        Raises:
            ConfigError: an output that is missing, or has another number of channels.
        """
        tensors = {name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in outputs.items()}
        return self.codec_for(kind).decode(self.layout.codes(tensors).numpy())

    @property
    def layout(self) -> OutputLayout:
        """Layout of the outputs."""
        return outputs_in(self.manifest)

    @property
    def input(self) -> InputLayout:
        """Layout of the input."""
        return input_in(self.manifest)

    @property
    def pixels(self) -> PixelFormat:
        """How pixels become the input."""
        mean, std = (tuple(map(float, each)) for each in (self.input.mean, self.input.std))
        return PixelFormat(mean, std, raw=self.input.uint8)  # type: ignore[arg-type]

    @property
    def calibration(self) -> Path:
        """Folder of the calibration images."""
        return self.folder / "calibration"


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check that none of its files was changed.

    Raises:
        ConfigError: the manifest does not exist, cannot be read, has another schema or a damaged entry, or a file is
            missing or was changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(f"{folder} is not a bundle: it has no {MANIFEST}; make one with depth-distill export")
    manifest = read_manifest(path)
    check_manifest(path, manifest)
    for name in manifest["files"]:
        check_hash(folder, manifest, name)
    return Bundle(folder, manifest)


def bundle_of(file: Path) -> Bundle | None:
    """The bundle that contains a network file, of whose files only this one is checked; None if it is in no bundle.

    Raises:
        ConfigError: there is a manifest, but it cannot be read, has another schema or a damaged entry, or was written
            for another content of the file.
    """
    path = file.absolute().parent / MANIFEST
    if not path.is_file():
        return None
    manifest = read_manifest(path)
    artifacts = manifest.get("artifacts")
    if not isinstance(artifacts, dict) or file.name not in artifacts.values():
        return None  # a manifest of something else
    check_manifest(path, manifest)
    check_hash(file.parent, manifest, file.name)
    return Bundle(path.parent, manifest)


def work_folder(out: Path) -> Path:
    """Folder beside a bundle in which the next one is made."""
    return out.with_name(f".{out.name}.work")


def require_replaceable(out: Path) -> None:
    """Check that an export to ``out`` will replace nothing but an old bundle, and nothing of the user's within it.

    Raises:
        ConfigError: ``out`` is a file, a symbolic link, a folder that is not a bundle, or a bundle with files that its
            manifest does not list; or one of the hidden folders that an export uses beside it is somebody else's.
    """
    if out.is_symlink():
        raise ConfigError(f"{out} is a symbolic link to {out.readlink()}: give that folder as --out")
    _require_bundle(out, "choose another --out")
    _require_bundle(_backup_of(out), "an export would need this name for the old bundle: move it away")
    work = work_folder(out)
    if work.is_symlink() or (work.exists() and not (work.is_dir() and _is_work(work))):
        raise ConfigError(f"{work} is not the unfinished work of an export, which needs this name: move it away")


def _require_bundle(folder: Path, cure: str) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise ConfigError(f"{folder} exists and is not a folder: {cure}")
    if not any(folder.iterdir()):
        return
    if not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder} exists and is not a bundle (it has no {MANIFEST}): {cure}")
    manifest = read_manifest(folder / MANIFEST)
    listed = manifest.get("files")
    if (
        not isinstance(manifest.get("schema_version"), int)
        or not isinstance(listed, dict)
        or "artifacts" not in manifest
    ):
        raise ConfigError(f"{folder} exists and is not a bundle (its {MANIFEST} is that of something else): {cure}")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    foreign = sorted(each for each in present - {*listed, MANIFEST} if "__pycache__" not in each)
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise ConfigError(f"{folder} holds files that are not the bundle's: {', '.join(foreign[:3])}{more}: {cure}")


def _is_work(folder: Path) -> bool:
    """Whether a folder is empty, or was made by :class:`~depth_distill.export.bundle.steps.StepRunner`."""
    return not any(folder.iterdir()) or (folder / STEPS_RECORD).is_file() or (folder / "bundle").is_dir()


def put_in_place(new: Path, out: Path) -> None:
    """Rename the folder ``new`` to ``out``, replacing an old bundle.

    There are two renames: a process that is killed between them leaves the old bundle under a name that :func:`recover`
    restores it from.
    """
    old = _backup_of(out)
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        recover(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover(out: Path) -> None:
    """Restore the old bundle if an earlier :func:`put_in_place` was killed half-way."""
    old = _backup_of(out)
    if old.exists() and not out.exists():
        old.rename(out)


def _backup_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")
