"""Penalties on weights: hand-computed values, what they are blind to, and gradients that reach where they should."""

import math

import pytest
import torch
from torch import nn

from depth_distill.losses import ChannelRangePenalty, KurtosisPenalty
from depth_distill.losses.regularizers import _Kurtosis, _LogRange
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.fake_quantize import fake_quantize
from depth_distill.quantization.simulate.quantized_layers import QuantizedConv2d
from depth_distill.quantization.target.target import load_target

both = pytest.mark.parametrize("penalty", [ChannelRangePenalty(), ChannelRangePenalty(inputs=True), KurtosisPenalty()])

LAYERS = {
    "conv": lambda: nn.Conv2d(6, 4, 3),
    "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(6, 4, 3),
    "grouped_transposed": lambda: nn.ConvTranspose2d(6, 4, 3, groups=2),
    "linear": lambda: nn.Linear(6, 4),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def net(*layers):
    return nn.Sequential(*layers)


def linear(rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make()


def channel_of_output(layer, channel, outputs):
    """The weights that an output channel sees, found by asking the layer itself: those that its output depends on."""
    image = torch.rand(1, getattr(layer, "in_channels", 6), 5, 5) + 1
    out = layer(image.flatten(1)[:, :6] if isinstance(layer, nn.Linear) else image)
    layer.zero_grad()
    out.reshape(outputs, -1)[channel].sum().backward()
    return layer.weight.grad != 0


def weights_of_input(layer, channel):
    image = torch.zeros(1, getattr(layer, "in_channels", 6), 5, 5)
    image[:, channel] = 1
    layer.zero_grad()
    layer(image[..., 0, 0] if isinstance(layer, nn.Linear) else image).sum().backward()
    return layer.weight.grad != 0


def test_range_by_hand():
    # Channel ranges 1, 1 and 4, each alone in its row, so that the norm of order 8 is the maximum.
    penalty = ChannelRangePenalty()(linear([[1.0, 0.0], [0.0, -1.0], [4.0, 0.0]]))
    # The variance of (0, 0, ln 4) is 2/9 ln(4)^2.
    assert penalty.item() == pytest.approx(2 / 9 * math.log(4) ** 2)


def test_range_is_the_norm_of_order_8():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3)
    norms = torch.linalg.vector_norm(layer.weight.flatten(1), ord=8, dim=1)
    assert ChannelRangePenalty()(layer).item() == pytest.approx(norms.log().var(correction=0).item(), rel=1e-5)


def test_layers_count_alike():
    even, uneven = linear([[1.0], [1.0]]), linear([[1.0], [4.0]])
    assert ChannelRangePenalty()(even).item() == 0
    assert ChannelRangePenalty()(net(even, nn.ReLU(), uneven)).item() == pytest.approx(math.log(2) ** 2 / 2)


def test_inputs_add_their_variance():
    layer = linear([[1.0, 4.0], [1.0, 4.0]])
    assert ChannelRangePenalty()(layer).item() == pytest.approx(0, abs=1e-12)
    assert ChannelRangePenalty(inputs=True)(layer).item() == pytest.approx(math.log(2) ** 2, rel=1e-5)


@every_layer
def test_scaling_one_output_channel_of_equal_ones_costs_the_same_in_every_kind_of_layer(make):
    layer = seeded(make)
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    channels = [channel_of_output(layer, channel, outputs) for channel in range(outputs)]
    with torch.no_grad():
        layer.weight.fill_(0.5)
        assert ChannelRangePenalty()(layer).item() == pytest.approx(0, abs=1e-12)
        layer.weight[channels[1]] *= math.e
    n = outputs
    assert ChannelRangePenalty()(layer).item() == pytest.approx((n - 1) / n**2, rel=1e-5)


@every_layer
def test_scaling_one_input_channel_of_equal_ones_costs_the_same_in_every_kind_of_layer(make):
    layer = seeded(make)
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    channels = [weights_of_input(layer, channel) for channel in range(inputs)]
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.weight[channels[1]] *= math.e
    of_outputs = ChannelRangePenalty()(layer).item()
    n = inputs
    expected = of_outputs + (n - 1) / n**2
    assert ChannelRangePenalty(inputs=True)(layer).item() == pytest.approx(expected, rel=1e-5)


@both
def test_no_scaling_of_a_layer_matters(penalty):
    torch.manual_seed(0)
    layers = net(nn.Conv2d(3, 8, 3), nn.Linear(8, 4))
    expected = penalty(layers).item()
    for scale in (1e-4, 1e4):
        with torch.no_grad():
            layers[0].weight *= scale
        assert penalty(layers).item() == pytest.approx(expected, rel=1e-4)


def test_dead_channels_are_left_out():
    live = linear([[1.0], [4.0]])
    expected = ChannelRangePenalty()(live).item()
    with_dead = linear([[0.0], [1.0], [4.0], [1e-9]])
    penalty = ChannelRangePenalty()(with_dead)
    assert penalty.item() == pytest.approx(expected)
    penalty.backward()
    assert with_dead.weight.grad.flatten()[[0, 3]].tolist() == [0, 0]
    assert bool(with_dead.weight.grad.isfinite().all())


@both
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-12, 1e6])
def test_layers_of_equal_weights_have_no_penalty_and_no_gradient(penalty, value):
    layer = nn.Conv2d(3, 4, 3)
    nn.init.constant_(layer.weight, value)
    total = penalty(layer)
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-10)
    # A gradient of the range is 1 / |w| times a rounding of 1e-7.
    assert bool((layer.weight.grad.abs() * max(value, 1e-12) < 1e-6).all())


