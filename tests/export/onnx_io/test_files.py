"""The network files of a bundle, for a small U-Net: precision, biases, scales, drift, latency, operator counts."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from depth_distill.codecs import DepthRange, HostIntegerFractional, HostPair, HostSingle, HostThermometer
from depth_distill.errors import ConfigError, DataError
from depth_distill.export.backends.latency import latencies
from depth_distill.export.backends.operator_counts import count_operators
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.compare.drift import DriftStatistics, layer_drift, output_drift
from depth_distill.export.onnx_io.encodings import aimet_encodings, scales
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.half import export_half, export_mixed
from depth_distill.export.onnx_io.metric_onnx import MetricNetwork, export_with_decoder
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.models import DepthNet
from depth_distill.quantization.analysis.mixed_precision import mixed_network
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.interface import output_layout
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.passes.uint8_input import fold_normalization
from depth_distill.quantization.simulate.fake_quantize import quantizers
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target
from depth_distill.types import IMAGENET_MEAN, IMAGENET_STD
from tests.export.networks import smooth_images, with_random_statistics

WIDE = ["encoder.conv1", "encoder.layer1.0.conv2", "head.conv"]


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return fold(trace(with_random_statistics(DepthNet("resnet18", decoder_channels=(32, 16, 16, 8, 8)).eval())))


@pytest.fixture(scope="module")
def images():
    return smooth_images(4, (64, 96))


@pytest.fixture(scope="module")
def quantized(graph, images):
    return quantize_post_training(graph, load_target("onnxruntime-cpu"), [images], progress=False)


@pytest.fixture(scope="module")
def folder(graph, quantized, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    export_float(graph, folder / "float.onnx", FileSpec.like(images[:1]))
    export_qdq(quantized, folder / "int8.onnx", FileSpec.like(images[:1]))
    export_half(folder / "float.onnx", folder / "fp16.onnx")
    mixed = mixed_network(quantized, WIDE, [images], "fp16", "minmax")
    export_mixed(mixed, WIDE, folder / "mixed.onnx", FileSpec.like(images[:1]))
    return folder


def stored(path):
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def test_the_integer_file_has_no_float_convolution_and_no_avoidable_pair(folder):
    found = count_operators(folder / "int8.onnx")
    assert (found.float_convs, found.avoidable, found.transposes) == (0, 0, 0)
    assert found.integer_convs == count_operators(folder / "float.onnx").float_convs == 31
    assert found.quantize == 2  # input and output
    assert not {"Add", "Concat", "Relu"} & set(found.others)


def test_biases_are_int32_on_the_grid_of_the_products(folder, graph, quantized):
    found = stored(folder / "int8.onnx")
    codes, scale = found["encoder.conv1.bias.codes"], found["encoder.conv1.bias.scale"]
    every = quantizers(quantized)
    image = next(each for each in every.values() if each.kind == "input")
    assert codes.dtype == np.int32
    assert scale == pytest.approx(float(image.constants()[0] * every["encoder.conv1.weight"].constants()[0]))
    bias = graph.get_submodule("encoder.conv1").bias.detach().numpy()
    assert np.abs(codes * scale - bias).max() <= 0.5001 * scale


def test_sizes(folder):
    size = {name: (folder / f"{name}.onnx").stat().st_size for name in ("float", "int8", "fp16", "mixed")}
    assert size["int8"] < 0.26 * size["float"]
    assert 0.49 < size["fp16"] / size["float"] < 0.52
    assert size["int8"] < size["mixed"] < size["fp16"]


def test_half_and_mixed_files_compute_what_their_graphs_define(folder, graph, quantized, images):
    with torch.no_grad():
        exact = graph(images)
        mixed = mixed_network(quantized, WIDE, [images], "fp16", "minmax")(images)
    # Eleven bits in every layer, in a random network.
    assert (OnnxNetwork(folder / "fp16.onnx")(images) - exact).abs().mean() < 1e-3
    assert (OnnxNetwork(folder / "mixed.onnx")(images) - mixed).abs().mean() < 0.5 / 255
    weights = stored(folder / "mixed.onnx")
    assert {name for name, value in weights.items() if value.dtype == np.float16 and value.ndim == 4} == {
        f"{name}.weight.half" for name in WIDE
    }
    kinds = [node.op_type for node in onnx.load(folder / "mixed.onnx").graph.node]
    assert kinds.count("Cast") <= 3 * len(WIDE)


def test_a_high_precision_layer_that_the_file_does_not_have(quantized, images, tmp_path):
    with pytest.raises(ConfigError, match=r"no layer 'decoder\.nothing'"):
        export_mixed(quantized, ["decoder.nothing"], tmp_path / "a.onnx", FileSpec.like(images[:1]))
    assert not list(tmp_path.iterdir())


def test_pixels_are_read_as_codes(graph, images, tmp_path):
    folded = fold_normalization(graph, IMAGENET_MEAN, IMAGENET_STD)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    pixels[0, 0, 0, :2] = torch.tensor([0, 255])
    quantized = quantize_post_training(folded, load_target("per-tensor-minmax"), [pixels.float()], progress=False)
    path = export_qdq(quantized, tmp_path / "a.onnx", FileSpec.like(pixels[:1].float(), uint8_input=True))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"image": pixels[:1].numpy()})[0])
    with torch.no_grad():
        assert (found - quantized(pixels[:1].float())).abs().mean() < 0.5 / 255
    assert count_operators(path).float_convs == 0
    assert not [node for node in onnx.load(path).graph.node if node.op_type == "Cast"]


def test_scales_and_encodings_name_the_tensors_of_the_float_file(folder, quantized):
    tensors = {name for node in onnx.load(folder / "float.onnx").graph.node for name in (*node.input, *node.output)}
    found = scales(folder / "int8.onnx")
    assert {name for name, each in found.items() if each["kind"] == "activation"} <= tensors
    every = quantizers(quantized)
    scale, zero_point = every["encoder.act1"].constants()
    assert found["encoder.act1"] == {
        "kind": "activation", "dtype": "uint8", "scale": pytest.approx(float(scale)), "zero_point": int(zero_point),
    }  # fmt: skip
    encodings = aimet_encodings(folder / "int8.onnx")
    (weight,) = encodings["param_encodings"]["encoder.conv1.weight"]
    assert (weight["bitwidth"], weight["is_symmetric"], weight["offset"]) == (8, "True", -128)
    assert weight["min"] == pytest.approx(-128 * weight["scale"])
    (activation,) = encodings["activation_encodings"]["encoder.act1"]
    assert activation["max"] == pytest.approx((255 - int(zero_point)) * float(scale))
    assert len(encodings["param_encodings"]) == 31


def test_drift_of_layers_grows_where_a_layer_was_changed(folder, images, tmp_path):
    inputs = images[:2].numpy()
    assert all(each.drift.max == 0 for each in layer_drift(folder / "int8.onnx", folder / "int8.onnx", inputs))
    drifts = {each.name: each.drift for each in layer_drift(folder / "float.onnx", folder / "int8.onnx", inputs)}
    assert list(drifts)[:2] == ["image", "encoder.act1"]
    assert all(each.mean > 0 for each in drifts.values())
    model = onnx.load(folder / "int8.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "decoder.blocks.2.conv1.0.bias.codes":
            codes = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(codes + 1_000_000, tensor.name))
    onnx.save(model, tmp_path / "broken.onnx")
    broken = {each.name: each.drift for each in layer_drift(folder / "float.onnx", tmp_path / "broken.onnx", inputs)}
    changed = [name for name in drifts if broken[name].mean != drifts[name].mean]
    assert changed[0] == "decoder.blocks.2.conv1.2"


def test_statistics_are_those_of_numpy():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 1000)), generator.normal(size=(2, 1000))
    statistics = DriftStatistics("x", step=0.5)
    for piece in range(2):
        statistics.add(one[piece], other[piece])
    found, distance = statistics.drift(), np.abs(one - other)
    assert found.mean == pytest.approx(distance.mean())
    assert found.max == pytest.approx(distance.max())
    assert found.p99 == pytest.approx(np.percentile(distance, 99), rel=0.02)  # bins of 0.8 %, and ranks between samples
    assert found.beyond_step == pytest.approx((distance > 0.505).mean())
    assert found.sqnr_db == pytest.approx(10 * np.log10((one**2).sum() / (distance**2).sum()))
    with pytest.raises(DataError, match="1 of 2 values of the other run are NaN"):
        output_drift({"codes": np.zeros(2)}, {"codes": np.array([0, np.nan])})
    with pytest.raises(ConfigError, match="no output 'codes'"):
        output_drift({"codes": np.zeros(2)}, {})


def test_latencies_are_of_every_file(folder, images):
    found = latencies({name: folder / f"{name}.onnx" for name in ("float", "int8")}, images[:1].numpy(), repeats=2)
    assert list(found) == ["float", "int8"]
    assert all(each > 0 for each in found.values())


RANGE = DepthRange(0.5, 15.0)


@pytest.mark.parametrize(
    "codec",
    [
        *(HostSingle(RANGE, each) for each in ("linear", "inverse", "log")),
        HostThermometer(RANGE, "log", 8, "uniform"),
        HostThermometer(RANGE, "log", 16, "logit"),
        *HostIntegerFractional(RANGE, "sum", "floor").decoders,
        *HostIntegerFractional(RANGE, "round", "floor", "triangle").decoders,
        HostIntegerFractional(RANGE),
        HostPair(RANGE, "log"),
        HostPair(RANGE, "log", spacing="logit"),
        HostPair(RANGE, "linear", spacing="metres"),
    ],
    ids=str,
)
def test_a_network_that_ends_in_metres_agrees_with_the_codec(codec):
    depth_m = np.linspace(0.5, 15, 3000, dtype=np.float32).reshape(1, 1, 50, 60)
    codes = np.rint(codec.encode(depth_m) * 255) / np.float32(255)
    layout = output_layout(codec, separate=False)
    with torch.no_grad():
        found = MetricNetwork(torch.nn.Identity(), codec, layout)(torch.from_numpy(codes)).numpy()
    # Exponentials differ in the last bits, and the logit spacing's sigmoid multiplies that by up to ln(30).
    assert np.abs(found / codec.decode(codes) - 1).max() < 3e-6


def test_the_file_that_ends_in_metres(graph, images, tmp_path):
    codec = HostSingle(RANGE)
    path = export_with_decoder(graph, codec, output_layout(codec), tmp_path / "single.onnx", FileSpec.like(images[:1]))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "depth_m"
    found = session.run(None, {"image": images[:1].numpy()})[0]
    with torch.no_grad():
        expected = codec.decode(graph(images[:1]).numpy())
    # 1e-6 in a code is 3.4e-6 in depth: ln(30).
    assert np.abs(found / expected - 1).max() < 2e-5


@pytest.mark.parametrize(
    "codec",
    [
        HostThermometer(RANGE, "log", 16, "logit"),
        HostIntegerFractional(RANGE, fraction="triangle"),
        HostPair(RANGE, "log", spacing="logit"),
    ],
    ids=str,
)
def test_the_operators_of_a_decoder_are_those_of_onnx(codec, tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, codec.channels, 1), torch.nn.Sigmoid()).eval()
    image = torch.randn(1, 3, 16, 24)
    path = export_with_decoder(
        network, codec, output_layout(codec, separate=False), tmp_path / "metric.onnx", FileSpec.like(image)
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = codec.decode(network(image).numpy())
    # 1e-6 in a code is 3.4e-6 in depth, and the logit spacing's widths of up to 7 multiply that.
    assert np.abs(session.run(None, {"image": image.numpy()})[0] / expected - 1).max() < 3e-5
