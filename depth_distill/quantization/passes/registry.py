"""Every pass by the name of its entry in a recipe: a new pass is a file beside this one and a line here."""

from depth_distill.quantization.passes.adaround import AdaRound
from depth_distill.quantization.passes.auto import Auto
from depth_distill.quantization.passes.bake_ranges import BakeRanges
from depth_distill.quantization.passes.base import Pass
from depth_distill.quantization.passes.bias_correct import BiasCorrect
from depth_distill.quantization.passes.clip_ranges import ClipRanges
from depth_distill.quantization.passes.equalize import Equalize
from depth_distill.quantization.passes.fold import Fold
from depth_distill.quantization.passes.outputs import Logits, SeparateOutputs
from depth_distill.quantization.passes.pair import Pair
from depth_distill.quantization.passes.reconstruct_blocks import ReconstructBlocks
from depth_distill.quantization.passes.replace_relu6 import ReplaceReLU6
from depth_distill.quantization.passes.split_channels import SplitChannels
from depth_distill.quantization.passes.split_weights import SplitWeights
from depth_distill.quantization.passes.stress import Stress
from depth_distill.quantization.passes.surgery.as_conv2d import AsConv2d
from depth_distill.quantization.passes.surgery.freeze_norms import FreezeNorms
from depth_distill.quantization.passes.surgery.nearest_upsampling import NearestUpsampling
from depth_distill.quantization.passes.surgery.replace_activations import ReplaceActivations
from depth_distill.quantization.passes.surgery.replace_gates import ReplaceGates
from depth_distill.quantization.passes.surgery.replace_transposed_convs import ReplaceTransposedConvs
from depth_distill.quantization.passes.surgery.split_kernels import SplitKernels
from depth_distill.quantization.passes.surgery.zero_padding import ZeroPadding
from depth_distill.quantization.passes.thermometer import Thermometer
from depth_distill.quantization.passes.uint8_input import Uint8Input

PASSES: dict[str, type[Pass]] = {
    each.name: each
    for each in (
        Fold,
        ReplaceReLU6, ReplaceActivations, ReplaceGates, FreezeNorms, ZeroPadding,
        NearestUpsampling, ReplaceTransposedConvs, AsConv2d, SplitKernels,
        Equalize, SplitChannels, SplitWeights, ClipRanges, AdaRound, ReconstructBlocks, BiasCorrect, BakeRanges,
        Thermometer, Pair, Logits, SeparateOutputs, Uint8Input,
        Auto, Stress,
    )
}  # fmt: skip
