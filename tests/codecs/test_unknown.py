"""The codec of no known meaning refuses every question, by name, and is described like any other."""

import numpy as np
import pytest

from depth_distill.codecs import HostUnknown, codec_of, describe_codec, formula
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.models import DepthCodec

REFUSAL = "the output of this network has no known meaning: only its deviation from FP32 can be reported"


@pytest.mark.parametrize(
    "ask",
    [
        lambda codec: codec.decode(np.zeros((1, 1, 2, 2))),
        lambda codec: codec.encode(np.ones((1, 1, 2, 2))),
        lambda codec: codec.step_mm(np.ones(3)),
        lambda codec: codec.slopes_with(np, np.ones(3)),
        lambda codec: codec.channels,
        lambda codec: codec.near_m,
        formula,
    ],
)
def test_whatever_needs_metres_is_refused(ask):
    with pytest.raises(ConfigError, match=REFUSAL):
        ask(HostUnknown())


def test_it_is_not_scored_in_metres():
    with pytest.raises(ConfigError, match=REFUSAL):
        Evaluator([()], DepthCodec(HostUnknown()))


def test_its_description_is_its_kind():
    assert describe_codec(HostUnknown()) == {"kind": "unknown"}
    assert isinstance(codec_of({"kind": "unknown"}), HostUnknown)
    with pytest.raises(ConfigError, match="a codec of kind unknown has no other key; received min_depth_m"):
        codec_of({"kind": "unknown", "min_depth_m": 1.0})
