"""AdamW with gains of channels: by hand, where it helps, and what a checkpoint keeps of it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.tasks.optimizers import GainAdamW


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1))


def fit(model, steps, images, targets, **options):
    """Losses before each step, and behind the last."""
    optimizer = GainAdamW(model.parameters(), **options)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(images) - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, (model(images) - targets).square().mean().item()]


def test_two_steps_by_hand():
    weight = nn.Parameter(torch.tensor([[1.0, -4.0], [0.5, 2.0]]))
    optimizer = GainAdamW([weight], lr=0.01, gains=5.0, weight_decay=0.1)
    expected = weight.detach().numpy().astype(np.float64)
    gradients = np.array([[[1.0, -2.0], [3.0, 0.5]], [[-1.0, 1.0], [2.0, 2.0]]])
    kept = {name: [0.0, 0.0] for name in ("weight", "rows", "columns")}
    for step, gradient in enumerate(gradients, 1):
        weight.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        by_weight = expected * gradient
        found = {}
        for name, each in (("weight", gradient), ("rows", by_weight.sum(1)), ("columns", by_weight.sum(0))):
            kept[name] = [0.9 * kept[name][0] + 0.1 * each, 0.999 * kept[name][1] + 0.001 * each**2]
            found[name] = kept[name][0] / (1 - 0.9**step) / np.sqrt(kept[name][1] / (1 - 0.999**step))
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * found["weight"]
        expected *= np.exp(-5 * 0.01 * (found["rows"][:, None] + found["columns"][None, :]))
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-5)


def test_a_depthwise_weight_has_a_gain_of_each_channel_and_none_of_the_whole():
    torch.manual_seed(0)
    start, gradient = torch.rand(3, 1, 3, 3) + 0.5, torch.randn(3, 1, 3, 3)
    moved = []
    # As the weight of a layer with one output, it is that output's channel, and has its gain.
    for shape in ((3, 1, 3, 3), (1, 3, 3, 3)):
        weight = nn.Parameter(start.view(shape).clone())
        weight.grad = gradient.view(shape)
        GainAdamW([weight], lr=0.01, gains=5.0).step()
        moved.append(weight.detach().view(3, 9))
    direction, of_channel = gradient.view(3, 9).sign(), (start * gradient).view(3, 9).sum(1, keepdim=True).sign()
    expected = (start.view(3, 9) - 0.01 * direction) * torch.exp(-0.05 * of_channel)
    torch.testing.assert_close(moved[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        moved[1], expected * torch.exp(-0.05 * (start * gradient).sum().sign()), rtol=1e-4, atol=1e-5
    )


def test_without_gains_it_is_adamw():
    images, targets = torch.randn(4, 3, 12, 12), torch.randn(4, 1, 8, 8)
    ours, theirs = network(), network()
    fit(ours, 5, images, targets, lr=0.01, gains=0.0, weight_decay=0.1)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (theirs(images) - targets).square().mean().backward()
        optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_channel_of_another_range_is_found_by_its_gain(dim):
    images = torch.randn(8, 3, 12, 12)
    model = network()
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        teacher[2].weight.movedim(dim, 0)[1].mul_(4.0)
        targets = teacher(images)
    losses = {gains: fit(copy.deepcopy(model), 40, images, targets, lr=0.0005, gains=gains) for gains in (0.0, 100.0)}
    assert losses[100.0][-1] < 0.2 * losses[0.0][-1]


def test_a_resumed_run_takes_the_same_steps():
    images, targets = torch.randn(2, 3, 12, 12), torch.randn(2, 1, 8, 8)

    def step(model, optimizer):
        optimizer.zero_grad()
        (model(images) - targets).square().mean().backward()
        optimizer.step()

    model = network()
    optimizer = GainAdamW(model.parameters(), lr=0.01)
    step(model, optimizer)
    again = network()
    again.load_state_dict(model.state_dict())
    resumed = GainAdamW(again.parameters(), lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer)
    step(again, resumed)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"), [({"gains": -1.0}, "gains: received -1.0"), ({"betas": (0.9, 1.0)}, "betas: received")]
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        GainAdamW([nn.Parameter(torch.ones(2, 2))], **options)
