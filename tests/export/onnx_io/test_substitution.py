import dataclasses

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.backends.runtime import OnnxNetwork
from depth_distill.export.backends.vendor_ptq import inexpressible, vendor_network
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.export.onnx_io.qdq import export_qdq
from depth_distill.export.onnx_io.substitution import substitute_operators, unwritable
from depth_distill.quantization.graph.substituted import substitute
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.fake_quantize import without_substitutions
from depth_distill.quantization.simulate.ptq import quantize_post_training
from depth_distill.quantization.target.target import load_target

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
HARD = load_target("hard-sigmoid")


def network():
    torch.manual_seed(1)
    return trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 1, 1), nn.Tanh(), nn.ELU(), nn.Sigmoid()))


@pytest.mark.parametrize("opset", [10, 19])
@pytest.mark.parametrize(
    "substitutions",
    [
        {"Sigmoid": "hard_sigmoid", "Tanh": "hard_tanh", "Elu": "relu"},
        {"Sigmoid": "relu6_sigmoid", "Swish": "no"},
    ],
)
def test_a_file_computes_what_the_graph_does(tmp_path, substitutions, opset):
    spec = dataclasses.replace(FileSpec.like(IMAGES[:1]), opset=opset)
    model = onnx.load(export_float(network(), tmp_path / "float.onnx", spec))
    changed = substitute_operators(model, substitutions)
    onnx.checker.check_model(changed)
    (found,) = onnx.reference.ReferenceEvaluator(changed).run(None, {"image": IMAGES[:1].numpy()})
    with torch.no_grad():
        expected = substitute(network(), substitutions)[0](IMAGES[:1]).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_onnx_has_no_operator_for():
    assert unwritable({"Sigmoid": "table_5", "Tanh": "no"}) == (
        "it computes Sigmoid as table_5, for which ONNX has no operator"
    )
    assert unwritable({"Tanh": "no", "Gelu": "unconfirmed", "Sigmoid": "hard_sigmoid"}) is None
    assert inexpressible(dataclasses.replace(HARD, substitutions={"Sigmoid": "table_5"})) is not None
    with pytest.raises(ConfigError, match="Sigmoid as table_5"):
        substitute_operators(onnx.ModelProto(), {"Sigmoid": "table_5"})


def test_the_simulation_agrees_with_vendor_ptq_of_the_replaced_operator(tmp_path):
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid()))
    with torch.no_grad():
        graph.get_submodule("2").weight.mul_(6)
        exact = graph(IMAGES)
    with torch.no_grad():
        ours = quantize_post_training(graph, HARD, [IMAGES], False)(IMAGES)
        theirs = vendor_network(graph, [IMAGES], tmp_path, substitutions=HARD.substituted)(IMAGES)["codes"]
    assert float((ours - exact).abs().max()) > 0.05
    assert float((ours - theirs).abs().mean()) < 0.004  # one step of 8 bits


def test_a_qdq_file_has_the_operator_itself(tmp_path):
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid()))
    quantized = quantize_post_training(graph, dataclasses.replace(HARD, scales="imported"), [IMAGES], False)
    path = export_qdq(quantized, tmp_path / "int8.onnx", FileSpec.like(IMAGES[:1]))
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("Sigmoid") == 1
    assert "HardSigmoid" not in operators
    with torch.no_grad():
        expected = without_substitutions(quantized)(IMAGES)
        assert float((OnnxNetwork(path)(IMAGES) - expected).abs().mean()) < 0.001
