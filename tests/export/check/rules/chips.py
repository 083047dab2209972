"""Modified profiles, and the findings of a check with them."""

import dataclasses

import onnx.parser

from depth_distill.export.check.npu_check import check_onnx
from depth_distill.quantization.target.target import NpuTarget, TensorFormat, load_target


def chip(name: str = "onnxruntime-cpu", capabilities=None, operators=None, **values) -> NpuTarget:
    """A built-in profile with some values replaced."""
    target = load_target(name)
    capabilities = capabilities or {}
    if "no" in (capabilities.get("int8"), capabilities.get("asymmetric_activations")):
        # Formats that do not contradict the rest of the profile.
        tensor_format = TensorFormat("int16" if capabilities.get("int8") == "no" else "int8", symmetric=True)
        values = {"weights": tensor_format, "activations": tensor_format} | values
    return dataclasses.replace(
        target,
        capabilities=dataclasses.replace(target.capabilities, **capabilities),
        operators=dataclasses.replace(target.operators, **operators or {}),
        **values,
    )


def parsed(graph: str, opset: int = 19, domains: tuple[str, ...] = ()) -> onnx.ModelProto:
    """A model from the text of a graph without its name."""
    imports = ", ".join(f'"{domain}": {version}' for domain, version in [("", opset), *((each, 1) for each in domains)])
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> graph {graph}")
    onnx.checker.check_model(model)
    return model


def found(graph: str | onnx.ModelProto, target: NpuTarget, rule: str, opset: int = 19, domains: tuple[str, ...] = ()):
    """Findings of one rule, given without its line of the profile."""
    model = parsed(graph, opset, domains) if isinstance(graph, str) else graph
    return [each for each in check_onnx(model, target).findings if each.rule.split(",")[0] == rule]
