"""ONNX Runtime's own pre-processing: shape inference, and the graph optimizations of its runtime."""

import onnxruntime
from onnxruntime.quantization.shape_inference import quant_pre_process
from peer_io import FLOAT, Job, main


def preprocess(job: Job) -> str:
    """What ``quantize_static`` advises to run in front of it."""
    quant_pre_process(str(job.model), str(job.out / "float.onnx"))
    return FLOAT


if __name__ == "__main__":
    main(onnxruntime.__version__, {"preprocess": preprocess})
