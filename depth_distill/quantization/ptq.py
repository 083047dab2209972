"""Post-training quantization as a vendor's tool chain does it: one placement, one calibration."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, fx

from depth_distill.quantization.calibrate import apply_calibration, calibrate
from depth_distill.quantization.insert import fake_quantize, quantizers
from depth_distill.quantization.target import NpuTarget


def quantize_post_training(
    graph_module: fx.GraphModule, target: NpuTarget, batches: Iterable[Tensor], progress: bool = True
) -> fx.GraphModule:
    """The network as the target computes it, with ranges from the target's own calibrator; in evaluation mode.

    Args:
        graph_module: float, batch norm folded; it is not changed.
        target: formats, fusions and calibrator.
        batches: normalized calibration images ``(B, 3, H, W)``.
        progress: show a progress bar.

    Raises:
        ConfigError: see ``fake_quantize``.
        DataError: see ``calibrate``.
    """
    quantized = fake_quantize(graph_module, target)
    apply_calibration(calibrate(quantized, batches, target.calibrator, progress=progress), quantized)
    return quantized.eval()


@contextmanager
def vendor_ranges(graph: fx.GraphModule, ranges: Mapping[str, tuple[float, float]]) -> Iterator[None]:
    """While the block runs, quantize as a tool chain would that is given the float network as it is now.

    Args:
        graph: from ``fake_quantize``; its ranges and switches come back when the block ends.
        ranges: of activations by site, from :func:`~depth_distill.quantization.calibrate.calibrate`; weights go by
            their own minimum and maximum.
    """
    every = quantizers(graph)
    before = {site: (each.enabled, each.tracking, each.has_range) for site, each in every.items()}
    state = {site: {name: value.clone() for name, value in each.state_dict().items()} for site, each in every.items()}
    weights = {f"{path}.weight": module.weight for path, module in graph.named_modules() if hasattr(module, "weight")}
    try:
        for site, quantizer in every.items():
            low_high = ranges[site] if site in ranges else quantizer.range_of(weights[site])
            quantizer.set_range(*low_high)
            quantizer.enabled, quantizer.tracking = True, False
        yield
    finally:
        for site, quantizer in every.items():
            with torch.no_grad():
                for name, value in state[site].items():
                    getattr(quantizer, name).copy_(value)
            quantizer.enabled, quantizer.tracking, quantizer.has_range = before[site]
