"""What is run where."""

from depth_distill.export.backends import BACKENDS
from depth_distill.export.verification import trials

LAYERS = ("encoder.conv1", "head.conv")


def titles(artifacts, names, wide_layers=()):
    return [each.title for each in trials(artifacts, [BACKENDS[name] for name in names], wide_layers)]


def test_files_run_where_they_are_taken_and_the_float_file_is_quantized_where_that_can_be():
    assert titles(["float", "int8"], ["onnxruntime", "iree"]) == [
        "float on onnxruntime",
        "float on onnxruntime, quantized by it",
        "float on iree",
        "int8 on onnxruntime",
        "int8 on iree",
    ]
    assert titles(["fp16"], ["rknn", "nncf"]) == []
    assert titles(["single"], ["onnxruntime", "qnn"]) == ["single on onnxruntime"]  # metres are for hosts


def test_layers_in_half_precision_are_also_asked_of_a_tool_chain_that_quantizes_by_itself():
    found = trials(["float", "mixed"], [BACKENDS["onnxruntime"], BACKENDS["rknn"]], LAYERS)
    (mixed,) = [each for each in found if each.wide_layers]
    assert mixed.title == "float on rknn, quantized by it, 2 layers FP16"
    assert mixed.runtime == "Rockchip RKNN PTQ, 2 layers FP16"
    assert mixed.options == {"fp16_layers": "encoder.conv1,head.conv"}
    assert not [each for each in trials(["float"], [BACKENDS["rknn"]]) if each.wide_layers]
