"""Feature losses: hand-computed values, what they are blind to, and what they must not depend on."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from depth_distill.losses import features

LOSSES = {
    "mse": features.feature_mse,
    "hint": features.fitnets_hint,
    "normalized_mse": features.feature_normalized_mse,
    "normalized_mse_channel": partial(features.feature_normalized_mse, per="channel"),
    "cosine": features.feature_cosine,
    "statistics": features.feature_statistics,
    "statistics_kl_tensor": features.feature_statistics_kl,
    "statistics_kl_channel": partial(features.feature_statistics_kl, over="channel"),
    "statistics_kl_space": partial(features.feature_statistics_kl, over="space"),
    "channel_wise_kl": features.channel_wise_kl,
    "attention": features.attention_transfer,
    "attention_power_1": partial(features.attention_transfer, power=1.0),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def maps(batch=3, channels=5, height=6, width=8, seed=0):
    """Student and teacher, as after a ReLU: about a sixth of the values are 0."""
    generator = torch.Generator().manual_seed(seed)
    teacher = (torch.randn(batch, channels, height, width, generator=generator) + 1).relu()
    student = (teacher + 0.5 * torch.randn(teacher.shape, generator=generator)).relu()
    return student, teacher


def pair(student, teacher):
    """One sample of one row: a list of channels, each a list of positions."""
    return tuple(torch.tensor(x, dtype=torch.float64)[None, :, None] for x in (student, teacher))


def enlarged(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_squared_errors_by_hand():
    # Errors 1 and 3: mean square 5. Mean square of the teacher (4 + 16) / 2 = 10.
    maps_by_hand = pair([[3.0, 1.0]], [[2.0, 4.0]])
    assert features.feature_mse(*maps_by_hand).item() == pytest.approx(5)
    assert features.fitnets_hint(*maps_by_hand).item() == pytest.approx(2.5)
    assert features.feature_normalized_mse(*maps_by_hand).item() == pytest.approx(0.5)


def test_cosine_by_hand():
    # Two channels, three positions: the same direction, a right angle, the opposite.
    loss = features.feature_cosine(*pair([[3.0, 1.0, 1.0], [4.0, 0.0, 1.0]], [[6.0, 0.0, -2.0], [8.0, 5.0, -2.0]]))
    assert loss.item() == pytest.approx((0 + 1 + 2) / 3)


def test_cosine_is_that_of_torch_where_both_have_a_direction():
    student, teacher = maps()
    expected = 1 - F.cosine_similarity(student + 0.1, teacher + 0.1, dim=1).mean().item()
    assert features.feature_cosine(student + 0.1, teacher + 0.1).item() == pytest.approx(expected, rel=1e-5)


def test_statistics_by_hand():
    # Means 2 and 5, deviations 1 and 3 (over the count, not one less): 9 + 4.
    assert features.feature_statistics(*pair([[1.0, 3.0]], [[2.0, 8.0]])).item() == pytest.approx(9 + 4)


def test_statistics_ignore_where_things_are():
    _, teacher = maps()
    shuffled = teacher.flip(2).roll(3, dims=3)
    assert features.feature_statistics(shuffled, teacher).item() == pytest.approx(0, abs=1e-12)
    assert features.feature_mse(shuffled, teacher) > 0.5


def test_statistics_kl_over_the_tensor_is_the_formula_as_first_written():
    student, teacher = maps()
    s, t = student.flatten(2), teacher.flatten(2)
    mean = F.mse_loss(s.mean(2), t.mean(2))
    std = F.mse_loss(s.std(2, correction=0), t.std(2, correction=0))
    kl = F.kl_div(F.log_softmax(s.flatten(1), 1), F.softmax(t.flatten(1), 1), reduction="batchmean")
    expected = (mean + std + 0.1 * kl).item()
    assert features.feature_statistics_kl(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("over", "dims"), [("tensor", (1, 2, 3)), ("channel", (1,)), ("space", (2, 3))])
def test_divergence_against_numpy(over, dims):
    student, teacher = (x.double().numpy() for x in maps())
    p, q = (np.exp(x) / np.exp(x).sum(dims, keepdims=True) for x in (teacher, student))
    expected = (p * np.log(p / q)).sum(dims).mean()
    with_kl = features.feature_statistics_kl(torch.tensor(student), torch.tensor(teacher), 1.0, over)
    without = features.feature_statistics(torch.tensor(student), torch.tensor(teacher))
    assert (with_kl - without).item() == pytest.approx(expected, rel=1e-9)


def test_channel_wise_kl_by_hand():
    # Channel 1: (1/2, 1/2) against (1/4, 3/4), KL = ln(2) / 2 + ln(2/3) / 2. Channel 2: equal but for an offset, 0.
    student = [[0.0, 2 * math.log(3)], [5.0, 6.0]]
    teacher = [[1.0, 1.0], [0.0, 1.0]]
    expected = 2**2 * (math.log(2) + math.log(2 / 3)) / 2 / 2
    assert features.channel_wise_kl(*pair(student, teacher), temperature=2.0).item() == pytest.approx(expected)


def test_channel_wise_kl_of_a_small_error_is_half_its_variance_at_any_temperature():
    generator = torch.Generator().manual_seed(0)
    teacher = 0.01 * torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    error = 0.01 * torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    half_variance = error.var(dim=(2, 3), correction=0).mean().item() / 2
    for temperature in (1.0, 4.0, 16.0):
        # The expansion is good to the size of the values, about 1 %.
        value = features.channel_wise_kl(teacher + error, teacher, temperature).item()
        assert value == pytest.approx(half_variance, rel=0.03)


def test_attention_by_hand():
    # Q = sum of squares over channels: student (25, 0), teacher (3, 4) of length 5: (1, 0) against (3/5, 4/5).
    student, teacher = [[3.0, 0.0], [4.0, 0.0]], [[math.sqrt(3), 2.0]]
    loss = features.attention_transfer(*pair(student, teacher))
    assert loss.item() == pytest.approx((2 / 5) ** 2 + (4 / 5) ** 2)
    # |F|^1: (7, 0) is the same direction, (sqrt 3, 2) is of length sqrt 7.
    expected = 2 - 2 * math.sqrt(3 / 7)
    assert features.attention_transfer(*pair(student, teacher), power=1.0).item() == pytest.approx(expected)


def test_attention_is_at_most_2_and_blind_to_scale_and_sign():
    assert features.attention_transfer(*pair([[1.0, 0.0]], [[0.0, 9.0]])).item() == pytest.approx(2)
    student, teacher = maps()
    expected = features.attention_transfer(student, teacher).item()
    assert features.attention_transfer(-7 * student, teacher / 3).item() == pytest.approx(expected, rel=1e-5)


def test_normalized_mse_of_channels_does_not_depend_on_their_scales():
    student, teacher = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    scales = torch.tensor([1.0, 0.3, 3.0]).view(1, 3, 1, 1)
    loss = features.feature_normalized_mse(student, teacher, "channel")
    scaled = features.feature_normalized_mse(scales * student, scales * teacher, "channel")
    assert scaled.item() == pytest.approx(loss.item(), rel=1e-5)
    by_hand = ((student - teacher).square().mean((2, 3)) / teacher.square().mean((2, 3))).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    # Against the sample's own power the largest channel would be all that counts.
    assert features.feature_normalized_mse(scales * student, scales * teacher) != pytest.approx(loss.item(), rel=0.01)


def test_normalized_mse_refuses_another_unit():
    with pytest.raises(ValueError, match="per must be one of sample, channel, got 'layer'"):
        features.feature_normalized_mse(torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2), "layer")


def test_normalized_mse_and_cosine_are_pure_numbers():
    student, teacher = maps()
    for loss in (features.feature_normalized_mse, features.feature_cosine):
        assert loss(20 * student, 20 * teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-5)


def test_space_divergence_sees_all_but_offsets_of_channels_and_means_see_those():
    student, teacher = maps()
    offsets = torch.arange(5.0).view(1, 5, 1, 1)
    kl = features.channel_wise_kl(student, teacher, 1.0).item()
    assert features.channel_wise_kl(student + offsets, teacher, 1.0).item() == pytest.approx(kl, rel=1e-4)
    # Mean square of the offsets 0 to 4 is 6, and the deviations are untouched.
    assert features.feature_statistics(teacher + offsets, teacher).item() == pytest.approx(6, rel=1e-5)


@every_loss
def test_zero_when_identical_and_positive_when_not(loss):
    student, teacher = maps()
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-7)
    assert loss(student, teacher) > 0.005


@every_loss
def test_never_negative(loss):
    for seed in range(20):
        student, teacher = maps(batch=1, seed=seed)
        # The divergences are sums of rounded differences, good to 1e-7; channel_wise_kl multiplies it by 16.
        assert loss(teacher + 1e-3 * (student - teacher), teacher) > (
            -1e-6 if loss is features.channel_wise_kl else -1e-7
        )


@pytest.mark.parametrize("over", ["tensor", "channel", "space"])
def test_divergence_of_a_student_within_one_int8_step_is_resolved_in_float32(over):
    _, teacher = maps(batch=2, channels=32, height=32, width=32)
    student = teacher + (torch.rand(teacher.shape, generator=torch.Generator().manual_seed(1)) - 0.5) * 4 / 255
    kl = [
        features.feature_statistics_kl(s, t, 1.0, over) - features.feature_statistics(s, t)
        for s, t in ((student, teacher), (student.double(), teacher.double()))
    ]
    assert kl[0].item() == pytest.approx(kl[1].item(), rel=1e-2)


@every_loss
def test_batch_size_does_not_matter(loss):
    student, teacher = maps()
    value = loss(student, teacher).item()
    assert loss(student.repeat(4, 1, 1, 1), teacher.repeat(4, 1, 1, 1)).item() == pytest.approx(value, rel=1e-5)
    separate = [loss(student[i : i + 1], teacher[i : i + 1]).item() for i in range(3)]
    assert value == pytest.approx(sum(separate) / 3, rel=1e-5)


@every_loss
def test_resolution_does_not_matter(loss):
    student, teacher = maps()
    value = loss(student, teacher).item()
    assert loss(enlarged(student), enlarged(teacher)).item() == pytest.approx(value, rel=1e-5)


@every_loss
def test_the_teacher_gets_no_gradient(loss):
    student, teacher = (x.requires_grad_() for x in maps())
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert bool(student.grad.abs().sum() > 0)


@every_loss
@pytest.mark.parametrize("student_value", [0.0, 1e-7, 0.1, 300.0])
@pytest.mark.parametrize("teacher_value", [0.0, 0.1, None])
def test_constant_and_zero_maps_have_finite_gradients(loss, student_value, teacher_value):
    teacher = maps()[1] if teacher_value is None else torch.full((3, 5, 6, 8), teacher_value)
    student = torch.full((3, 5, 6, 8), student_value, requires_grad=True)
    value = loss(student, teacher)
    value.backward()
    assert bool(value.isfinite())
    assert bool(student.grad.isfinite().all())


@every_loss
def test_a_silent_student_or_teacher_sample_does_not_blow_up_the_gradient(loss):
    student, teacher = maps()
    teacher[1, :, 2] = 0
    student[1, :, 2:4] = 0
    student.requires_grad_()
    loss(student, teacher).backward()
    assert student.grad.abs().max() < 1


def test_vectors_without_a_direction():
    silent, loud = torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3, 4)
    assert features.feature_cosine(silent, silent).item() == 0
    assert features.feature_cosine(silent, loud).item() == pytest.approx(0.5)
    assert features.attention_transfer(silent, silent).item() == 0
    assert features.attention_transfer(silent, loud).item() == pytest.approx(1)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    # 200^2 * 5 channels overflows float16, and so does a sum over a map.
    student, teacher = ((200 * x).to(dtype).requires_grad_() for x in maps())
    value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.detach().float(), teacher.detach().float()).item(), rel=1e-6)
    assert bool(student.grad.isfinite().all())


@every_loss
def test_gradients_are_those_of_finite_differences(loss):
    student, teacher = (x.double() for x in maps(batch=2, channels=3, height=2, width=3))
    student = (student + 0.1).requires_grad_()  # off the kink of |F|
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student, atol=1e-6)


@every_loss
def test_a_larger_teacher_is_averaged_and_a_smaller_one_interpolated(loss):
    student, teacher = maps()
    value = loss(student, teacher).item()
    assert loss(student, enlarged(teacher)).item() == pytest.approx(value, rel=1e-5)
    between = F.interpolate(teacher, (12, 16), mode="bilinear")
    expected = loss(enlarged(student), between).item()
    assert loss(enlarged(student), teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"attention", "attention_power_1"}))
def test_unequal_channels_are_refused_with_both_shapes(name):
    with pytest.raises(ValueError, match=r"1x1.*\(3, 4, 6, 8\).*\(3, 5, 6, 8\)"):
        LOSSES[name](maps(channels=4)[0], maps()[1])


def test_attention_compares_any_number_of_channels():
    student, teacher = maps()
    twice = torch.cat([student, student], dim=1)
    value = features.attention_transfer(student, teacher).item()
    assert features.attention_transfer(twice, teacher).item() == pytest.approx(value, rel=1e-5)


@every_loss
@pytest.mark.parametrize("student_shape", [(2, 5, 6, 8), (5, 6, 8), (3, 5, 48)])
def test_maps_of_another_batch_or_rank_are_refused_with_both_shapes(loss, student_shape):
    with pytest.raises(ValueError, match=rf"\({', '.join(map(str, student_shape))}\).*\(3, 5, 6, 8\)"):
        loss(torch.zeros(student_shape), maps()[1])


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        (features.feature_statistics_kl, {"over": "batch"}),
        (features.channel_wise_kl, {"temperature": 0.0}),
        (features.attention_transfer, {"power": 0.5}),
    ],
)
def test_arguments_outside_their_domain_are_refused_with_their_value(loss, wrong):
    with pytest.raises(ValueError, match=str(*wrong.values())):
        loss(*maps(), **wrong)
