import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.backends.backends import BACKENDS, RUNNERS, Backend, find_backend
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.backends.vendor_ptq import vendor_ptq
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.quantization.graph.trace import trace
from tests.export.networks import calibrated, smooth_images

SIZE = (16, 24)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 2, 1),
        nn.Sigmoid(),
    ).eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Float and QDQ files of one small network, calibration tensors, and images to score."""
    folder = tmp_path_factory.mktemp("bundle")
    example = torch.zeros(1, 3, *SIZE)
    images = smooth_images(8, SIZE)
    export_float(network(), folder / "float.onnx", FileSpec.like(example))
    export_qdq(
        calibrated(trace(network()), "per-tensor-minmax", [images]).eval(), folder / "int8.onnx", FileSpec.like(example)
    )
    (folder / "calibration/tensors").mkdir(parents=True)
    names = [f"tensors/{index:04}.npy" for index in range(len(images))]
    for name, image in zip(names, images, strict=True):
        np.save(folder / "calibration" / name, image[None].numpy())
    (folder / "calibration/tensors.txt").write_text("\n".join(names) + "\n")
    return folder


@pytest.fixture
def images():
    return smooth_images(4, SIZE, seed=1)


def installed(name):
    backend = find_backend(name)
    if backend.missing():
        pytest.skip(backend.missing())
    return backend


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_onnx_runtime_gives_what_the_network_gives(bundle, images, kind):
    model = bundle / f"{kind}.onnx"
    run = installed("onnxruntime").run(model, images.numpy(), repeats=3)
    expected = OnnxNetwork(model)(images).numpy()
    # Its own process may choose other kernels for its threads: float rounding, and one code where that tips a tie.
    np.testing.assert_allclose(run.outputs["codes"], expected, rtol=0, atol=1e-5 if kind == "float" else 1.01 / 255)
    assert run.outputs["codes"].dtype == np.float32
    assert run.milliseconds > 0
    assert run.load_seconds > 0
    assert not run.simulator


def test_onnx_runtime_quantizes_as_the_vendor_number_does(bundle, images, tmp_path):
    run = installed("onnxruntime").run(
        bundle / "float.onnx",
        images.numpy(),
        calibration=bundle / "calibration",
        options={"save": str(tmp_path / "ours.onnx")},
    )
    vendor_ptq(bundle / "float.onnx", [smooth_images(8, SIZE)], tmp_path / "vendor.onnx")
    ours, vendor = onnx.load(tmp_path / "ours.onnx"), onnx.load(tmp_path / "vendor.onnx")
    assert ours.graph == vendor.graph
    assert any("min/max" in note for note in run.notes)


def test_no_repeats_no_latency(bundle, images):
    assert installed("onnxruntime").run(bundle / "float.onnx", images[:1].numpy(), repeats=0).milliseconds is None


def test_several_outputs_and_an_input_of_another_name(tmp_path):
    graph = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 19]>
        probe (uint8[1, 3, 4, 5] pixels) => (float[1, 3, 4, 5] scores, float[1, 6, 4, 5] "a/b")
        {
            scores = Cast<to = 1>(pixels)
            "a/b" = Concat<axis = 1>(scores, scores)
        }
    """)
    onnx.save(graph, tmp_path / "probe.onnx")
    pixels = np.arange(120, dtype=np.uint8).reshape(2, 3, 4, 5)
    outputs = installed("onnxruntime").run(tmp_path / "probe.onnx", pixels).outputs
    np.testing.assert_array_equal(outputs["scores"], pixels.astype(np.float32))
    np.testing.assert_array_equal(outputs["a/b"], np.concatenate([pixels, pixels], axis=1).astype(np.float32))


def test_a_truncated_model_is_reported_in_the_tool_chains_words(bundle, images, tmp_path):
    model = tmp_path / "cut.onnx"
    model.write_bytes((bundle / "float.onnx").read_bytes()[:500])
    with pytest.raises(ConfigError, match=r"onnxruntime failed on .*cut.onnx \(exit code 1\)(.|\n)*INVALID_PROTOBUF"):
        installed("onnxruntime").run(model, images.numpy())


def test_unknown_options_are_refused(bundle, images):
    with pytest.raises(
        ConfigError, match=r"unknown option 'thread', expected one of \['optimize', 'save', 'threads'\]"
    ):
        installed("onnxruntime").run(bundle / "float.onnx", images.numpy(), options={"thread": "1"})


def test_a_missing_model(images, tmp_path):
    with pytest.raises(ConfigError, match="none.onnx does not exist"):
        installed("onnxruntime").run(tmp_path / "none.onnx", images.numpy())


