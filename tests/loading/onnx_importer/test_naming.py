import pytest

from depth_distill.loading.onnx_importer.naming import ModulePaths, scope_of, wanted_path
from depth_distill.loading.onnx_importer.nodes import Node


def node(name, operator="Conv", scopes=()):
    return Node(operator, name, ("x",), ("y",), {}, tuple(scopes))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/encoder/layer1/layer1.0/conv1/Conv", "encoder.layer1.0.conv1"),  # TorchScript
        ("/encoder/conv1/Conv_1", "encoder.conv1"),
        ("encoder.layer1.0.conv1", "encoder.layer1.0.conv1"),
        ("Conv_12", "conv"),
        ("", "conv"),
        ("model/block 1/conv:0", "model.block_1.conv_0"),
        ("graph.train.conv", "graph_.train_.conv"),  # attributes that every module has
    ],
)
def test_a_node_is_a_module_where_its_name_has_a_path(name, path):
    assert wanted_path(node(name)) == path


def test_scopes_of_torchs_exporter_name_the_layer():
    assert wanted_path(node("node_conv2d_3", scopes=["", "encoder", "encoder.conv1", "conv2d_3"])) == "encoder.conv1"


def test_paths_are_unique_and_no_module_is_the_folder_of_another():
    nodes = [node("a/b"), node("a/b/c"), node("a/b/c"), node(""), node("")]
    paths = ModulePaths(nodes)
    assert [paths.take(each) for each in nodes] == ["a.b.conv", "a.b.c", "a.b.c_1", "conv", "conv_1"]


def test_a_function_is_named_after_the_module_around_it():
    assert scope_of(node("/encoder/layer1/layer1.0/Add", "Add")) == "encoder.layer1.0"
    assert scope_of(node("decoder.blocks.0.cat", "Concat")) == "decoder.blocks.0"
    assert scope_of(node("Add_3", "Add")) == ""
