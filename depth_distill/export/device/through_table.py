"""What the decode table of a bundle does to outputs of a tool chain or device: before and after."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from depth_distill.codecs.table_fit import Deviations, deviations
from depth_distill.errors import ConfigError
from depth_distill.export.backends.backends import find_backend
from depth_distill.export.bundle.bundle import Bundle
from depth_distill.export.compare.drift import Drift, output_drift

_NAME = "codes, through the table"


@dataclass(frozen=True)
class ThroughTable:
    """Outputs with and without a decode table.

    Attributes:
        source: whose outputs the table was fitted on.
        before: how far depth is from that of the float file without the table.
        after: the same with it.
        drifts: of the codes behind the table, from those of the reference.
    """

    source: str
    before: Deviations
    after: Deviations
    drifts: dict[str, Drift]

    @property
    def line(self) -> str:
        """Before and after, in a sentence."""
        return f"depth, from that of the float file: {self.before} -> {self.after} through the table for {self.source}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the drifts."""
        return {"source": self.source, "before": asdict(self.before), "after": asdict(self.after)}


def through_table(
    bundle: Bundle,
    images: NDArray[np.generic],
    found: Mapping[str, NDArray[Any]],
    reference: Mapping[str, NDArray[Any]],
) -> ThroughTable:
    """Before and after the decode table of a bundle.

    Args:
        bundle: a bundle with a table.
        images: inputs ``(N, ...)`` of the network.
        found: what a tool chain or device returned for them, by name.
        reference: what should have been returned.

    Raises:
        ConfigError: the bundle has no table.
    """
    if bundle.table is None:
        raise ConfigError(f"{bundle.folder} has no decode table")
    exact = find_backend("onnxruntime").run(bundle.artifact("float"), images, options={"optimize": "0"}, repeats=0)
    true_m = bundle.decode(exact.outputs, "float")
    codes, wanted = (
        bundle.layout.codes({name: torch.from_numpy(each) for name, each in outputs.items()}).numpy()
        for outputs in (found, reference)
    )
    drifts = output_drift({_NAME: wanted}, {_NAME: bundle.table.corrected(codes)})
    before, after = (deviations(bundle.decode(found, kind), true_m) for kind in ("float", "int8"))
    return ThroughTable(bundle.table_source, before, after, drifts)
