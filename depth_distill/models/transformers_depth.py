"""Published depth networks as teachers."""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from depth_distill.errors import ConfigError


class TransformersDepth(nn.Module):
    """A ``transformers`` network for metric depth, loaded from a local folder; returns metres.

    Relative-depth networks (plain Depth Anything, MiDaS, DPT) cannot teach metric depth; their ``metric`` variants and
    ZoeDepth can.

    Args:
        folder: folder written by ``save_pretrained``, with ``config.json`` and ``model.safetensors``. Nothing is
            downloaded, and pickled weights and code in the folder are refused.
        metres_per_unit: length of one unit of the network's output, in metres.

    Raises:
        ConfigError: transformers is not installed, or the folder holds no depth network.
    """

    def __init__(self, folder: Path, metres_per_unit: float = 1.0) -> None:
        super().__init__()
        try:
            from transformers import AutoModelForDepthEstimation
        except ImportError as error:
            raise ConfigError("TransformersDepth needs transformers: pip install transformers") from error
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder} holds no config.json: give the folder that save_pretrained wrote")
        try:
            self.network = AutoModelForDepthEstimation.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{folder} holds no depth network that transformers can load: {error}") from error
        self.metres_per_unit = metres_per_unit

    def extra_repr(self) -> str:
        """Metres per unit."""
        return f"metres_per_unit={self.metres_per_unit}"

    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(B, 1, H, W)`` in metres of a normalized image ``(B, 3, H, W)``, resized bilinearly to its size."""
        depth = self.network(pixel_values=image).predicted_depth[:, None].float() * self.metres_per_unit
        return F.interpolate(depth, size=image.shape[-2:], mode="bilinear", align_corners=False)
