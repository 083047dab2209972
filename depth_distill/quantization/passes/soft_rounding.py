"""What passes that learn rounding share: the grid of a weight, and a variable that decides between up and down."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.simulate.quantized_layers import QuantizedLayer

_GAMMA, _ZETA = -0.1, 1.1  # the rectified sigmoid reaches 0 and 1 at finite variables (AdaRound, eq. 23)
_BETAS = (16, 8, 4, 2)  # powers of two cost a few squarings; pow() took 40 % of an iteration


@dataclass(frozen=True)
class WeightGrid:
    """A weight in steps of its scale, as a symmetric format rounds it.

    The largest magnitude of the tensor (or channel, if scales are per-channel) keeps its code. So a tool chain that
    uses ``max |w| / 127`` finds the same scale, and rounds each weight to itself.

    Attributes:
        scale: step of every weight, in the weight's shape.
        codes: weight in steps, not rounded.
        nearest: codes after rounding to nearest.
        pinned: where the code must stay.
        highest: largest code.
    """

    scale: Tensor
    codes: Tensor
    nearest: Tensor
    pinned: Tensor
    highest: int

    @classmethod
    def of(cls, layer: QuantizedLayer) -> "WeightGrid":
        """The grid of a layer's weight; its quantizer's range is set to that of the weight."""
        quantizer = layer.weight_quantizer
        weight = layer.weight.detach()
        rounded = quantizer(weight)
        shape = [-1 if dim == quantizer.channel_dim else 1 for dim in range(weight.ndim)]
        scale, largest = (
            (each.view(shape) if each.ndim else each).expand_as(rounded)
            for each in (quantizer.constants()[0], torch.maximum(-quantizer.low, quantizer.high))
        )
        weight = weight.float()
        nearest = (rounded.float() / scale).round()
        return cls(scale, weight / scale, nearest, weight.abs() >= largest, quantizer.tensor_format.quant_max)

    def mapped(self, rearranged: Callable[[Tensor], Tensor]) -> "WeightGrid":
        """The same with every tensor rearranged."""
        scale, codes, nearest, pinned = map(rearranged, (self.scale, self.codes, self.nearest, self.pinned))
        return replace(self, scale=scale, codes=codes, nearest=nearest, pinned=pinned)

    def rounded(self, up: Tensor) -> Tensor:
        """Codes with each weight rounded up where ``up`` is 1 and down where it is 0, except those that are pinned."""
        return torch.where(self.pinned, self.nearest, (self.codes.floor() + up).clamp(-self.highest, self.highest))


class SoftRounding:
    """A share of the step from the code below to the one above, by which a weight is rounded up: learned from 0 to 1.

    The rectified sigmoid of AdaRound (Nagel et al. 2020, eq. 23), which begins at the float weights.

    Attributes:
        variable: what is learned.
    """

    def __init__(self, grid: WeightGrid) -> None:
        self._down = grid.codes.floor()
        self._scale = grid.scale
        fraction = grid.codes - self._down
        self.variable = nn.Parameter(torch.logit((fraction - _GAMMA) / (_ZETA - _GAMMA)))

    def weight(self, progress: float) -> tuple[Tensor, Tensor]:
        """The weight between its two codes, and how undecided it is (eq. 24).

        Args:
            progress: share of the iterations that are done, in ``[0, 1)``: at first weights are free, then more and
                more are drawn to 0 or 1.

        Returns:
            The weight, and the regularizer, from 0 to 1, as a mean, so that it fits any layer.
        """
        share = (self.variable.sigmoid() * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)
        decided = 2 * share - 1
        for _ in range(_BETAS[int(progress * len(_BETAS))].bit_length() - 1):
            decided = decided.square()
        return (self._down + share) * self._scale, (1 - decided).mean()

    def up(self) -> Tensor:
        """1 for each weight to round up, 0 for the others."""
        return (self.variable.detach() >= 0).float()


def require_roundable(
    layers: Mapping[str, QuantizedLayer], reference: fx.GraphModule, calls: Mapping[str, object]
) -> None:
    """Refuse networks in which rounding cannot be learned.

    Args:
        layers: layers of the quantized network by name.
        reference: the float network.
        calls: modules that the float network calls, by name.

    Raises:
        ConfigError: there are no layers, one is not in the float network, or weights are asymmetric.
    """
    if not layers:
        raise ConfigError("the network has no quantized layers: fake_quantize it before rounding")
    for name, layer in layers.items():
        weight = getattr(reference.get_submodule(name), "weight", None) if name in calls else None
        if not isinstance(weight, Tensor) or weight.shape != layer.weight.shape:
            raise ConfigError(
                f"the float network has no layer {name!r} of this shape: it is not the network that was quantized"
            )
        if not layer.weight_quantizer.tensor_format.symmetric:
            raise ConfigError(f"{name}: received an asymmetric weight format, expected a symmetric one")
