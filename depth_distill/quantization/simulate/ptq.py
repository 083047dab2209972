"""Post-training quantization as a vendor's tool chain does it: place quantizers, then calibrate once."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.simulate.calibrate import calibrate, set_ranges
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, preserve_quantizer_state, quantizers
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer
from depth_distill.quantization.target.target import CalibratorName, NpuTarget

_INT32_MAX = 2**31 - 1


def quantize_post_training(
    graph_module: fx.GraphModule,
    target: NpuTarget,
    batches: Iterable[Tensor],
    progress: bool = True,
    calibrator: CalibratorName | None = None,
    input_range: tuple[float, float] | None = None,
) -> fx.GraphModule:
    """The network in evaluation mode, fake-quantized with ranges from the target's own calibrator.

    Args:
        graph_module: float network with batch norm folded; it is not changed.
        target: NPU whose formats, fusions and calibrator are used.
        batches: calibration images ``(B, 3, H, W)``, as inputs of the network.
        progress: whether to show a progress bar.
        calibrator: how ranges are measured; the target's own calibrator unless given.
        input_range: lowest and highest value of the input, if known.

    Raises:
        ConfigError: see ``fake_quantize`` and :func:`check_representable`.
        DataError: see ``calibrate``.
    """
    quantized = fake_quantize(graph_module, target)
    ranges = calibrate(quantized, batches, calibrator or target.calibrator, progress=progress).ranges
    return with_ranges(quantized, ranges, input_range)


def with_ranges(
    quantized: fx.GraphModule,
    ranges: Mapping[str, tuple[float, float]],
    input_range: tuple[float, float] | None = None,
) -> fx.GraphModule:
    """Set the activation ranges of a network from ``fake_quantize``, in place, and check the resulting scales.

    Args:
        quantized: fake-quantized network.
        ranges: (lowest, highest) by site, from ``calibrate``.
        input_range: lowest and highest value of the input, if known: the calibration images may not contain both.

    Raises:
        ConfigError: the ranges are of other sites, or see :func:`check_representable`.
    """
    ranges = dict(ranges)
    if input_range is not None:
        ranges |= {site: input_range for site, each in quantizers(quantized).items() if each.kind == "input"}
    set_ranges(quantized, ranges)
    check_representable(quantized)
    return quantized.eval()


def check_representable(quantized: nn.Module) -> None:
    """Refuse scales that are not positive normal numbers, and biases that int32 cannot represent.

    Raises:
        ConfigError: there is one; the message has the layer, the value and, for a bias, the usual cause.
    """
    smallest = torch.finfo(torch.float32).tiny
    for site, quantizer in quantizers(quantized).items():
        if not bool((quantizer.low.isfinite() & quantizer.high.isfinite()).all()):
            raise ConfigError(f"{site}: its range holds NaN or infinity: the network has weights that are not finite")
        scale = quantizer.constants()[0]
        if not bool(((scale >= smallest) & scale.isfinite()).all()):
            raise ConfigError(f"{site}: its scale is {float(scale.min()):g}, expected a positive normal float32")
    for name, layer in quantized.named_modules():
        if not isinstance(layer, QuantizedLayer) or layer.bias is None or not layer.inputs:
            continue
        step = layer.inputs[0].constants()[0].double() * layer.weight_quantizer.constants()[0].double()
        largest = float((layer.bias.detach().double() / step).abs().max())
        if largest > _INT32_MAX:
            raise ConfigError(
                f"{name}: a bias needs the code {largest:.3g} in steps of input scale times weight scale, but int32 "
                f"ends at {_INT32_MAX}: the weights of a channel are almost zero compared with its bias"
            )


@contextmanager
def vendor_ranges(graph: fx.GraphModule, ranges: Mapping[str, tuple[float, float]]) -> Iterator[None]:
    """Within the block, quantize as a tool chain would that gets the float network as it is now.

    Args:
        graph: network from ``fake_quantize``; its ranges and switches are restored when the block ends.
        ranges: activation ranges by site, from :func:`~depth_distill.quantization.simulate.calibrate.calibrate`; the
            range of a weight is its minimum and maximum.
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
    """Set the range of every weight quantizer, even a learned one, to the current minimum and maximum of its weight."""
    for module in graph.modules():
        if isinstance(module, QuantizedLayer):
            module.weight_quantizer.set_range(*module.weight_quantizer.range_of(module.weight))
