"""The interface that every depth data set implements, and the checks that all of them share."""

from abc import ABC, abstractmethod

from torch.utils.data import Dataset

from depth_distill.data.placement import Size
from depth_distill.data.transforms import JointResize
from depth_distill.errors import DataError
from depth_distill.types import DepthSample


class DepthDataset(Dataset[DepthSample], ABC):
    """An indexed collection of images with (or without) metric depth.

    The constructor only stores its arguments. The disk is read on the first request for the length, a name or a
    sample, so a run that only predicts does not need the training files.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples.

        Raises:
            DataError: the split is empty, or its index file is missing or malformed.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Short unique name of sample ``index``, usable as a relative file stem (``rgb/0002``)."""

    @abstractmethod
    def source(self, index: int) -> str:
        """Where sample ``index`` comes from, for error messages: a file path, or a description."""

    @abstractmethod
    def load(self, index: int) -> DepthSample:
        """Read sample ``index`` at full resolution.

        Raises:
            DataError: a file is missing or unreadable.
        """

    def __getitem__(self, index: int) -> DepthSample:
        """Sample ``index``, validated.

        Raises:
            IndexError: the index is outside the data set.
            DataError: a file is missing or unreadable, image and depth differ in size, or no pixel has a depth
                although the data set has ground truth.
        """
        self.require_index(index)
        sample = self.load(index)
        return self.checked(index, sample, (sample.image.shape[-2], sample.image.shape[-1]))

    def at_size(self, index: int, resize: JointResize) -> DepthSample:
        """Sample ``index``, validated and resized.

        Raises:
            IndexError: the index is outside the data set.
            DataError: as for the sample itself.
        """
        return resize(self[index])

    def image_size(self, index: int) -> Size:
        """Height and width of the image of sample ``index``, upright; subclasses need not decode it for that.

        Raises:
            DataError: its file is missing or unreadable.
        """
        height, width = self.load(index).image.shape[-2:]
        return height, width

    def image_sizes(self, most: int = 8) -> set[Size]:
        """The sizes (height, width) of at most so many images, evenly spaced.

        Raises:
            DataError: see :meth:`image_size`.
        """
        last = len(self) - 1
        return {self.image_size(round(last * k / max(most - 1, 1))) for k in range(min(most, len(self)))}

    def require_index(self, index: int) -> None:
        """Raise ``IndexError`` if the index is outside the data set."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample index {index} is out of range for a data set of {len(self)} samples")

    def checked(self, index: int, sample: DepthSample, image_size: tuple[int, int]) -> DepthSample:
        """The sample, if it is one; ``image_size`` is (height, width) of the image as it is stored."""
        if tuple(sample.depth_m.shape[-2:]) != image_size:
            (height, width), (depth_height, depth_width) = image_size, sample.depth_m.shape[-2:]
            raise DataError(
                f"{self.source(index)}: the image is {width} x {height} but its depth is {depth_width} x "
                f"{depth_height}; both must be registered to the same camera and have the same size"
            )
        if self.has_depth and not bool(sample.valid.any()):
            raise DataError(
                f"{self.source(index)}: the depth map has no valid pixel (all zero or masked out); remove the sample "
                "from the split, or check the depth file"
            )
        return sample

    @property
    def has_depth(self) -> bool:
        """Whether samples carry ground truth; False for image-only data."""
        return True
