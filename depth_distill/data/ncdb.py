"""NCDB: driving and indoor scenes from a wide-angle camera with projected LiDAR depth."""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from typing_extensions import override

from depth_distill.data.reading import resolve_inside
from depth_distill.data.sample_files import FileDataset, SampleFiles, images_by_stem, read_index_file, sample_name
from depth_distill.errors import DataError
from depth_distill.suggestions import did_you_mean

IMAGE_FOLDER = "image_a6"


class NcdbDepth(FileDataset):
    """Images of camera ``a6`` with LiDAR depth, listed in a JSON split file.

    The split is a list of ``{"dataset_root": FOLDER, "new_filename": NAME}``, FOLDER relative to the data root. Images
    are FOLDER/image_a6/NAME.jpg (or .png), or in FOLDER/synced_data; depth maps NAME.png are in the folder of their
    kind next to image_a6. Entries ``{"image_path": .../image_a6/NAME.jpg}``, relative to the data root, also work.

    Depth maps hold z, distance maps the length of the ray from the camera's centre. For a wide-angle camera the two
    differ strongly towards the image border; the network learns whichever it is trained on. Both are stored as
    metres * 256.

    Args:
        root: the data folder.
        split: path of the split file, relative to ``root``.
        depth_kind: the depth maps are read from ``newest_<kind>_maps``; ``original_`` maps hold LiDAR points only, the
            others also synthetic points.
        depth_scale: units of the depth files per metre.
    """

    expected: ClassVar[str] = "a JSON split file with a list of {dataset_root, new_filename} or {image_path}"

    def __init__(
        self,
        root: str | Path,
        split: str,
        depth_kind: Literal["original_depth", "depth", "original_distance", "distance"] = "original_depth",
        depth_scale: float = 256.0,
    ) -> None:
        super().__init__(root, depth_scale)
        self.split = split
        self.depth_kind = depth_kind

    @override
    def list_samples(self) -> list[SampleFiles]:
        path = resolve_inside(self.root, self.split, "split")
        text = read_index_file(self.root, self.split, "split")
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: not valid JSON ({error}); expected {self.expected}") from error
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{path}: expected a list with at least one entry; expected {self.expected}")
        folders = _FolderIndex(f"newest_{self.depth_kind}_maps")
        return [self._sample_files(entry, f"{path} entry {number}", folders) for number, entry in enumerate(entries)]

    def _sample_files(self, entry: Any, where: str, folders: "_FolderIndex") -> SampleFiles:
        keys = set(entry) if isinstance(entry, dict) else set()
        if {"dataset_root", "new_filename"} <= keys:
            image_folder = folders.image_folder(resolve_inside(self.root, str(entry["dataset_root"]), where))
            stem = str(entry["new_filename"])
            image = folders.image(image_folder, stem, where)
        elif "image_path" in keys:
            image = resolve_inside(self.root, str(entry["image_path"]), where)
            image_folder, stem = image.parent, image.stem
        else:
            raise DataError(f"{where}: expected {{dataset_root, new_filename}} or {{image_path}}, got {entry!r}")
        depth = folders.depth_folder(image_folder, where) / f"{stem}.png"
        return SampleFiles(sample_name(image, self.root), image, depth, where=where)


class _FolderIndex:
    """The folders of a split, each listed once regardless of the number of its entries."""

    def __init__(self, depth_name: str) -> None:
        self.depth_name = depth_name
        self._image_folders: dict[Path, Path] = {}
        self._images: dict[Path, dict[str, Path]] = {}
        self._depths: dict[Path, Path] = {}

    def image_folder(self, base: Path) -> Path:
        """The folder of images in that of a data set."""
        if base not in self._image_folders:
            folder = base / IMAGE_FOLDER
            self._image_folders[base] = folder if folder.is_dir() else base / "synced_data" / IMAGE_FOLDER
        return self._image_folders[base]

    def image(self, folder: Path, stem: str, where: str) -> Path:
        """Path of the image ``stem`` in a folder, with any suffix."""
        if folder not in self._images:
            if not folder.is_dir():
                raise DataError(f"{where}: no image folder {folder}; check dataset_root, and data.root")
            self._images[folder] = images_by_stem(folder)
        # A missing image gets a path that does not exist: reading it raises an error that names the file.
        return self._images[folder].get(stem, resolve_inside(folder, f"{stem}.jpg", where))

    def depth_folder(self, image_folder: Path, where: str) -> Path:
        """The folder of depth maps next to an image folder."""
        if image_folder not in self._depths:
            folder = image_folder.parent / self.depth_name
            if not folder.is_dir():
                present = sorted(path.name for path in image_folder.parent.glob("newest_*_maps") if path.is_dir())
                raise DataError(
                    f"{where}: no folder {folder}; {did_you_mean(self.depth_name, present)}; set depth_kind to "
                    "the part between newest_ and _maps"
                )
            self._depths[image_folder] = folder
        return self._depths[image_folder]
