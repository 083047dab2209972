import pytest
import torch

from depth_distill.export.compare.parity import share_within_one_step


def test_codes_one_step_apart_count_as_near_and_those_two_apart_do_not():
    images = [torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4)]
    steps = torch.tensor([0.0, 1.0, 1.0, 2.0]) * 0.1
    share = share_within_one_step(lambda image: image, lambda image: image + steps, images, step=0.1)
    assert share == pytest.approx(0.75)
