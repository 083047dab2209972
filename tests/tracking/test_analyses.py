"""What commands that train nothing log."""

import pytest
import wandb

from depth_distill.errors import ConfigError
from depth_distill.tracking.analyses import track


def test_what_weights_and_biases_refuses_is_one_line(tmp_path, monkeypatch):
    def refuse(**_):
        raise wandb.errors.CommError("denied\n(403)")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"Weights & Biases: denied \(403\); the results are written"):
        track("evaluate", tmp_path, None, {}, {"abs_rel": 0.1})
