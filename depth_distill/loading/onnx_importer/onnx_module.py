"""An ONNX file as a module that a config can name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from depth_distill.loading.onnx_importer.importing import import_onnx


class OnnxModule(nn.Module):
    """The network of an ONNX file, see :func:`~depth_distill.loading.onnx_importer.import_onnx`.

    Args:
        file: the file.
        shapes: the full shape of every input with dynamic dimensions other than the batch, by name.
        verify: whether to compare every output with ONNX Runtime.

    Raises:
        ConfigError: the file cannot be imported.
    """

    def __init__(
        self, file: Path | str, shapes: Mapping[str, Sequence[int]] | None = None, verify: bool = True
    ) -> None:
        super().__init__()
        self.imported = import_onnx(Path(file), shapes, verify)
        self.network = self.imported.graph

    @property
    def any_batch(self) -> bool:
        """Whether it takes several images at once."""
        return self.imported.any_batch

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs of the file: one tensor, or a tuple."""
        return self.network(*inputs)

    def traced(self) -> fx.GraphModule:
        """The graph of the network."""
        return self.network
