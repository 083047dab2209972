import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from depth_distill.errors import ConfigError
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer, affine_parameters
from depth_distill.quantization.simulate.quantized_layers import QuantizedConv2d
from depth_distill.quantization.target.target import TensorFormat

INT8 = TensorFormat("int8", symmetric=True)
UINT8 = TensorFormat("uint8", symmetric=False)
FORMATS = {
    "int8": INT8,
    "uint8": UINT8,
    "int8 asymmetric": TensorFormat("int8", symmetric=False),
    "int16": TensorFormat("int16", symmetric=True),
    "pow2": TensorFormat("int8", symmetric=True, power_of_two=True),
}


def quantizer(tensor_format=UINT8, low=-1.0, high=3.0, **arguments) -> FakeQuantizer:
    made = FakeQuantizer("site", arguments.pop("kind", "activation"), tensor_format, **arguments)
    made.set_range(low, high)
    return made


def parameters(low, high, tensor_format):
    scale, zero_point = affine_parameters(torch.tensor(low), torch.tensor(high), tensor_format)
    return pytest.approx(scale.item(), rel=1e-6), zero_point.item()


def test_scales_by_hand():
    assert parameters(-1.0, 3.0, UINT8) == (4 / 255, 64)  # 1 / (4 / 255) = 63.75
    assert parameters(-1.0, 3.0, INT8) == (3 / 127, 0)
    assert parameters(-1.0, 3.0, FORMATS["int8 asymmetric"]) == (4 / 255, -64)
    assert parameters(-1.0, 3.0, FORMATS["pow2"]) == (2**-5, 0)  # 3 / 127 = 0.0236, up to 0.03125
    assert parameters(-1.0, 3.0, TensorFormat("uint8", False, power_of_two=True)) == (2**-5, 32)


def test_a_range_always_includes_zero():
    assert parameters(2.0, 3.0, UINT8) == (3 / 255, 0)
    assert parameters(-3.0, -2.0, UINT8) == (3 / 255, 255)


def test_an_all_zero_tensor_gets_scale_one():
    assert parameters(0.0, 0.0, UINT8) == (1.0, 0)
    assert torch.equal(quantizer(UINT8, 0.0, 0.0)(torch.zeros(3)), torch.zeros(3))


@pytest.mark.parametrize("tensor_format", FORMATS.values(), ids=FORMATS)
def test_rounding_is_onnx_quantize_then_dequantize(tensor_format):
    values = torch.linspace(-2, 5, 1001)
    made = quantizer(tensor_format)
    scale, zero_point = (each.item() for each in made.constants())
    codes = np.clip(
        np.rint(values.numpy() / np.float32(scale)) + zero_point, tensor_format.quant_min, tensor_format.quant_max
    )
    expected = ((codes - zero_point) * np.float32(scale)).astype(np.float32)
    np.testing.assert_array_equal(made(values).numpy(), expected)


@pytest.mark.parametrize("tensor_format", [INT8, UINT8, FORMATS["pow2"]])
def test_values_and_gradients_are_those_of_torchs_operator(tensor_format):
    values = (torch.randn(4, 3, 8, 8, generator=torch.manual_seed(0)) * 2).requires_grad_()
    made = quantizer(tensor_format)
    weights = torch.randn(values.shape)
    (made(values) * weights).sum().backward()
    ours, values.grad = values.grad, None
    scale, zero_point = made.constants()
    reference = torch.fake_quantize_per_tensor_affine(
        values, float(scale), int(zero_point), tensor_format.quant_min, tensor_format.quant_max
    )
    (reference * weights).sum().backward()
    # Equal but for ties, of which random floats have none.
    torch.testing.assert_close(made(values), reference, rtol=0, atol=1e-6)
    assert torch.equal(ours, values.grad)


def test_per_channel_rounds_each_channel_by_its_own_scale():
    weight = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(-100, 100, 9)]).view(2, 1, 3, 3)
    tensor_format = TensorFormat("int8", symmetric=True, granularity="per_channel")
    per_channel = FakeQuantizer("w", "weight", tensor_format, channels=2)
    torch.testing.assert_close(per_channel(weight)[0], weight[0], rtol=0, atol=0.5 / 127)
    torch.testing.assert_close(per_channel.scale, torch.tensor([1 / 127, 100 / 127]))
    per_tensor = FakeQuantizer("w", "weight", INT8)
    # One step of the shared scale is 100 / 127 = 0.79: the small channel keeps -1, 0 and 1 steps only.
    assert len(per_tensor(weight)[0].unique()) == 3
    reference = torch.fake_quantize_per_channel_affine(
        weight, per_channel.scale, torch.zeros(2, dtype=torch.int32), 0, -128, 127
    )
    torch.testing.assert_close(per_channel(weight), reference)


