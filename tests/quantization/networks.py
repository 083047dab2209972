"""Networks that look trained, and how far two outputs are apart.

All in float64: random networks amplify float32's rounding to 2e-3 of the output, with or without a pass.
"""

import copy
from functools import cache

import torch
from torch import nn

from depth_distill.models import DepthCodec, DepthNet, GraphNetwork
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.passes.thermometer import thermometer
from depth_distill.types import DepthRange


def trained_like(model, image, seed=0):
    """Random batch norms whose statistics are those of the activations, as training leaves them; evaluation mode."""
    model.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.copy_(torch.exp(0.5 * torch.randn(module.weight.shape, generator=generator)))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
                module.momentum = 1.0
        model.train()(image)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # Channels that no pixel of a small image excites would be blown up by 1 / sqrt(eps).
                module.running_var.clamp_(min=0.1 * float(module.running_var.mean()))
    return model.eval()


def image(size=64, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@cache
def depth_net(encoder, activation="relu"):
    torch.manual_seed(0)
    net = DepthNet(
        encoder, decoder_channels=(64, 32, 32, 16, 16), activation=activation, depth_range=DepthRange(0.5, 15)
    )
    return trained_like(net, image())


@cache
def folded_depth_net(encoder, activation="relu"):
    return fold(trace(depth_net(encoder, activation)))


def with_thermometer(network, num_codes):
    """The graph of a network with a single head whose code is shared out among several."""
    graph, codec = thermometer(fold(trace(network)), network.codec.host, num_codes)
    return GraphNetwork(graph, network, DepthCodec(codec)).eval()


def assert_same_function(one, other, images, tolerance=1e-8):
    """Relative to how much the output varies; measured are 1e-11 and less."""
    with torch.no_grad():
        expected, received = one(images), other(images)
    assert expected.std() > 0
    assert (expected - received).abs().max() < tolerance * expected.std()


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_untouched(module, state):
    assert module.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def with_integer_weights(graph_module, bits=8):
    """Symmetric per-tensor rounding; the step is max |w| / 127 at 8 bits."""
    rounded = copy.deepcopy(graph_module)
    for module in rounded.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            scale = module.weight.detach().abs().max() / (2 ** (bits - 1) - 1)
            module.weight.data = (module.weight.data / scale).round() * scale
    return rounded


def sqnr_db(reference, noisy, images):
    """Power of the variation of the output over that of the error."""
    with torch.no_grad():
        expected, received = reference(images), noisy(images)
    return float(10 * torch.log10(expected.var() / (expected - received).square().mean()))
