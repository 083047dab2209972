"""ONNX Runtime on the CPU: how every file is opened and run, and its errors in one line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depth_distill.errors import ConfigError, first_line

if TYPE_CHECKING:
    import onnxruntime

_NOTHING = 4  # severity of messages: what is wrong comes as an exception
_MISSING = "running an ONNX file needs ONNX Runtime: pip install depth-distill[export]"


def session_options(optimize: bool = True, threads: int = 0) -> "onnxruntime.SessionOptions":
    """Options of a session, which loads no operators from libraries and prints nothing.

    Args:
        optimize: whether ONNX Runtime fuses operators; otherwise it runs them one by one, as written in the file.
        threads: number of threads of ONNX Runtime; 0 is one per core.

    Raises:
        ConfigError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(_MISSING) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _NOTHING
    # Without it, x64 CPUs without VNNI saturate sums of uint8 x int8 products at 16 bits, which an NPU does not.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_session(
    model: Path | bytes, title: Path | str, options: "onnxruntime.SessionOptions | None" = None
) -> "onnxruntime.InferenceSession":
    """A session on the CPU.

    Args:
        model: ONNX file, or the content of one.
        title: the model, for the error message.
        options: see :func:`session_options`; operators one by one unless given.

    Raises:
        ConfigError: ONNX Runtime is not installed, or refuses the model.
    """
    options = session_options(optimize=False) if options is None else options
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise ConfigError(f"{title}: ONNX Runtime cannot load it: {first_line(error)}") from error


def run_session(
    session: "onnxruntime.InferenceSession",
    feeds: Mapping[str, np.ndarray],
    title: Path | str,
    outputs: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Outputs of a session, in the order of ``outputs``, or all.

    Raises:
        ConfigError: ONNX Runtime cannot run the model on these inputs.
    """
    try:
        return list(map(np.asarray, session.run(None if outputs is None else list(outputs), dict(feeds))))
    except Exception as error:  # its exceptions share no base class
        given = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in feeds.items())
        taken = ", ".join(f"{each.name} {each.type} {each.shape}" for each in session.get_inputs())
        raise ConfigError(f"{title} takes {taken}, received {given}: {first_line(error)}") from error
