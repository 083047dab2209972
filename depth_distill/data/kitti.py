"""KITTI: driving scenes with sparse LiDAR depth up to about 85 m."""

from functools import cached_property
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from depth_distill.data.reading import resolve_inside
from depth_distill.data.sample_files import FileDataset, SampleFiles, images_by_stem, read_index_file, sample_name
from depth_distill.errors import DataError

# Where data_depth_annotated.zip may have been unpacked to, relative to the data root.
_DEPTH_FOLDERS = tuple(Path(outer, inner) for outer in (".", "data_depth_annotated") for inner in (".", "train", "val"))


class KittiDepth(FileDataset):
    """Images with depth maps of the KITTI depth prediction benchmark, in one of two layouts or listed in a split file.

    By name: ``rgb/NAME.png`` (or .jpg) and ``depth/NAME.png``. Images without a depth map are left out; in KITTI these
    are the first and last five frames of each drive.

    Official: depth maps in ``DRIVE/proj_depth/groundtruth/CAMERA/NAME.png``, in the root or in its ``train``, ``val``
    or ``data_depth_annotated`` folder; raw images in ``DATE/DRIVE/CAMERA/data/NAME.png`` (or .jpg), or next to the
    depth maps in ``DRIVE/CAMERA/data``. DRIVE is for example ``2011_09_26_drive_0001_sync``.

    Split file: lines ``IMAGE DEPTH [FOCAL]``, as in the Eigen splits, both paths relative to the root (depth also to
    the folders named above); the focal length is not used. Lines whose depth is ``None`` are skipped: 45 of the 697
    frames of the Eigen test split have no depth map. Lines starting with ``#`` are comments.

    Documented in the benchmark's development kit (cvlibs.net, "depth prediction"); Uhrig et al., Sparsity Invariant
    CNNs, 3DV 2017; Eigen et al., NIPS 2014.

    Args:
        root: the data folder.
        split_file: path of a split file, relative to ``root``; by default, all files in the folders are used.
        split: in the official layout, read only this folder: ``train`` or ``val``.
        camera: in the official layout, ``image_02`` (left) or ``image_03`` (right).
        depth_scale: units of the depth files per metre.
    """

    expected: ClassVar[str] = (
        "rgb/NAME.png with depth/NAME.png, or DRIVE/proj_depth/groundtruth/CAMERA/NAME.png with "
        "DATE/DRIVE/CAMERA/data/NAME.png"
    )

    def __init__(
        self,
        root: str | Path,
        split_file: str | None = None,
        split: str | None = None,
        camera: str = "image_02",
        depth_scale: float = 256.0,
    ) -> None:
        super().__init__(root, depth_scale)
        self.split_file = split_file
        self.split = split
        self.camera = camera

    @override
    def list_samples(self) -> list[SampleFiles]:
        if self.split_file is not None:
            return self._listed(self.split_file)
        if (self.root / "rgb").is_dir():
            return self._by_name()
        return self._official()

    def _by_name(self) -> list[SampleFiles]:
        if not (self.root / "depth").is_dir():
            raise DataError(f"{self.root}: has a folder rgb but none called depth; expected {self.expected}")
        images, depths = images_by_stem(self.root / "rgb"), images_by_stem(self.root / "depth")
        return [
            SampleFiles(sample_name(images[stem], self.root), images[stem], depths[stem])
            for stem in images
            if stem in depths
        ]

    def _official(self) -> list[SampleFiles]:
        folders = [folder for folder in _DEPTH_FOLDERS if self.split is None or folder.name == self.split]
        drives = [
            drive
            for folder in folders
            for drive in sorted((self.root / folder).glob(f"*_sync/proj_depth/groundtruth/{self.camera}"))
        ]
        return [record for drive in drives for record in self._drive(drive)]

    def _drive(self, depth_folder: Path) -> list[SampleFiles]:
        drive = depth_folder.parents[2]
        date = drive.name[: len("2011_09_26")]
        candidates = [parent / self.camera / "data" for parent in (self.root / date / drive.name, drive)]
        image_folder = next((folder for folder in candidates if folder.is_dir()), None)
        if image_folder is None:
            raise DataError(
                f"{depth_folder}: depth maps without images; expected them in {candidates[0]}; download the raw drive "
                f"{drive.name} there (synced and rectified), or name the drives to use in a split_file"
            )
        images, depths = images_by_stem(image_folder), images_by_stem(depth_folder)
        # A missing image gets a path that does not exist: reading it raises an error that names the file.
        pairs = [(images.get(stem, image_folder / f"{stem}.png"), depth) for stem, depth in depths.items()]
        return [SampleFiles(sample_name(image, self.root), image, depth) for image, depth in pairs]

    def _listed(self, split_file: str) -> list[SampleFiles]:
        path = resolve_inside(self.root, split_file, "split_file")
        records = []
        for number, line in enumerate(read_index_file(self.root, split_file, "split_file").splitlines(), start=1):
            words = line.split()
            if not words or words[0].startswith("#") or words[1:2] == ["None"]:
                continue
            where = f"{path} line {number}"
            if len(words) not in (2, 3):
                raise DataError(f"{where}: expected 'IMAGE DEPTH [FOCAL]', got {len(words)} words: '{line.strip()}'")
            image = resolve_inside(self.root, words[0], where)
            depth = resolve_inside(self.root, words[1], where)
            records.append(SampleFiles(sample_name(image, self.root), image, self._found_depth(depth), where=where))
        if not records:
            raise DataError(f"{path}: no samples; expected lines 'IMAGE DEPTH [FOCAL]'")
        return records

    def _found_depth(self, depth: Path) -> Path:
        relative = depth.relative_to(self.root)
        for folder in self._depth_roots:
            if (folder / relative).exists():
                return folder / relative
        return depth

    @cached_property
    def _depth_roots(self) -> list[Path]:
        return [self.root / folder for folder in _DEPTH_FOLDERS if (self.root / folder).is_dir()]
