"""Networks written in PyTorch, exported by either exporter: what comes back is what ``trace`` gives."""

import logging
import warnings

import pytest
import torch
from torch import nn

from depth_distill.export.onnx_io.write_back import write_back
from depth_distill.loading.onnx_importer import import_onnx
from depth_distill.loading.onnx_importer.session import open_session, run_session
from depth_distill.loading.onnx_importer.verification import random_inputs
from depth_distill.models import DepthNet
from depth_distill.quantization.graph.channel_groups import channel_groups
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.equalize import equalize
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.simulate.fake_quantize import placement
from tests.quantization.small_case import LAYERS, TARGET, SmallNet

EXPORTERS = {"torchscript 11": {"dynamo": False, "opset_version": 11}, "torch.export 18": {"dynamo": True}}


def exported(network, path, size, **options):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        names = {"input_names": ["image"], "output_names": ["codes"]}
        torch.onnx.export(network.eval(), (torch.zeros(1, 3, size, size),), path, verbose=False, **names, **options)
    return path


@pytest.mark.parametrize("options", EXPORTERS.values(), ids=EXPORTERS)
def test_a_small_network_is_its_trace(tmp_path, options):
    network = SmallNet()
    found = import_onnx(exported(network, tmp_path / "small.onnx", 8, **options))
    expected = trace(network)
    assert found.deviation < 1e-6
    assert found.any_batch
    groups, wanted = channel_groups(found.graph), channel_groups(expected)
    assert list(groups.layers) == list(wanted.layers) == list(LAYERS)
    assert groups.pinned.keys() == wanted.pinned.keys() == {"head"}
    assert groups.count == wanted.count
    assert [(site.name, site.kind) for site in placement(found.graph, TARGET) if site.kind == "weight"] == [
        (site.name, site.kind) for site in placement(expected, TARGET) if site.kind == "weight"
    ]
    assert len(placement(found.graph, TARGET)) == len(placement(expected, TARGET))


def test_a_u_net_of_opset_11_comes_back_equalized(tmp_path):
    torch.manual_seed(0)
    network = DepthNet("resnet10t", decoder_channels=(16, 16, 8, 8, 8))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    training = torch.onnx.TrainingMode.PRESERVE  # keeps the batch norms
    options = {"dynamo": False, "opset_version": 11, "training": training, "do_constant_folding": False}
    found = import_onnx(exported(network, tmp_path / "unet.onnx", 32, **options))
    folded = fold(found.graph)
    reference = channel_groups(fold(trace(network)))
    assert channel_groups(folded).pinned.keys() == reference.pinned.keys() == {"head.conv"}
    after = write_back(found, equalize(folded).graph_module)
    assert not any(node.op_type == "BatchNormalization" for node in after.graph.node)
    assert list(after.opset_import) == list(found.model.opset_import)
    feeds = random_inputs(found.inputs, seed=3)
    before, hardened = (
        run_session(open_session(model.SerializeToString(), found.file), feeds, found.file)[0]
        for model in (found.model, after)
    )
    assert abs(hardened - before).max() <= 1e-4 * abs(before).max()
