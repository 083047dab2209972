"""Post-training quantization as a vendor's tool chain does it: one placement, one calibration."""

from collections.abc import Iterable

from torch import Tensor, fx

from depth_distill.quantization.calibrate import apply_calibration, calibrate
from depth_distill.quantization.insert import fake_quantize
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
