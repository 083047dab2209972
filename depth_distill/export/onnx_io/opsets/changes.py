"""Which operators changed in which version of ONNX's operator set, and how a node is written before that."""

from collections.abc import Mapping

from depth_distill.export.onnx_io.opsets import functions, resize, settings
from depth_distill.export.onnx_io.opsets.settings import Rewrite, without

OLDEST = 9
"""The oldest version that can be written; its files are those of ONNX 1.4, from 2019."""

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
)
_SCATTER = "scatter without a reduction"
_ROWS = without("write it with time first", layout=0)
_LAST = without("take the first of equal values", select_last_index=0)

REWRITES: Mapping[int, Mapping[str, Rewrite]] = {
    21: {
        "DequantizeLinear": functions.quantizer_of_21,
        "GroupNormalization": functions.group_normalization,
        "QuantizeLinear": functions.quantizer_of_21,
    },
    20: {"Gelu": functions.gelu, "GridSample": functions.grid_sample_names},
    19: {
        "AveragePool": settings.without_dilations,
        "Cast": settings.dropping("saturate"),
        "CastLike": settings.dropping("saturate"),
        "Pad": settings.without_wrap,
        "QuantizeLinear": settings.dropping("saturate"),
        "Resize": resize.without_symmetric_centres,
    },
    18: {
        "LpPool": settings.without_ceil_mode,
        "Mish": functions.mish,
        "Pad": settings.pad_all_axes,
        **dict.fromkeys(_REDUCTIONS, settings.axes_as_attribute),
        "Resize": resize.of_all_axes,
        "ScatterElements": settings.without_extremes,
        "ScatterND": settings.without_extremes,
        "Split": settings.split_into_equal_parts,
    },
    17: {"LayerNormalization": functions.layer_normalization},
    16: {
        "RoiAlign": without("sample on the host", coordinate_transformation_mode="output_half_pixel"),
        "ScatterElements": without(_SCATTER, reduction="none"),
        "ScatterND": without(_SCATTER, reduction="none"),
    },
    15: {"CastLike": functions.cast_like, "Shape": functions.shape_as_constant},
    14: {
        "BatchNormalization": without("export the network in evaluation mode", training_mode=0),
        "GRU": _ROWS,
        "HardSwish": functions.hard_swish,
        "LSTM": _ROWS,
        "RNN": _ROWS,
        "Reshape": settings.reshape_without_zeros,
    },
    13: {
        "DequantizeLinear": functions.quantizer_of_a_tensor,
        "Hardmax": functions.softmax_of_all_later_axes,
        "LogSoftmax": functions.softmax_of_all_later_axes,
        "QuantizeLinear": functions.quantizer_of_a_tensor,
        "ReduceSum": settings.axes_as_attribute,
        "Resize": resize.with_all_inputs,
        "Softmax": functions.softmax_of_all_later_axes,
        "Split": settings.split_as_attribute,
        "Squeeze": settings.axes_as_attribute,
        "Unsqueeze": settings.axes_as_attribute,
    },
    12: {
        "ArgMax": _LAST,
        "ArgMin": _LAST,
        "Celu": functions.celu,
        "Constant": settings.constant_as_tensor,
        "Dropout": functions.without_dropout,
        "GatherND": without("gather without batches", batch_dims=0),
        "GreaterOrEqual": functions.at_least,
        "LessOrEqual": functions.at_most,
        "Pow": settings.exponent_of_the_same_type,
    },
    11: {
        **dict.fromkeys(
            ("ArgMax", "ArgMin", "Concat", "Compress", "Flatten", "Hardmax", "LogSoftmax", "OneHot"),
            settings.positive_axes,
        ),
        **dict.fromkeys(
            (*_REDUCTIONS, "ReduceSum", "Softmax", "Split", "Squeeze", "Unsqueeze"), settings.positive_axes
        ),
        "Clip": settings.bounds_as_attributes,
        "ConvTranspose": settings.explicit_pads,
        "DepthToSpace": functions.depth_to_space,
        "Gather": settings.gather_from_the_front,
        "Gemm": settings.gemm_with_a_bias,
        "Pad": settings.pads_as_attribute,
        "Resize": resize.of_scales,
        "Round": functions.round_half_to_even,
        "ScatterElements": functions.scatter,
        "Slice": settings.slice_from_the_front,
        "TopK": settings.topk_of_the_largest,
    },
    10: {
        "AveragePool": settings.without_ceil_mode,
        "MaxPool": settings.without_ceil_mode,
        "Resize": resize.as_upsample,
        "Slice": settings.slice_as_attributes,
        "TopK": settings.k_as_attribute,
    },
}
"""The rewrite of an operator into the version before, by version and operator type.

An operator that changed in a version and is missing here only got more types then, which are checked afterwards; one
that is new in a version and missing here cannot be written before.
"""

REMEDIES: Mapping[str, str] = {
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), "use the float file and let the tool chain quantize it"),
    "Einsum": "write it as matrix products",
    "GridSample": "sample on the host, or resize instead",
    "DeformConv": "use a convolution",
    "Mod": "write it with Floor",
    "ThresholdedRelu": "use ReLU",
    "Trilu": "make it a constant mask",
    "CumSum": "write it as a product with a triangular matrix",
}
"""What to do about an operator that is too new, where there is something better than to leave it out."""
