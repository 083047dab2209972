"""What the output of somebody else's network means, and the affine function that brings it to codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from depth_distill.codecs import DepthRange, Encoding, HostCodec, HostSingle, HostUnknown, codec_of
from depth_distill.errors import ConfigError
from depth_distill.types import Alignment

Values = Literal["codes", "metres", "inverse_metres", "relative", "unknown"]


class Affine(NamedTuple):
    """``codes = scale * output + offset``, clipped to [0, 1] if ``clip``."""

    scale: float
    offset: float
    clip: bool

    def unclipped(self, output: Tensor) -> Tensor:
        """Codes of an output before the clip, float64."""
        return output.double() * self.scale + self.offset

    def __call__(self, output: Tensor) -> Tensor:
        """Codes of an output, float32."""
        codes = self.unclipped(output)
        return (codes.clamp(0, 1) if self.clip else codes).float()


@dataclass(frozen=True)
class Meaning:
    """What a network returns.

    ``returns`` is one of

    * ``codes``: numbers in [0, 1] that span the depth range evenly in depth, in inverse depth or in log depth, as
      ``encoding`` says. ``near`` is the number at the nearest depth: 0, or 1 as in a bounded disparity
      ``1 / depth = 1 / max_m + (1 / min_m - 1 / max_m) * disp`` (Godard et al. 2019, monodepth2);
    * ``metres``: depth in units of ``unit_m`` metres;
    * ``inverse_metres``: ``1 / depth``, with depth in units of ``unit_m`` metres;
    * ``relative``: depth up to scale, or up to scale and shift of depth or inverse depth (``encoding: linear`` or
      ``inverse``); it is fitted to the ground truth of each image by ``alignment`` before it is scored;
    * ``unknown``: anything, such as classes or boxes. Only deviation from FP32 is known of such a network: what needs
      metres refuses it by name.

    Args:
        returns: see above.
        encoding: of ``codes`` and ``relative``.
        near: the number at the nearest depth, of ``codes`` and ``relative``; of ``relative`` it is the end of
            ``output_range`` that is near: 0 for the lower, 1 for the upper.
        min_m: nearest depth in metres.
        max_m: farthest depth in metres.
        min_inverse_m: 1 / farthest depth, instead of ``max_m``, where a formula gives inverse metres.
        max_inverse_m: 1 / nearest depth, instead of ``min_m``.
        unit_m: length of one unit of the output in metres; 0.001 for millimetres.
        output_range: lowest and highest output of a ``relative`` network.
        alignment: of ``relative``: ``median`` or ``scale_and_shift``.
        codec: codec of a network with several codes, as a bundle's manifest describes it: ``{kind: integer_fractional,
            decoder: unwrap, integer: coarse, fraction: sawtooth}``. The depth range is taken from ``min_m``, ``max_m``.

    Raises:
        ConfigError: keys that do not belong together, or that are missing.
    """

    returns: Values = "codes"
    encoding: Encoding = "linear"
    near: Literal[0, 1] = 0
    min_m: float | None = None
    max_m: float | None = None
    min_inverse_m: float | None = None
    max_inverse_m: float | None = None
    unit_m: float = 1.0
    output_range: tuple[float, float] | None = None
    alignment: Literal["median", "scale_and_shift"] | None = None
    codec: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self._refuse_if(self.unit_m <= 0, f"unit_m must be positive, received {self.unit_m}")
        own = {"relative": ("output_range", "alignment"), "codes": ("codec",)}
        for values, keys in own.items():
            for key in keys:
                given = getattr(self, key) is not None
                self._refuse_if(
                    given and self.returns != values, f"{key} belongs to returns: {values}, not {self.returns}"
                )
        for key in ("output_range", "alignment"):
            missing = self.returns == "relative" and getattr(self, key) is None
            self._refuse_if(missing, f"returns: relative needs {key}; {_WHAT[key]}")
        if self.output_range is not None:
            low, high = self.output_range
            self._refuse_if(not low < high, f"output_range needs lowest < highest, received {[low, high]}")
            shifted = abs(low * (self.max_m or 0) - high * (self.min_m or 0)) > 1e-6 * high * (self.max_m or 0)
            self._refuse_if(
                self.alignment == "median" and self.encoding == "linear" and shifted,
                f"depth up to scale has no shift: output_range {[low, high]} must be a multiple of [min_m, max_m]",
            )
        measured = {"metres": "linear", "inverse_metres": "inverse"}.get(self.returns)
        self._refuse_if(
            measured is not None and self.encoding not in ("linear", measured),
            f"returns: {self.returns} has the encoding {measured}, received {self.encoding}: leave it out",
        )
        self._refuse_if(
            self.near == 1 and measured is not None, f"near: 1 contradicts returns: {self.returns}: leave it out"
        )
        self._refuse_if(
            self.near == 1 and self.codec is not None, "near: 1 cannot be combined with a codec: its codes start near"
        )
        if self.returns != "unknown":
            _ = self.depth_range, self.host_codec  # both raise

    @property
    def depth_range(self) -> DepthRange:
        """Nearest and farthest depth.

        Raises:
            ConfigError: ends that contradict each other, or an unknown meaning, which has none.
        """
        self._refuse_if(
            self.returns == "unknown",
            "returns: unknown has no depth range: only deviation from FP32 can be reported (depth-distill harden)",
        )
        near_m = self._end("min_m", "max_inverse_m")
        far_m = self._end("max_m", "min_inverse_m")
        return DepthRange(near_m, far_m)

    @property
    def host_codec(self) -> HostCodec:
        """The codec of the codes that :attr:`affine` leads to."""
        if self.returns == "unknown":
            return HostUnknown()
        if self.codec is not None:
            ends = {"min_depth_m": self.depth_range.min_m, "max_depth_m": self.depth_range.max_m}
            return codec_of({**ends, **self.codec})
        encoding: Encoding = {"metres": "linear", "inverse_metres": "inverse"}.get(self.returns, self.encoding)  # type: ignore[assignment]
        return HostSingle(self.depth_range, encoding)

    @property
    def aligned_by(self) -> Alignment:
        """How depth is fitted to the ground truth before it is scored."""
        if self.alignment == "scale_and_shift" and self.encoding == "inverse":
            return "inverse_scale_and_shift"
        return self.alignment or "none"

    @property
    def affine(self) -> Affine:
        """From the output of the network to codes, 0 at the nearest depth; an unknown output stays as it is."""
        if self.returns == "unknown":
            return Affine(1.0, 0.0, False)
        near_m, far_m = self.depth_range.min_m, self.depth_range.max_m
        if self.returns == "metres":
            return Affine(self.unit_m / (far_m - near_m), -near_m / (far_m - near_m), True)
        if self.returns == "inverse_metres":
            span = 1 / near_m - 1 / far_m
            return Affine(-1 / (self.unit_m * span), 1 / (near_m * span), True)
        low, high = self.output_range or (0.0, 1.0)
        scale, offset = 1 / (high - low), -low / (high - low)
        if self.near == 1:
            scale, offset = -scale, 1 - offset
        return Affine(scale, offset, self.returns == "relative" and self.output_range != (0.0, 1.0))

    def __str__(self) -> str:
        shown: dict[str, str] = {"returns": self.returns}
        if self.returns in ("codes", "relative"):
            shown |= {"encoding": self.encoding, "near": str(self.near)}
        if self.unit_m != 1:
            shown["unit_m"] = f"{self.unit_m:g}"
        return ", ".join(f"{key}: {value}" for key, value in shown.items())

    def _end(self, key: str, inverse: str) -> float:
        value, inverse_value = getattr(self, key), getattr(self, inverse)
        self._refuse_if(
            (value is None) == (inverse_value is None), f"give either {key} or {inverse}, in metres or 1 / m"
        )
        if value is not None:
            return float(value)
        self._refuse_if(not inverse_value > 0, f"{inverse} must be positive, received {inverse_value}")
        return float(1 / inverse_value)

    @staticmethod
    def _refuse_if(wrong: bool, why: str) -> None:
        if wrong:
            raise ConfigError(f"meaning: {why}")


_WHAT = {
    "output_range": "the lowest and the highest number that the network returns, such as [0, 1] behind a sigmoid",
    "alignment": "median (depth up to scale) or scale_and_shift",
}


def steps_of(path: Sequence[Any]) -> tuple[Any, ...]:
    """The steps into what a network returns: an index, a key or attribute, or a key that is a tuple, as a list."""
    return tuple(tuple(step) if isinstance(step, list) else step for step in path)
