"""A small depth network as an ONNX file, and the same with what a tool chain or its user did wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from PIL import Image

from depth_distill.codecs import DepthRange, HostIntegerFractional, HostThermometer
from depth_distill.data.network_inputs import NetworkInputs, PixelFormat
from depth_distill.export.backends.runtime import OnnxFile
from depth_distill.export.device.case import Case, CaseOptions, Meaning
from depth_distill.export.device.outputs import Reading
from depth_distill.quantization.interface import OutputLayout

SIZE = (24, 32)
MEANING = Meaning(DepthRange(0.5, 15.0), "log")
PIXELS = PixelFormat((0.45, 0.45, 0.4), (0.25, 0.2, 0.3))


def save(path: Path, last: str = "Sigmoid", inner: str = "Elu", pad: str = "reflect", codes: int = 1) -> Path:
    """Two convolutions with reflected borders, an ELU and a sigmoid of inputs as wide as in a trained network."""
    generator = np.random.default_rng(0)
    w1 = generator.standard_normal((8, 3, 5, 5)).astype(np.float32) * 0.25
    w2 = generator.standard_normal((codes, 8, 1, 1)).astype(np.float32)
    pads = numpy_helper.from_array(np.array([0, 0, 2, 2, 0, 0, 2, 2]), "pads")
    nodes = [
        helper.make_node("Pad", ["image", "pads"], ["x0"], mode=pad),
        helper.make_node("Conv", ["x0", "w1"], ["x1"], kernel_shape=[5, 5]),
        helper.make_node(inner, ["x1"], ["x2"]),
        helper.make_node("Conv", ["x2", "w2"], ["x3"], kernel_shape=[1, 1]),
        helper.make_node(last, ["x3"], ["depth"]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, *SIZE])]
        for name, channels in (("image", 3), ("depth", codes))
    )
    weights = [numpy_helper.from_array(value, name) for name, value in (("w1", w1), ("w2", w2))]
    graph = helper.make_graph(nodes, "small", inputs, outputs, [*weights, pads])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def write_photos(folder: Path, count: int = 6, size: tuple[int, int] = (80, 48)) -> Path:
    """Pictures with an object of its own colour here and there, of another shape than the input."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (5, 8, 3), dtype=np.uint8)).resize(size)
        fine = generator.integers(-25, 25, (size[1], size[0], 3))
        tilt = np.linspace(-40, 60, size[1])[:, None, None] * np.array([1.0, 0.2, -0.6])
        pixels = np.clip(np.asarray(coarse) + fine + tilt, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


def case_of(folder: Path, network: Path, codes: int = 1) -> Case:
    """The float network, with what a device wrote to ``folder / "npu"``."""
    case = Case(
        CaseOptions(
            network=network,
            images=folder / "photos",
            device=folder / "npu",
            meaning=MEANING,
            pixels=PIXELS,
            reading=Reading(lenient=True),
        )
    )
    if codes > 1:  # as a bundle says it
        depth_range = MEANING.depth_range
        case.codec = HostIntegerFractional(depth_range) if codes == 2 else HostThermometer(depth_range, "log", codes)
        case.layout = OutputLayout(("depth",), (codes,))
    return case


class Device:
    """Writes what a device returns for the photos in a folder.

    Args:
        folder: has ``photos``; outputs go to ``npu``.
        file: the file that the device runs.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder, self.file = folder, OnnxFile(file)
        self.inputs = NetworkInputs(folder / "photos", (3, *SIZE), "image", PIXELS)

    def __call__(self, given=None, said=lambda codes: codes, rounded=True, order=None):
        """One file per image: of ``said`` of the codes for what ``given`` makes of an image's number."""
        (self.folder / "npu").mkdir(exist_ok=True)
        count = len(self.inputs)
        for index, name in enumerate(self.inputs.files):
            source = index if order is None else order(index, count)
            image = self.inputs.load(source) if given is None else given(self.inputs, source)
            codes = self.file(image[None])["depth"][0].numpy()
            if rounded:
                codes = np.rint(np.clip(codes, 0, 1) * 255) / 255
            np.save(self.folder / "npu" / f"{name.stem}.npy", said(codes).astype(np.float32))


def resized(way: Callable[..., Image.Image], **how):
    """A maker of inputs whose pictures come to size in another way: a function of Pillow, with its arguments."""

    def given(inputs: NetworkInputs, index: int) -> torch.Tensor:
        picture = way(Image.open(inputs.files[index]), SIZE[::-1], **how)
        return PIXELS(torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous())

    return given
