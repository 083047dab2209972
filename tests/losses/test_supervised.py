"""Modules call the functions of the same name, with their arguments."""

import pytest

from depth_distill import losses
from depth_distill.losses import functional as F
from tests.losses.test_functional import maps


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (losses.L1Loss(), F.masked_l1(*maps())),
        (losses.MSELoss(), F.masked_mse(*maps())),
        (losses.LogL1Loss(), F.log_l1(*maps())),
        (losses.RelativeL1Loss(), F.relative_l1(*maps())),
        (losses.SILogLoss(variance_focus=0.5), F.silog(*maps(), variance_focus=0.5)),
        (losses.BerHuLoss(threshold=0.4), F.berhu(*maps(), threshold=0.4)),
        (losses.GradientMatchingLoss(2, "linear"), F.gradient_matching(*maps(), scales=2, space="linear")),
        (losses.ScaleShiftInvariantLoss("log"), F.scale_and_shift_invariant(*maps(), space="log")),
    ],
    ids=lambda x: type(x).__name__,
)
def test_module_is_function(module, expected):
    assert module(*maps()).item() == expected.item()
