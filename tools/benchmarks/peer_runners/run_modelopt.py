"""NVIDIA ModelOpt on ONNX: int8, max calibration. Its weights have one scale per channel."""

from importlib.metadata import version

import numpy as np
from modelopt.onnx.quantization import quantize
from peer_io import QUANTIZED, Job, main


def max_calibration(job: Job) -> str:
    """Its default for convolutional networks on all calibration images."""
    quantize(
        onnx_path=str(job.model),
        calibration_data={"image": np.concatenate(job.images)},
        calibration_method="max",
        quantize_mode="int8",
        calibration_eps=["cpu"],
        output_path=str(job.out / "quantized.onnx"),
        high_precision_dtype="fp32",
    )
    return QUANTIZED


if __name__ == "__main__":
    main(version("nvidia-modelopt"), {"max": max_calibration})
