"""Images without ground truth, for prediction or distillation from a teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from depth_distill.data.reading import IMAGE_EXTENSIONS
from depth_distill.data.sample_files import FileDataset, SampleFiles, is_image, sample_name


class ImageFolder(FileDataset):
    """All images in a folder, sorted by path, without depth.

    Args:
        root: the folder.
        extensions: file name suffixes that count as images, case-insensitive.
        recursive: also search subfolders.
    """

    expected: ClassVar[str] = "images (by default .jpg, .jpeg or .png; see extensions and recursive)"

    def __init__(self, root: str | Path, extensions: Sequence[str] = IMAGE_EXTENSIONS, recursive: bool = True) -> None:
        super().__init__(root, depth_scale=1.0)
        self.extensions = tuple(extension.lower() for extension in extensions)
        self.recursive = recursive

    @override
    def list_samples(self) -> list[SampleFiles]:
        files = self.root.rglob("*") if self.recursive else self.root.iterdir()
        images = sorted(path for path in files if is_image(path, self.extensions))
        return [SampleFiles(sample_name(image, self.root), image) for image in images]

    @property
    @override
    def has_depth(self) -> bool:
        return False
