"""Which files run on which tool chains."""

from pathlib import Path
from types import SimpleNamespace

import torch

from depth_distill.codecs import DepthRange, HostSingle
from depth_distill.errors import ConfigError
from depth_distill.export.backends.backends import BACKENDS, Backend
from depth_distill.export.bundle.verification import Trial, Verifier, trials
from depth_distill.quantization.interface import InputLayout, Interface

LAYERS = ("encoder.conv1", "head.conv")


def titles(artifacts, names, high_precision_layers=()):
    return [each.title for each in trials(artifacts, [BACKENDS[name] for name in names], high_precision_layers)]


def test_files_run_where_they_are_taken_and_the_float_file_is_quantized_where_that_can_be():
    assert titles(["float", "int8"], ["onnxruntime", "iree"]) == [
        "float on onnxruntime",
        "float on onnxruntime, its own PTQ",
        "float on iree",
        "int8 on onnxruntime",
        "int8 on iree",
    ]
    assert titles(["fp16"], ["rknn", "nncf"]) == []
    assert titles(["metric"], ["onnxruntime", "qnn"]) == ["metric on onnxruntime"]  # metres are for hosts


def test_the_int8_network_with_a_table_inside_runs_where_the_table_was_fitted():
    backends = [BACKENDS[name] for name in ("onnxruntime", "openvino", "qnn")]
    for fitted_on, expected in (("openvino", ["metric_int8 on openvino"]), ("qnn", []), (None, [])):
        assert [each.title for each in trials(["metric_int8"], backends, (), fitted_on)] == expected
    assert [each.returns_integers for each in trials(["float", "int8"], backends[:1])] == [False, True, True]


def test_a_tool_chain_with_its_own_ptq_also_runs_with_layers_in_half_precision():
    found = trials(["float", "mixed"], [BACKENDS["onnxruntime"], BACKENDS["rknn"]], LAYERS)
    (mixed,) = [each for each in found if each.high_precision_layers]
    assert mixed.title == "float on rknn, its own PTQ, 2 layers in FP16"
    assert mixed.runtime == "Rockchip RKNN PTQ, 2 layers in FP16"
    assert mixed.options == {"fp16_layers": "encoder.conv1,head.conv"}
    assert not [each for each in trials(["float"], [BACKENDS["rknn"]]) if each.high_precision_layers]


def test_a_trial_gives_its_backend_the_options_and_keeps_a_refusal(tmp_path):
    given = {}

    class Refusing(Backend):
        def run(self, model, inputs, calibration=None, options=None, repeats=20):
            given.update(model=model, shape=inputs.shape, calibration=calibration, options=options)
            raise ConfigError("no")

    backend = Refusing("rknn", "Rockchip RKNN", "rknn", "rknn", frozenset({"float"}), True, True, mixes=True)
    evaluator = SimpleNamespace(images=(torch.zeros(2, 3, 4, 6), torch.zeros(1, 3, 4, 6)))
    codec = HostSingle(DepthRange(0.5, 15.0), "log")
    interface = Interface.of_codes(InputLayout(4, 6, (0, 0, 0), (1, 1, 1)), codec)
    verifier = Verifier(evaluator, interface, tmp_path, {})
    row = verifier.run(Trial("float", backend, True, LAYERS), {"float": Path("model.float.onnx")})
    assert row["runtime"] == "Rockchip RKNN PTQ, 2 layers in FP16"
    assert row["error"] == "no"
    assert given["shape"] == (3, 3, 4, 6)
    assert given["calibration"] == tmp_path
    assert given["options"] == {"fp16_layers": "encoder.conv1,head.conv"}