@pytest.mark.parametrize("name", ["openvino", "qnn", "rknn", "iree"])
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_tool_chains_give_what_onnx_runtime_gives(bundle, images, name, kind):
    backend = installed(name)
    run = backend.run(bundle / f"{kind}.onnx", images[:2].numpy(), repeats=2)
    exact = {"optimize": "0"}
    expected = installed("onnxruntime").run(bundle / f"{kind}.onnx", images[:2].numpy(), options=exact, repeats=0)
    drift = np.abs(run.outputs["codes"] - expected.outputs["codes"])
    # A step of the codes is 1/255. Chips round ties and requantize in their own ways. Those without float32 compute
    # floats in FP16: 2^-11 a rounding, of which the network has several in a row.
    assert drift.mean() < (1 / 255 if kind == "int8" else 2**-10)
    assert run.simulator == backend.simulator
    assert (run.milliseconds is None) == backend.simulator


@pytest.mark.parametrize("name", ["nncf", "qnn", "rknn"])
def test_tool_chains_quantize_by_themselves(bundle, images, name):
    run = installed(name).run(bundle / "float.onnx", images[:2].numpy(), calibration=bundle / "calibration", repeats=0)
    exact = installed("onnxruntime").run(bundle / "float.onnx", images[:2].numpy(), repeats=0).outputs["codes"]
    drift = np.abs(run.outputs["codes"] - exact).mean()
    assert 1e-4 < drift < 3 / 255  # it is not the float network, and near it
    assert any("quantized by" in note or "min/max" in note for note in run.notes)


def test_openvino_is_kept_from_its_low_precision_transforms_where_they_are_wrong(tmp_path, images):
    example = torch.zeros(1, 3, *SIZE)
    quantized = calibrated(trace(network()), "symmetric-pow2", [smooth_images(8, SIZE)]).eval()  # int8 activations
    file = export_qdq(quantized, tmp_path / "int8.onnx", FileSpec.like(example))
    run = installed("openvino").run(file, images[:2].numpy(), repeats=0)
    assert any("LP_TRANSFORMS_MODE" in note for note in run.notes)
    expected = installed("onnxruntime").run(file, images[:2].numpy(), options={"optimize": "0"}, repeats=0)
    assert np.abs(run.outputs["codes"] - expected.outputs["codes"]).mean() < 1 / 255


def test_rknn_keeps_named_layers_in_half_precision(bundle, images):
    rknn = installed("rknn")
    layers = {node.name for node in onnx.load(bundle / "float.onnx").graph.node}
    how = {"calibration": bundle / "calibration", "repeats": 0}
    exact = installed("onnxruntime").run(bundle / "float.onnx", images[:2].numpy(), repeats=0).outputs["codes"]
    integer, mixed = (
        np.abs(rknn.run(bundle / "float.onnx", images[:2].numpy(), options=options, **how).outputs["codes"] - exact)
        for options in ({}, {"fp16_layers": ",".join(layers)})
    )
    assert mixed.mean() < 0.8 * integer.mean()  # only the input is rounded now
    with pytest.raises(ConfigError, match="the file has no node 'nothing'"):
        rknn.run(bundle / "float.onnx", images[:1].numpy(), options={"fp16_layers": "nothing"}, **how)
    with pytest.raises(ConfigError, match="needs --calibration"):
        rknn.run(bundle / "float.onnx", images[:1].numpy(), options={"fp16_layers": "0"}, repeats=0)


def test_names():
    assert all(name == backend.name and backend.runner.is_file() for name, backend in BACKENDS.items())
    assert {file.name for file in RUNNERS.glob("run_*.py")} == {backend.runner.name for backend in BACKENDS.values()}
    with pytest.raises(ConfigError, match="did you mean 'openvino'"):
        find_backend("openvion")


def test_a_missing_environment_names_the_cure(bundle, images, monkeypatch, tmp_path):
    monkeypatch.setenv("DEPTH_DISTILL_BACKENDS", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"nowhere/openvino: run `make backends`"):
        find_backend("openvino").run(bundle / "float.onnx", images.numpy())


def test_a_backend_without_ptq_names_those_that_have_it(bundle, images, monkeypatch):
    monkeypatch.setattr(Backend, "missing", lambda self: None)
    with pytest.raises(ConfigError, match="iree has no quantization of its own; these have: onnxruntime, nncf"):
        find_backend("iree").run(bundle / "float.onnx", images.numpy(), calibration=bundle / "calibration")


def test_runners_stand_alone_with_what_lies_beside_them(tmp_path):
    for file in RUNNERS.glob("*.py"):
        assert "depth_distill" not in file.read_text()
    # Of what it does not need, nothing is imported: not even by way of the folder that it lies in.
    copied = shutil.copytree(RUNNERS, tmp_path / "runners")
    command = [sys.executable, "-E", copied / "run_onnxruntime.py", "--help"]
    help_page = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "500"}
    )
    assert "threads: threads of the runtime" in help_page.stdout