def test_channels_of_a_transposed_convolution_come_second():
    weight = torch.randn(3, 2, 2, 2)
    tensor_format = TensorFormat("int8", symmetric=True, granularity="per_channel")
    made = FakeQuantizer("w", "weight", tensor_format, channels=2, channel_dim=1)
    made(weight)
    torch.testing.assert_close(made.scale, weight.abs().amax(dim=(0, 2, 3)) / 127)


def test_weight_ranges_follow_the_weight():
    conv = torch.nn.Conv2d(1, 1, 1, bias=False)
    conv.__class__ = QuantizedConv2d
    conv.weight_quantizer = FakeQuantizer("w", "weight", INT8)
    for value in (0.5, 2.0):
        torch.nn.init.constant_(conv.weight, value)
        assert conv(torch.ones(1, 1, 1, 1)).item() == pytest.approx(value)
        assert conv.weight_quantizer.scale.item() == pytest.approx(value / 127)
    conv(torch.ones(1, 1, 1, 1)).sum().backward()
    assert conv.weight.grad.item() == 1.0


def test_a_bias_is_rounded_to_the_scale_of_the_products():
    conv = torch.nn.Conv2d(1, 1, 1)
    conv.__class__ = QuantizedConv2d
    conv.weight_quantizer = FakeQuantizer("w", "weight", INT8)
    torch.nn.init.constant_(conv.weight, 127 / 8)  # scale 1/8
    torch.nn.init.constant_(conv.bias, 0.3)
    conv.inputs = (quantizer(INT8, 0.0, 127 / 4),)  # scale 1/4
    assert conv(torch.zeros(1, 1, 1, 1)).item() == 10 / 32  # 0.3 * 32 = 9.6
    conv(torch.zeros(1, 1, 1, 1)).sum().backward()
    assert conv.bias.grad.item() == 1.0
    assert "inputs" not in dict(conv.named_modules())
    conv.weight_quantizer.enabled = False
    assert conv(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(0.3)


def test_two_forward_passes_before_one_backward_pass():
    made = FakeQuantizer("w", "weight", INT8)
    weight = torch.randn(5, requires_grad=True)
    (made(weight).sum() + made(weight).sum()).backward()
    assert torch.equal(weight.grad, torch.full((5,), 2.0))


def test_tracking_is_a_moving_average_in_training_mode_only():
    made = FakeQuantizer("site", "activation", UINT8)
    made.tracking, made.momentum = True, 0.5
    made(torch.tensor([0.0, 4.0]))
    made(torch.tensor([-2.0, 8.0]))
    assert (made.low.item(), made.high.item()) == (-1.0, 6.0)
    made.eval()(torch.tensor([0.0, 100.0]))
    assert made.high.item() == 6.0


def test_switched_off_it_returns_its_input():
    made = quantizer()
    made.enabled = False
    values = torch.randn(3)
    assert made(values) is values


def test_without_a_range_it_refuses():
    with pytest.raises(ConfigError, match="quantizer decoder.cat has no range yet: calibrate"):
        FakeQuantizer("decoder.cat", "activation", UINT8)(torch.ones(1))


def test_ranges_travel_in_the_state_dict():
    fresh = FakeQuantizer("site", "activation", UINT8)
    fresh.load_state_dict(quantizer().state_dict())
    values = torch.randn(100)
    assert torch.equal(fresh(values), quantizer()(values))
    untouched = FakeQuantizer("site", "activation", UINT8)
    untouched.load_state_dict(FakeQuantizer("site", "activation", UINT8).state_dict())
    assert not untouched.has_range


def test_a_fixed_range_becomes_a_learnable_one():
    learnable = FakeQuantizer("site", "activation", UINT8, learnable=True)
    learnable.load_state_dict(quantizer().state_dict())
    values = torch.randn(100)
    assert torch.equal(learnable(values), quantizer()(values))


def _track_share(rank, init_file, folder):
    dist.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=2)
    made = tracking()
    rounded = [made(batch[rank::2]) for batch in seen()]
    torch.save((made.state_dict(), rounded), folder / f"{rank}.pt")
    dist.destroy_process_group()


def tracking():
    made = FakeQuantizer("site", "activation", UINT8)
    made.tracking = True
    return made


