"""The calibration images as files, in the formats that tool chains read."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depth_distill.atomic import atomic_path
from depth_distill.data.array_files import read_array
from depth_distill.data.reading import lies_inside
from depth_distill.errors import DataError

_README = """\
Calibration images of this network, {count} of them, in the order {order}.

tensors/*.npy, tensors.txt   {shape} {dtype}, inputs of the network. RKNN: rknn.build(dataset="tensors.txt");
                             NNCF, OpenVINO and ONNX Runtime: see {runners}.
raw/*.raw, input_list.txt    the same values without a header, row-major. QNN: --input_list input_list.txt; TensorRT:
                             read them in IInt8Calibrator.get_batch, or trtexec --loadInputs={name}:raw/0000.raw
{pictures}
Paths in the lists are relative to this folder: run the tool chain here, or make them absolute.
"""
_PICTURES = """\
images/*.png, images.txt     8-bit RGB in the network's size, before normalization: for tool chains that normalize.
"""


def write_calibration_set(
    tensors: NDArray[np.generic],
    images: NDArray[np.uint8] | None,
    name: str,
    folder: Path,
    order: str = "of the training split",
    runners: str = "../runners",
) -> None:
    """Write calibration images for tool chains.

    Args:
        tensors: inputs of the network, ``(N, ...)``.
        images: the same RGB images before normalization, ``(N, 3, H, W)``; None where inputs are no pictures.
        name: name of the network's input.
        folder: folder of the new files; it is created if necessary.
        order: order of the images, in words.
        runners: where scripts for the tool chains are.

    Raises:
        DataError: there are no images, or one has NaN or infinity; the message has its index.
    """
    if not len(tensors):
        raise DataError("the calibration set is empty: expected at least one image")
    wrong = [index for index, each in enumerate(tensors) if not np.isfinite(each).all()]
    if wrong:
        raise DataError(f"calibration image {wrong[0]} has NaN or infinity ({len(wrong)} of {len(tensors)} have)")
    write_tensors(tensors, folder)
    for index, tensor in enumerate(tensors):
        with atomic_path(folder / "raw" / f"{index:04d}.raw") as temporary:
            temporary.write_bytes(np.ascontiguousarray(tensor).tobytes())
    for index, image in enumerate([] if images is None else images):
        with atomic_path(folder / "images" / f"{index:04d}.png") as temporary:
            Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(temporary)
    numbers = [f"{index:04d}" for index in range(len(tensors))]
    _write_lines(folder / "input_list.txt", [f"{name}:=raw/{number}.raw" for number in numbers])
    if images is not None:
        _write_lines(folder / "images.txt", [f"images/{number}.png" for number in numbers])
    text = _README.format(
        count=len(tensors),
        shape=(1, *tensors.shape[1:]),
        dtype=tensors.dtype,
        name=name,
        order=order,
        runners=runners,
        pictures="" if images is None else _PICTURES,
    )
    _write_lines(folder / "README.txt", [text])


def write_tensors(tensors: Iterable[NDArray[np.generic]], folder: Path) -> None:
    """Write what the runners of tool chains read: ``tensors/*.npy`` with one input each, and ``tensors.txt``.

    Args:
        tensors: inputs of the network, without the batch.
        folder: folder of the new files; it is created if necessary.
    """
    names = []
    for index, tensor in enumerate(tensors):
        names.append(f"tensors/{index:04d}.npy")
        with atomic_path(folder / names[-1]) as temporary:
            np.save(temporary, tensor[None], allow_pickle=False)
    _write_lines(folder / "tensors.txt", names)


def read_calibration_set(folder: Path) -> NDArray[np.generic]:
    """The tensors of a calibration set, ``(N, 3, H, W)``.

    Raises:
        DataError: the list does not exist, is empty, or names a file that is missing, lies outside of the folder, is
            damaged, of another shape than the first, or has NaN or infinity.
    """
    listed = folder / "tensors.txt"
    if not listed.is_file():
        raise DataError(f"{listed} does not exist: {folder} is not a calibration set")
    names = listed.read_text(encoding="utf-8", errors="replace").split()
    if not names:
        raise DataError(f"{listed} names no file: expected one line per calibration image")
    tensors = [_read_tensor(folder, name, listed) for name in names]
    for name, each in zip(names, tensors, strict=True):
        if (each.shape, each.dtype) != (tensors[0].shape, tensors[0].dtype):
            raise DataError(
                f"{folder / name}: {each.dtype} of shape {each.shape}, but {names[0]} has {tensors[0].dtype} of "
                f"{tensors[0].shape}"
            )
    return np.concatenate(tensors)


def _read_tensor(folder: Path, name: str, listed: Path) -> NDArray[np.generic]:
    file = folder / name
    if not lies_inside(folder, name):
        raise DataError(f"{listed} names {name}, which lies outside of {folder}")
    if not file.is_file():
        raise DataError(f"{file} does not exist, though {listed} names it")
    tensor = read_array(file)
    if tensor.shape[:1] != (1,) or tensor.dtype.kind not in "iuf" or not np.isfinite(tensor).all():
        raise DataError(f"{file}: expected finite numbers with a batch of 1, as an input of the network")
    return tensor


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
