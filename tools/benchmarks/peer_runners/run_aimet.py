"""AIMET: uint8 activations, symmetric int8 weights, min/max, one scale per tensor (its default configuration)."""

from importlib.metadata import version

import aimet_onnx
import onnx
from aimet_onnx.cross_layer_equalization import equalize_model
from peer_io import FLOAT, QUANTIZED, Job, main

ITERATIONS = 300  # per layer, as many as ours; AIMET recommends 10,000


def equalize(job: Job) -> str:
    """Cross-layer equalization and high-bias folding: a float file. ReLU6 becomes ReLU, as AIMET does."""
    model = onnx.load(job.model)
    equalize_model(model)
    return job.save(model, FLOAT)


def _simulated(job: Job, equalized: bool) -> aimet_onnx.QuantizationSimModel:
    model = onnx.load(job.model)
    if equalized:
        equalize_model(model)
    return aimet_onnx.QuantizationSimModel(
        model, param_type=aimet_onnx.int8, activation_type=aimet_onnx.int8, providers=["CPUExecutionProvider"]
    )


def _finish(simulated: aimet_onnx.QuantizationSimModel, job: Job) -> str:
    simulated.compute_encodings(job.feeds())
    return job.save(simulated.to_onnx_qdq(), QUANTIZED)


def sequential_mse(job: Job) -> str:
    """Scales of weights that lower the error of each layer's output."""
    simulated = _simulated(job, equalized=False)
    aimet_onnx.apply_seq_mse(simulated, job.feeds())
    return _finish(simulated, job)


def adaround(job: Job) -> str:
    """Learned rounding."""
    simulated = _simulated(job, equalized=False)
    aimet_onnx.apply_adaround(simulated, job.feeds(), num_iterations=ITERATIONS)
    return _finish(simulated, job)


METHODS = {"cle": equalize, "seq_mse": sequential_mse, "adaround": adaround}

if __name__ == "__main__":
    main(version("aimet-onnx"), METHODS)
