"""Latency of files on ONNX Runtime, interleaved: a machine that is slow for a while is slow for all of them."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from depth_distill.export.backends.runtime import open_session, session_options


def latencies(files: Mapping[str, Path], image: NDArray[Any], repeats: int = 50, threads: int = 1) -> dict[str, float]:
    """Median milliseconds of one run of each file.

    Args:
        files: by name.
        image: the input of all of them, batch 1.
        repeats: rounds; in each, every file runs once.
        threads: of ONNX Runtime; 0 is one a core.

    Raises:
        ConfigError: ONNX Runtime refuses a file.
    """
    options = session_options(threads=threads)
    sessions = {name: open_session(path, options, path) for name, path in files.items()}
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(repeats + 2):
        for name, session in sessions.items():
            feed = {session.get_inputs()[0].name: image}
            start = time.perf_counter()
            session.run(None, feed)
            if turn >= 2:  # the first runs allocate
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in taken.items()}
