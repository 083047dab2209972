"""Image, depth and mask files listed in a CSV manifest: the format for custom data."""

import csv
import io
import os
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from depth_distill.data.reading import normal_inside, resolve_inside
from depth_distill.data.sample_files import FileDataset, SampleFiles, read_index_file
from depth_distill.errors import DataError
from depth_distill.suggestions import did_you_mean

COLUMNS = ("image", "depth", "mask")


class RgbdFolder(FileDataset):
    """Images with depth maps, listed in a CSV file with the header ``image,depth`` or ``image,depth,mask``.

    Paths are relative to the folder of the CSV file and must stay inside the data root. Without a depth column, or with
    one that is empty in every row, the data is image-only. The mask may be empty in any row. Columns with other names
    are refused, because a misspelt ``depth`` would silently make the data image-only.

    Args:
        root: the data folder.
        manifest: path of the CSV file, relative to ``root``.
        depth_scale: units of the depth files per metre, e.g. 1000 for millimetres.
    """

    expected: ClassVar[str] = "a CSV manifest with the header image,depth or image,depth,mask and one row per sample"

    def __init__(self, root: str | Path, manifest: str = "train.csv", depth_scale: float = 1000.0) -> None:
        super().__init__(root, depth_scale)
        self.manifest = manifest

    @override
    def list_samples(self) -> list[SampleFiles]:
        path = resolve_inside(self.root, self.manifest, "manifest")
        reader = csv.reader(io.StringIO(read_index_file(self.root, self.manifest, "manifest"), newline=""), strict=True)
        header: list[str] = []
        samples: list[SampleFiles] = []
        try:
            for cells in reader:
                row = [cell.strip() for cell in cells]
                where = f"{path} line {reader.line_num}"
                if not any(row):
                    continue
                if not header:
                    header = _checked_header(row, where)
                else:
                    samples.append(self._sample_files(header, row, where))
        except csv.Error as error:
            raise DataError(f"{path} line {reader.line_num}: not valid CSV ({error}); check the quotes") from error
        if not samples:
            raise DataError(f"{path}: no samples; expected {self.expected}")
        _require_all_or_no_depth(samples)
        return samples

    def _sample_files(self, header: list[str], row: list[str], where: str) -> SampleFiles:
        if len(row) != len(header):
            raise DataError(
                f"{where}: {len(row)} cells under a header of {len(header)} ({','.join(header)}); quote paths that "
                "contain a comma"
            )
        # An empty image cell is an error, raised by normal_inside; an empty depth or mask cell means "none".
        files = {
            column: normal_inside(self.root, self._base + cell if cell[:1] not in ("", "/") else cell, where)
            for column, cell in zip(header, row, strict=True)
            if cell or column == "image"
        }
        image, root = files.pop("image"), self._root_prefix
        others = {column: root + file for column, file in files.items()}
        name = os.path.splitext(image)[0]  # noqa: PTH122
        return SampleFiles(name, root + image, **others, where=where)

    @cached_property
    def _base(self) -> str:
        """Folder of the manifest, relative to the root; paths are text here: a manifest may have many rows."""
        return str(Path(self.manifest).parent / "x")[:-1]

    @cached_property
    def _root_prefix(self) -> str:
        return str(self.root / "x")[:-1]


def _checked_header(header: list[str], where: str) -> list[str]:
    for separator in ";\t|":
        if separator in header[0]:
            raise DataError(
                f"{where}: {header[0]!r} is separated by {separator!r}, expected commas; save it with commas"
            )
    for column in header:
        if column not in COLUMNS:
            raise DataError(f"{where}: unknown column '{column}' in the header; {did_you_mean(column, COLUMNS)}")
    if "image" not in header or len(set(header)) < len(header):
        raise DataError(f"{where}: expected the header image,depth or image,depth,mask, got {','.join(header)}")
    return header


def _require_all_or_no_depth(samples: list[SampleFiles]) -> None:
    without = [sample for sample in samples if sample.depth is None]
    if without and len(without) < len(samples):
        raise DataError(
            f"{without[0].where}: no depth, although {len(samples) - len(without)} of {len(samples)} rows have one; "
            "fill it in, or list images without depth in a separate manifest"
        )
