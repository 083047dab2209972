"""Latency of files on ONNX Runtime; their runs alternate, so that a temporary slowdown affects all of them."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from depth_distill.export.backends.runtime import open_file
from depth_distill.loading.onnx_importer.session import session_options


def latencies(files: Mapping[str, Path], image: NDArray[Any], repeats: int = 50, threads: int = 1) -> dict[str, float]:
    """Median latency in milliseconds of each file.

    Args:
        files: ONNX files by name.
        image: input of all files, batch 1.
        repeats: number of rounds, in each of which every file runs once.
        threads: number of threads of ONNX Runtime; 0 is one per core.

    Raises:
        ConfigError: ONNX Runtime refuses a file.
    """
    options = session_options(threads=threads)
    sessions = {name: open_file(path, options) for name, path in files.items()}
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(repeats + 2):
        for name, session in sessions.items():
            feed = {session.get_inputs()[0].name: image}
            start = time.perf_counter()
            session.run(None, feed)
            if turn >= 2:  # the first runs allocate
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in taken.items()}
