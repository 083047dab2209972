"""AMD Quark: uint8 activations, int8 weights, min/max, one scale per tensor, which are the settings of the target."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import onnx
from peer_io import FLOAT, QUANTIZED, Job, Reader, main
from quark.onnx import (
    AdaQuantConfig,
    AdaRoundConfig,
    BiasCorrectionConfig,
    CalibMethod,
    CLEConfig,
    Int8Spec,
    ModelQuantizer,
    QConfig,
    QLayerConfig,
    QuantGranularity,
    UInt8Spec,
)
from quark.onnx.algorithm.interface import apply_CLE

ITERATIONS = 300  # per layer, as many as ours


LAYERS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]  # without a list, Quark's pass finds nothing to equalize


def equalizing(relu6_as_relu: bool) -> Callable[[Job], str]:
    """Cross-layer equalization alone: a float file. Channels in front of a ReLU6 can only be scaled if it is a ReLU."""

    def equalize(job: Job) -> str:
        options = {**CLEConfig(cle_steps=-1).get_options(), "ReplaceClip6Relu": relu6_as_relu}  # -1: until it converged
        return job.save(apply_CLE(onnx.load(job.model), LAYERS, [], [], options), FLOAT)

    return equalize


def quantizing(algorithms: Callable[[], list[Any]]) -> Callable[[Job], str]:
    """A method that quantizes with some of Quark's algorithms."""

    def quantize(job: Job) -> str:
        activation = UInt8Spec(calibration_method=CalibMethod.MinMax, quant_granularity=QuantGranularity.Tensor)
        weight = Int8Spec(
            calibration_method=CalibMethod.MinMax, quant_granularity=QuantGranularity.Tensor, symmetric=True
        )
        layer = QLayerConfig(activation=activation, weight=weight)
        config = QConfig(global_config=layer, algo_config=algorithms(), use_external_data_format=False)
        ModelQuantizer(config).quantize_model(str(job.model), str(job.out / "quantized.onnx"), Reader(job.feeds()))
        return QUANTIZED

    return quantize


def rounding(config: type, **options: Any) -> list[Any]:
    """Equalization, then learned rounding on all calibration images."""
    return [CLEConfig(), config(num_iterations=ITERATIONS, num_workers=0, **options)]


METHODS = {
    "cle": equalizing(relu6_as_relu=False),
    "cle_relu6_as_relu": equalizing(relu6_as_relu=True),
    "cle_bias_correction": quantizing(lambda: [CLEConfig(), BiasCorrectionConfig()]),
    "adaround": quantizing(lambda: rounding(AdaRoundConfig)),
    "adaquant": quantizing(lambda: rounding(AdaQuantConfig, learning_rate=1e-5)),
}

if __name__ == "__main__":
    main(version("amd-quark"), METHODS)