def seen():
    return torch.randn(3, 4, 2, 5, 5, generator=torch.Generator().manual_seed(0))


def test_two_processes_have_the_ranges_of_one(tmp_path):
    mp.spawn(_track_share, args=(tmp_path / "init", tmp_path), nprocs=2)
    alone = tracking()
    expected = [alone(batch) for batch in seen()]
    for rank in range(2):
        state, rounded = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(value, state[name]) for name, value in alone.state_dict().items())
        assert all(torch.equal(a[rank::2], b) for a, b in zip(expected, rounded, strict=True))


def test_bfloat16_comes_back_as_bfloat16():
    assert quantizer()(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def off_grid(made, rounded):
    """Largest distance from the grid, in steps."""
    scale, _ = made.constants()
    steps = rounded.double() / scale.double()
    return float((steps - steps.round()).abs().max())


def autocast_on(device):
    return torch.autocast(device, torch.bfloat16)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_leaves_values_on_the_grid(device, dtype):
    made = quantizer().to(device)
    values = torch.linspace(-1, 3, 1001, device=device).to(dtype).requires_grad_()
    with autocast_on(device):
        rounded = made(values)
    rounded.sum().backward()
    # float32 keeps code * scale to 2^-24 of 191 steps; bfloat16 would be off by 0.25.
    assert off_grid(made, rounded.detach()) < 1e-4
    assert torch.equal(rounded, made(values.detach().float()))
    assert values.grad.dtype == dtype


@pytest.mark.parametrize("magnitude", [1e-9, 1e6])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_passes_gradients_that_it_cannot_hold(magnitude, autocast):
    made = quantizer()
    made.in_half = True
    values = torch.linspace(-1, 1, 11).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rounded = made(values)
    rounded.backward(torch.full((11,), magnitude))
    assert torch.equal(rounded, values.half().float())
    assert torch.equal(values.grad, torch.full((11,), magnitude))


def test_lsq_gradients_by_the_formula():
    made = quantizer(INT8, low=-127.0, high=127.0, learnable=True)  # scale 1
    values = torch.tensor([[0.3, 1.75, 200.0, -300.0]], requires_grad=True)
    made(values).sum().backward()
    # Esser et al. 2020, eq. 3: round(v) - v inside, the outermost codes outside; g = 1 / sqrt(4 * 127).
    expected = (0 - 0.3 + 2 - 1.75 + 127 - 128) / (4 * 127) ** 0.5
    assert made.scale.grad.item() == pytest.approx(expected, rel=1e-5)
    assert values.grad.tolist() == [[1, 1, 0, 0]]
    assert not isinstance(made.zero_point, torch.nn.Parameter)


@pytest.mark.parametrize("tensor_format", [INT8, UINT8])
def test_lsq_gradients_are_those_of_torchs_kernel(tensor_format):
    made = quantizer(tensor_format, learnable=True)
    values = torch.randn(2, 500, generator=torch.manual_seed(0)) * 3
    weights = torch.randn(values.shape)
    (made(values) * weights).sum().backward()
    scale = made.scale.detach().clone().view(1).requires_grad_()
    zero_point = made.zero_point.detach().clone().view(1).requires_grad_()
    factor = (500 * tensor_format.quant_max) ** -0.5
    reference = torch._fake_quantize_learnable_per_tensor_affine(
        values, scale, zero_point, tensor_format.quant_min, tensor_format.quant_max, factor
    )
    (reference * weights).sum().backward()
    torch.testing.assert_close(made.scale.grad, scale.grad[0], rtol=1e-4, atol=1e-6)
    if tensor_format is UINT8:
        torch.testing.assert_close(made.zero_point.grad, zero_point.grad[0], rtol=1e-4, atol=1e-6)


def test_a_learned_range_moves_towards_the_smaller_error():
    values = torch.randn(1, 4096, generator=torch.manual_seed(0))
    made = quantizer(TensorFormat("int8", symmetric=True), -60.0, 60.0, learnable=True)
    before = (made(values) - values).square().mean().item()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        (made(values) - values).square().mean().backward()
        optimizer.step()
    assert (made(values) - values).square().mean().item() < 0.1 * before


def test_learned_power_of_two_scales_stay_powers_of_two():
    made = quantizer(TensorFormat("int8", symmetric=True, power_of_two=True), learnable=True)
    with torch.no_grad():
        made.scale.mul_(1.3)
    assert np.log2(made.constants()[0].item()) == round(np.log2(made.constants()[0].item()))
    made(torch.randn(1, 10)).sum().backward()
    assert made.scale.grad is not None


def test_a_deep_copy_is_independent():
    made = quantizer()
    copied = copy.deepcopy(made)
    copied.set_range(-9, 9)
    assert made.high.item() == 3.0


def test_half_precision_by_hand():
    made = quantizer()
    made.in_half = True
    values = torch.tensor([2049.0, 1 / 3, 2.0**-26, 65504.0, 65520.0, -1e5])
    # 11 significant bits; below 2^-25 nothing is left; beyond 65504 by half a step, infinity.
    expected = [2048.0, 1365 / 4096, 0.0, 65504.0, float("inf"), float("-inf")]
    assert made(values).tolist() == expected
    assert made(values).dtype == torch.float32
    assert made(values.double()).dtype == torch.float64


def test_half_precision_needs_no_range_and_yields_to_the_switch():
    made = FakeQuantizer("site", "activation", UINT8)
    made.in_half = True
    values = torch.randn(10)
    assert torch.equal(made(values), values.half().float())
    made.enabled = False
    assert made(values) is values


def test_gradients_pass_through_half_precision():
    made = quantizer()
    made.in_half = True
    values = torch.tensor([0.1, 100.0], requires_grad=True)
    made(values).sum().backward()
    assert values.grad.tolist() == [1.0, 1.0]  # 100 lies outside of the integer range, which does not matter here


def test_back_from_half_precision_it_is_what_it_was():
    made, values = quantizer(), torch.randn(100)
    before = made(values)
    made.in_half = True
    made(values)
    made.in_half = False
    assert torch.equal(made(values), before)


def test_which_quantizers_leave_integers():
    made = FakeQuantizer("site", "activation", UINT8)
    assert not made.rounds_to_integers  # without a range
    made.set_range(-1.0, 1.0)
    assert made.rounds_to_integers
    made.in_half = True
    assert not made.rounds_to_integers
    made.in_half, made.enabled = False, False
    assert not made.rounds_to_integers


@pytest.mark.parametrize("which", ["input", "weight"])
def test_a_bias_beside_half_precision_is_not_rounded(which):
    conv = torch.nn.Conv2d(1, 1, 1)
    conv.__class__ = QuantizedConv2d
    conv.weight_quantizer = FakeQuantizer("w", "weight", INT8)
    torch.nn.init.constant_(conv.weight, 127 / 8)
    torch.nn.init.constant_(conv.bias, 0.3)
    conv.inputs = (quantizer(INT8, 0.0, 127 / 4),)
    {"input": conv.inputs[0], "weight": conv.weight_quantizer}[which].in_half = True
    assert conv(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(0.3)


def test_another_format_keeps_the_range():
    made = quantizer(UINT8, -1.0, 3.0)
    values = torch.linspace(-1, 3, 1001)
    coarse = (made(values) - values).abs().max().item()
    made.use_format(TensorFormat("uint16", symmetric=False))
    assert (made.low, made.high) == (-1.0, 3.0)
    assert made.scale.item() == pytest.approx(4 / 65535)
    assert made.zero_point.item() == 16384  # 1 / (4 / 65535) = 16383.75
    fine = (made(values) - values).abs().max().item()
    assert coarse == pytest.approx(4 / 255 / 2, rel=0.05)  # half a step
    assert fine == pytest.approx(4 / 65535 / 2, rel=0.05)


def test_another_format_for_a_scale_a_channel():
    weight = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(-100, 100, 9)]).view(2, 1, 3, 3)
    made = FakeQuantizer("w", "weight", TensorFormat("int8", True, "per_channel"), channels=2)
    made(weight)
    made.use_format(TensorFormat("int16", True, "per_channel"))
    torch.testing.assert_close(made.scale, torch.tensor([1 / 32767, 100 / 32767]))
    torch.testing.assert_close(made(weight), weight, rtol=1 / 32767, atol=1e-6)


def test_another_format_does_not_invent_a_range():
    made = FakeQuantizer("site", "activation", UINT8)
    made.use_format(TensorFormat("uint16", symmetric=False))
    assert not made.has_range
    made.set_range(0.0, 1.0)
    assert made.scale.item() == pytest.approx(1 / 65535)


def test_what_it_prints_tells_half_precision():
    made = quantizer()
    assert "in_half" not in repr(made)
    made.in_half = True
    assert "uint8, per_tensor, in_half" in repr(made)
