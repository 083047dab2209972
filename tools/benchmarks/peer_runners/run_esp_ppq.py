"""ESP-PPQ: one scale per tensor on a platform of ONNX Runtime's formats, with its equalization and bias correction."""

from collections.abc import Callable
from importlib.metadata import version

import torch
from esp_ppq import QuantizationSettingFactory, TargetPlatform
from esp_ppq.api import export_ppq_graph, quantize_onnx_model
from peer_io import QUANTIZED, Job, main

PLATFORM = TargetPlatform.PPL_DSP_INT8  # uint8 activations, one scale per tensor


def quantizing(**chosen: bool) -> Callable[[Job], str]:
    """A method that quantizes with some of PPQ's passes."""

    def quantize(job: Job) -> str:
        setting = QuantizationSettingFactory.default_setting()
        setting.quantize_activation_setting.calib_algorithm = "minmax"
        setting.quantize_parameter_setting.calib_algorithm = "minmax"
        for name, value in chosen.items():
            setattr(setting, name, value)
        setting.equalization_setting.iterations = 10
        graph = quantize_onnx_model(
            onnx_import_file=str(job.model),
            calib_dataloader=[torch.from_numpy(each) for each in job.images],
            calib_steps=len(job.images),
            input_shape=list(job.images[0].shape),
            platform=PLATFORM,
            setting=setting,
            device="cpu",
            verbose=0,
            do_quantize=True,
        )
        export_ppq_graph(
            graph,
            platform=TargetPlatform.ONNXRUNTIME,
            graph_save_to=str(job.out / "quantized.onnx"),
            config_save_to=str(job.out / "quantized.json"),
        )
        return QUANTIZED

    return quantize


METHODS = {
    "min_max": quantizing(),
    "equalization": quantizing(equalization=True),
    "equalization_bias_correction": quantizing(equalization=True, bias_correct=True),
}

if __name__ == "__main__":
    main(version("esp-ppq"), METHODS)
