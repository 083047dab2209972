"""Outputs of the layers of a file, as ONNX Runtime computes them node by node."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx

from depth_distill.export.onnx_io.layers import OnnxLayer
from depth_distill.loading.onnx_importer.files import read_onnx
from depth_distill.loading.onnx_importer.session import open_session, run_session


class LayerRunner:
    """Runs a file on ONNX Runtime without optimization and returns the outputs of its layers.

    Args:
        path: ONNX file with one input and a static batch of 1.
        layers: layers whose outputs to return.

    Raises:
        ConfigError: the file does not exist, or ONNX Runtime refuses it.
    """

    def __init__(self, path: Path, layers: Iterable[OnnxLayer]) -> None:
        self.path = path
        self.layers = tuple(layers)
        model = read_onnx(path)
        given = {each.name for each in (*model.graph.output, *model.graph.input)}
        for name in dict.fromkeys(layer.tensor for layer in self.layers):
            if name not in given:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
        self.session = open_session(model.SerializeToString(), path)
        self.input = self.session.get_inputs()[0]
        self._fetched = [each.name for each in self.session.get_outputs()]

    def layer_outputs(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the layers, float32 by layer name, for one input ``(1, ...)`` of the file's input dtype."""
        tensors = self._run(value)
        return {layer.name: tensors[layer.tensor] for layer in self.layers}

    def _run(self, value: np.ndarray) -> Mapping[str, np.ndarray]:
        results = run_session(self.session, {self.input.name: value}, self.path, self._fetched)
        found = {name: np.asarray(each, np.float32) for name, each in zip(self._fetched, results, strict=True)}
        return {self.input.name: np.asarray(value, np.float32)} | found
