"""TUM RGB-D: handheld indoor sequences whose colour and depth frames have separate time stamps."""

from bisect import bisect_left, bisect_right
from pathlib import Path, PurePosixPath
from typing import ClassVar

from typing_extensions import override

from depth_distill.data.reading import resolve_inside
from depth_distill.data.sample_files import FileDataset, SampleFiles, read_index_file, sample_name
from depth_distill.errors import DataError


class TumRgbd(FileDataset):
    """A sequence in the layout of the TUM RGB-D benchmark.

    If the root holds ``associations.txt`` (lines ``TIME FILE TIME FILE``, as written by the benchmark's
    ``associate.py``), its pairs are used unchanged. Colour comes first unless the first file of the first line is in a
    folder named ``depth``. Otherwise ``rgb.txt`` and ``depth.txt`` (lines ``TIME FILE``, seconds, ``#`` comments) are
    matched one to one, nearest time stamps first, as ``associate.py`` does; unmatched frames are left out.

    Format: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats (Sturm et al., IROS 2012).

    Args:
        root: the folder of the sequence.
        max_time_difference: maximum time between a colour image and its depth map, in seconds.
        depth_scale: units of the depth files per metre.
    """

    expected: ClassVar[str] = "associations.txt, or rgb.txt and depth.txt with lines 'TIME FILE'"

    def __init__(self, root: str | Path, max_time_difference: float = 0.02, depth_scale: float = 5000.0) -> None:
        super().__init__(root, depth_scale)
        self.max_time_difference = max_time_difference

    @override
    def list_samples(self) -> list[SampleFiles]:
        if (self.root / "associations.txt").exists():
            return self._associated()
        images, depths = self._frames("rgb.txt"), self._frames("depth.txt")
        pairs = match_times([time for time, _ in images], [time for time, _ in depths], self.max_time_difference)
        if not pairs:
            raise DataError(
                f"{self.root}: none of {len(images)} images in rgb.txt has a depth map in depth.txt within "
                f"{self.max_time_difference:g} s; check that both belong to one sequence, or raise max_time_difference"
            )
        return [
            SampleFiles(
                sample_name(images[i][1], self.root), images[i][1], depths[j][1], where=f"{self.root / 'rgb.txt'}"
            )
            for i, j in pairs
        ]

    def _associated(self) -> list[SampleFiles]:
        lines = self._lines("associations.txt", words=4, form="TIME FILE TIME FILE")
        image_column, depth_column = (3, 1) if lines and _is_depth_first(lines[0][1]) else (1, 3)
        records = []
        for where, words in lines:
            image, depth = (resolve_inside(self.root, words[column], where) for column in (image_column, depth_column))
            records.append(SampleFiles(sample_name(image, self.root), image, depth, where=where))
        return records

    def _frames(self, file: str) -> list[tuple[float, Path]]:
        frames = []
        for where, (stamp, relative) in self._lines(file, words=2, form="TIME FILE"):
            try:
                time = float(stamp)
            except ValueError:
                raise DataError(f"{where}: expected a time stamp in seconds, got '{stamp}'") from None
            frames.append((time, resolve_inside(self.root, relative, where)))
        return sorted(frames)

    def _lines(self, file: str, words: int, form: str) -> list[tuple[str, list[str]]]:
        lines = []
        for number, line in enumerate(read_index_file(self.root, file, "TUM RGB-D layout").splitlines(), start=1):
            content = line.replace(",", " ").split()  # associate.py also accepts commas as separators
            if not content or content[0].startswith("#"):
                continue
            where = f"{self.root / file} line {number}"
            if len(content) != words:
                raise DataError(f"{where}: expected '{form}', got '{line.strip()}'")
            lines.append((where, content))
        return lines


def match_times(first: list[float], second: list[float], max_difference: float) -> list[tuple[int, int]]:
    """Pair sorted times one to one, nearest first; returns index pairs in the order of ``first``."""
    candidates = [
        (abs(time - second[j]), i, j)
        for i, time in enumerate(first)
        for j in range(bisect_left(second, time - max_difference), bisect_right(second, time + max_difference))
    ]
    partner_of: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(candidates):
        if i not in partner_of and j not in taken:
            partner_of[i] = j
            taken.add(j)
    return sorted(partner_of.items())


def _is_depth_first(words: list[str]) -> bool:
    first, second = ("depth" in PurePosixPath(words[column]).parent.parts for column in (1, 3))
    return first and not second