def test_the_gradient_goes_to_the_weights_near_the_largest():
    layer = linear([[4.0, 3.0, 1.0], [1.0, 0.0, 0.0]])
    ChannelRangePenalty()(layer).backward()
    gradient = layer.weight.grad[0]
    assert gradient[1].item() / gradient[0].item() == pytest.approx(0.75**7, rel=1e-4)
    assert gradient[2].item() / gradient[0].item() == pytest.approx(0.25**7, rel=1e-4)
    assert layer.weight.grad[1, 0] < 0  # and the small channel grows


def test_descent_brings_ranges_together():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 16, 3)
    with torch.no_grad():
        layer.weight *= torch.randn(16, 1, 1, 1).exp()

    def ratio():
        ranges = layer.weight.detach().abs().flatten(1).amax(1)
        return (ranges.max() / ranges.min()).item()

    before = ratio()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        ChannelRangePenalty()(layer).backward()
        optimizer.step()
    assert before > 10
    # Norms of order 8 are equal then; maxima of 72 weights by up to the excess that remains.
    assert ratio() < 1.3


def test_kurtosis_by_hand():
    # -1 and 1: fourth moment 1, variance 1. -1, 0, 0, 1: (1/2) / (1/2)^2 = 2. The mean is taken out.
    assert KurtosisPenalty(target=0.0)(linear([[4.0, 6.0]])).item() == pytest.approx(1)
    assert KurtosisPenalty(target=0.0)(linear([[-1.0, 0.0, 0.0, 1.0]])).item() == pytest.approx(4)
    both_layers = net(linear([[4.0, 6.0]]), linear([[-1.0, 0.0, 0.0, 1.0]]))
    assert KurtosisPenalty(target=1.5)(both_layers).item() == pytest.approx(0.25)


def test_kurtosis_is_1_8_for_even_weights_and_3_for_normal_ones():
    torch.manual_seed(0)
    layer = nn.Linear(500, 400)
    nn.init.uniform_(layer.weight, -1, 2)
    # 200 000 weights: standard errors of the kurtosis are 0.003 and sqrt(24 / n) = 0.011.
    assert KurtosisPenalty()(layer).item() == pytest.approx(0, abs=1e-3)
    nn.init.normal_(layer.weight)
    assert KurtosisPenalty()(layer).item() == pytest.approx(1.2**2, abs=0.1)


def test_descent_makes_normal_weights_even():
    torch.manual_seed(0)
    layer = nn.Linear(40, 50)
    nn.init.normal_(layer.weight)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        KurtosisPenalty()(layer).backward()
        optimizer.step()
    assert KurtosisPenalty()(layer) < 1e-3


@pytest.mark.parametrize(
    "function",
    [
        lambda weight: _LogRange.apply(weight.flatten(1), (1,))[0],
        lambda weight: _LogRange.apply(weight, (1, 3))[0],
        lambda weight: _Kurtosis.apply(weight)[0],
    ],
)
def test_gradients_are_those_of_finite_differences(function):
    torch.manual_seed(0)
    weight = torch.randn(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, weight)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(penalty, dtype):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3).to(dtype)
    value = penalty(layer)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(penalty(layer.float()).item(), rel=1e-6)


@both
def test_not_a_number_is_seen(penalty):
    layer = linear([[1.0, 2.0], [float("nan"), 1.0]])
    assert bool(penalty(layer).isnan())


@both
def test_quantized_layers_of_a_traced_network_count_by_their_float_weights(penalty):
    torch.manual_seed(0)
    network = net(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2))
    quantized = fake_quantize(trace(network), load_target("per-tensor-minmax"))
    assert any(isinstance(module, QuantizedConv2d) for module in quantized.modules())
    value = penalty(quantized)
    value.backward()
    assert value.item() == penalty(network).item()
    assert all(weight.grad is not None for name, weight in quantized.named_parameters() if name.endswith("weight"))


@both
def test_a_network_without_layers_is_refused(penalty):
    with pytest.raises(ValueError, match="Sequential has no convolution"):
        penalty(net(nn.ReLU()))
