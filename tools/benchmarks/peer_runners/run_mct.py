"""Model Compression Toolkit: its PTQ with its default target, whose scales are powers of two, per channel for weights.

It returns a PyTorch network, so this runs it.
"""

from collections.abc import Iterator
from importlib.metadata import version

import model_compression_toolkit as mct
import numpy as np
import onnx
import torch
from onnx2torch import convert
from peer_io import OUTPUTS, Job, main


def default(job: Job) -> str:
    """``pytorch_post_training_quantization`` with shift-negative and bias correction as by default."""

    def images() -> Iterator[list[np.ndarray]]:
        for image in job.images:
            yield [image]

    quantized, _ = mct.ptq.pytorch_post_training_quantization(convert(onnx.load(job.model)).eval(), images)
    device = next(quantized.parameters()).device
    with torch.no_grad():
        codes = [quantized(torch.from_numpy(each[None]).to(device)).cpu().numpy() for each in job.inputs]
    np.save(job.out / "outputs.npy", np.concatenate(codes))
    job.notes.append("power-of-two scales, one per channel for weights: the default of its target platform")
    return OUTPUTS


if __name__ == "__main__":
    main(version("model-compression-toolkit"), {"ptq": default})
