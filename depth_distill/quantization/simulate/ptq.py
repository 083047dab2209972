"""Post-training quantization as a vendor's tool chain does it: one placement, one calibration."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, fx

from depth_distill.quantization.simulate.calibrate import apply_calibration, calibrate
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, preserve_quantizer_state, quantizers
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer
from depth_distill.quantization.target.target import NpuTarget


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
        ranges: of activations by site, from :func:`~depth_distill.quantization.simulate.calibrate.calibrate`; weights
            go by their own minimum and maximum.
    """
    every = quantizers(graph)
    had_range = {site: each.has_range for site, each in every.items()}
    state = {site: {name: value.clone() for name, value in each.state_dict().items()} for site, each in every.items()}
    try:
        with preserve_quantizer_state(graph):
            for site, quantizer in every.items():
                if site in ranges:
                    quantizer.set_range(*ranges[site])
                quantizer.enabled, quantizer.tracking = True, False
            reset_weight_ranges(graph)
            yield
    finally:
        for site, quantizer in every.items():
            with torch.no_grad():
                for name, value in state[site].items():
                    getattr(quantizer, name).copy_(value)
            quantizer.has_range = had_range[site]


def reset_weight_ranges(graph: fx.GraphModule) -> None:
    """Give every weight quantizer the minimum and maximum of its weight as it is now, also where ranges are learned."""
    for module in graph.modules():
        if isinstance(module, QuantizedLayer):
            module.weight_quantizer.set_range(*module.weight_quantizer.range_of(module.weight))
