"""ONNX files of a few lines, written as text."""

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser, shape_inference

from depth_distill.loading.onnx_importer import import_onnx

IMAGE = "float[1,4,8,8] x"


def model_of(body, opset=17, inputs=IMAGE, outputs="y", domains=(), **constants):
    """A model of the nodes in ``body``; constants are arrays, or the shape of random weights."""
    generator = np.random.default_rng(0)
    graph = parser.parse_graph(f"g ({inputs}) => (float placeholder) {{ {body} }}")
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs.split())
    for name, value in constants.items():
        if isinstance(value, tuple):
            value = generator.normal(size=value).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 19 else 10)
    inferred = {each.name: each for each in shape_inference.infer_shapes(model).graph.output}
    for output in model.graph.output:
        if inferred[output.name].type.tensor_type.elem_type:
            output.type.CopyFrom(inferred[output.name].type)
    return model


def saved(path, model):
    onnx.save(model, path)
    return path


def imported(tmp_path, body, shapes=None, **options):
    """The imported model: verified against ONNX Runtime."""
    return import_onnx(saved(tmp_path / "network.onnx", model_of(body, **options)), shapes)


def kinds(found):
    """Types of the modules and names of the functions and methods that a graph calls, in order."""
    calls = [node for node in found.graph.graph.nodes if node.op.startswith("call")]
    return [
        type(found.graph.get_submodule(node.target)).__name__
        if node.op == "call_module"
        else (node.target if isinstance(node.target, str) else node.target.__name__)
        for node in calls
    ]
