import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.backends.vendor_ptq import vendor_ptq
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.models import DepthNet
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.simulate.calibrate import apply_calibration, calibrate
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers, set_enabled
from depth_distill.quantization.target.target import load_target
from tests.export.networks import calibrated, smooth_images, with_random_statistics

SIZE = (16, 24)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, image):
        skip = self.stem(image)
        return self.head(torch.cat([self.up(self.pool(skip)), skip], dim=1)).sigmoid()


def exported(path, target="per-tensor-minmax", off=()):
    torch.manual_seed(0)
    network = calibrated(trace(Net()), target, [smooth_images(8, SIZE)])
    set_enabled(network, False, off)
    export_qdq(network, path, FileSpec.like(torch.zeros(1, 3, *SIZE)))
    return network, onnx.load(path)


def readers(model):
    """Operator types that read a DequantizeLinear of each producer: edges that carry a Q/DQ pair."""
    producer = {output: node for node in model.graph.node for output in node.output}
    found = set()
    for node in model.graph.node:
        for name in node.input:
            pair = producer.get(name)
            if node.op_type != "QuantizeLinear" and pair is not None and pair.op_type == "DequantizeLinear":
                before = producer.get(pair.input[0])  # None: codes stored in the file
                source = producer.get(before.input[0]) if before is not None else None
                kind = "weight" if before is None else source.op_type if source is not None else "image"
                found.add((kind, node.op_type))
    return found


def test_exactly_these_edges_carry_a_pair(tmp_path):
    _, model = exported(tmp_path / "q.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert readers(model) == {
        ("image", "Conv"),
        ("weight", "Conv"),
        ("Relu", "MaxPool"),
        ("Relu", "Concat"),
        ("MaxPool", "Resize"),
        ("Resize", "Concat"),
        ("Concat", "Conv"),
        ("Conv", "Sigmoid"),
    }
    producer = {output: node for node in model.graph.node for output in node.output}
    assert producer["codes"].op_type == "DequantizeLinear"
    between_conv_and_relu = [node for node in model.graph.node if node.op_type == "Relu"]
    assert [producer[node.input[0]].op_type for node in between_conv_and_relu] == ["Conv"]


@pytest.mark.parametrize("target", ["per-tensor-minmax", "per-channel"])
def test_weights_are_stored_as_int8(tmp_path, target):
    network, model = exported(tmp_path / "q.onnx", target)
    stored = {tuple(each.dims): numpy_helper.to_array(each) for each in model.graph.initializer}
    codes = stored[(4, 3, 3, 3)]
    assert codes.dtype == np.int8
    quantizer = quantizers(network)["stem.0.weight"]
    weight = network.get_submodule("stem.0").weight.detach()
    scale = quantizer.scale.view(-1, 1, 1, 1)
    np.testing.assert_array_equal(codes, (weight / scale).round().clamp(-128, 127).numpy())
    assert np.abs(codes).max() == 127


@pytest.mark.parametrize("target", ["per-tensor-minmax", "per-channel"])
@pytest.mark.parametrize("optimize", [False, True])
def test_onnx_runtime_agrees(tmp_path, target, optimize):
    network, _ = exported(tmp_path / "q.onnx", target)
    images = smooth_images(4, SIZE)
    with torch.no_grad():
        expected = network.eval()(images)
    step = quantizers(network)["sigmoid"].scale.item()
    # int8 arithmetic rounds sums and requantizes with another order of operations: one step at most.
    torch.testing.assert_close(
        OnnxNetwork(tmp_path / "q.onnx", optimize, 1)(images), expected, rtol=0, atol=1.01 * step
    )


def test_what_is_switched_off_stays_float(tmp_path):
    _, model = exported(tmp_path / "q.onnx", off=["head*", "sigmoid"])
    assert ("Conv", "Sigmoid") not in readers(model)
    producer = {output: node for node in model.graph.node for output in node.output}
    assert producer["codes"].op_type == "Sigmoid"
    assert (2, 8, 1, 1) in {tuple(each.dims) for each in model.graph.initializer if each.data_type == 1}


def test_the_network_is_left_as_it_was(tmp_path):
    network, _ = exported(tmp_path / "q.onnx")
    assert len(quantizers(network)) == 7


def test_without_ranges_it_refuses(tmp_path):
    network = fake_quantize(trace(Net()), load_target("per-tensor-minmax"))
    with pytest.raises(ConfigError, match="the quantizer image has no range: calibrate before exporting"):
        export_qdq(network, tmp_path / "q.onnx", FileSpec.like(torch.zeros(1, 3, *SIZE)))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_parity_of_a_resnet18_depth_net(tmp_path):
    """Rounding amplifies: a relative error of 1e-6 behind every convolution is enough to change codes by as much as
    quantization itself does. So this network is one whose quantization error is below a code on average.
    """
    torch.manual_seed(0)
    folded = fold(trace(with_random_statistics(DepthNet("resnet18"))))
    size, images = (96, 128), smooth_images(20, (96, 128))
    network = fake_quantize(folded, load_target("per-tensor-minmax"))
    apply_calibration(calibrate(network, images.split(4), progress=False), network)
    example = torch.zeros(1, 3, *size)
    with torch.no_grad():
        codes, float_codes = network.eval()(images), folded(images)
    step = quantizers(network)["head.output"].scale.item()
    assert float_codes.max() - float_codes.min() > 50 * step  # or the test would not test much
    assert (codes - float_codes).abs().mean() < step

    def within_one_step(path):
        return ((OnnxNetwork(path, threads=1)(images) - codes).abs() < 1.01 * step).float().mean().item()

    assert within_one_step(export_qdq(network, tmp_path / "q.onnx", FileSpec.like(example))) >= 0.995
    # 14.3 M weights, one byte each, and some structure.
    assert (tmp_path / "q.onnx").stat().st_size < 1.05 * sum(each.numel() for each in folded.parameters())
    # The vendor's own PTQ of the float file lands on the same codes: same ranges, same placement.
    export_float(folded, tmp_path / "float.onnx", FileSpec.like(example))
    assert within_one_step(vendor_ptq(tmp_path / "float.onnx", images.split(4), tmp_path / "v.onnx")) >= 0.99


class Twice(nn.Module):
    """A convolution that is called twice, and a head that two scales share."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 1, 1)

    def forward(self, image):
        one = self.conv(image).relu()
        two = self.conv(one).relu()
        return torch.cat([self.head(one).sigmoid(), self.head(two).sigmoid()], dim=1)


@pytest.mark.parametrize("target", ["per-tensor-minmax", "per-channel"])
def test_a_layer_that_is_called_twice_has_a_bias_for_each_scale(tmp_path, target):
    torch.manual_seed(0)
    images = smooth_images(8, SIZE)
    network = calibrated(trace(Twice()), target, [images])
    model = onnx.load(export_qdq(network, tmp_path / "model.onnx", FileSpec.like(images[:1])))
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    biases = [each.name for each in model.graph.initializer if each.name.endswith("bias.codes")]
    biases += [each.name for each in model.graph.initializer if "bias.call_1.codes" in each.name]
    assert sorted(biases) == ["conv.bias.call_1.codes", "conv.bias.codes", "head.bias.call_1.codes", "head.bias.codes"]
    received = OnnxNetwork(tmp_path / "model.onnx", optimize=False)(images[:1])
    expected = network(images[:1])
    step = float(quantizers(network)["cat"].constants()[0])
    assert (received - expected).abs().max() <= 1.01 * step
