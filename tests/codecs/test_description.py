"""Codecs as plain data, and as a readable formula."""

import json
import math

import numpy as np
import pytest

from depth_distill.codecs import (
    DepthRange,
    HostIntegerFractional,
    HostPair,
    HostSingle,
    HostThermometer,
    codec_of,
    describe_codec,
    formula,
)
from depth_distill.errors import ConfigError

RANGE = DepthRange(0.5, 15.0)


@pytest.mark.parametrize(
    "codec",
    [
        HostSingle(RANGE, "inverse"),
        HostThermometer(RANGE, "log", 4, "logit"),
        HostIntegerFractional(RANGE),
        HostPair(RANGE, "inverse", 12, "logit"),
        HostPair(RANGE, "linear", spacing="metres"),
    ],
    ids=str,
)
def test_a_described_codec_is_the_same_codec(codec):
    again = codec_of(json.loads(json.dumps(describe_codec(codec))))
    depth_m = np.linspace(0.5, 15, 100, dtype=np.float32).reshape(1, 1, 10, 10)
    assert str(again) == str(codec)
    assert np.array_equal(again.encode(depth_m), codec.encode(depth_m))
    assert np.array_equal(again.decode(codec.encode(depth_m)), codec.decode(codec.encode(depth_m)))


def test_a_formula_computes_what_the_codec_does():
    assert formula(HostSingle(RANGE)) == "depth_m = 0.5 * (15/0.5)^code"
    for codec, variable in ((HostSingle(RANGE, "inverse"), "code"), (HostSingle(RANGE, "linear"), "code")):
        expression = formula(codec).removeprefix("depth_m = ").replace("^", "**")
        found = eval(expression, {variable: 0.3})
        assert found == pytest.approx(float(codec.decode(np.full((1, 1, 1), 0.3)).item()), rel=1e-5)
    expression = formula(HostIntegerFractional(RANGE)).removeprefix("depth_m = ")
    assert eval(expression, {"integer": 7.4 / 15, "fractional": 0.4, "round": round}) == pytest.approx(7.4)


@pytest.mark.parametrize(
    "codec",
    [
        *(HostSingle(RANGE, encoding) for encoding in ("linear", "inverse", "log")),
        *(HostThermometer(RANGE, "log", 8, spacing) for spacing in ("uniform", "logit")),
        *HostIntegerFractional(RANGE, "sum", "floor").decoders,
        *HostIntegerFractional(RANGE, "round", "floor", "triangle").decoders,
        HostIntegerFractional(RANGE, fraction="triangle"),
        HostPair(RANGE, "log"),
        HostPair(RANGE, "linear", spacing="metres"),
    ],
    ids=str,
)
def test_the_steps_of_every_formula_compute_what_the_codec_does(codec):
    codes = codec.encode(np.float32([[[2.3, 7.7]]]).reshape(1, 1, 2))
    for pixel in range(2):
        values = codes[:, 0, pixel].tolist()
        names = {
            "codes": values,
            "round": round,
            "abs": abs,
            "exp": math.exp,
            **dict(zip(codec.code_names, values, strict=True)),
        }
        for step in formula(codec).split("; "):
            name, _, expression = step.partition(" = ")
            names[name] = eval(expression.replace("^", "**"), names)
        assert names["depth_m"] == pytest.approx(codec.decode(codes)[0, 0, pixel], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "double"}, "codec.kind must be one of"),
        ({"encoding": None, "extra": 1}, "needs min_depth_m, max_depth_m, encoding"),
        ({"encoding": "cubic"}, "encoding must be one of"),
        ({"min_depth_m": "near"}, "must be a finite number"),
    ],
)
def test_what_does_not_describe_a_codec(change, message):
    description = {**describe_codec(HostSingle(RANGE)), **change}
    with pytest.raises(ConfigError, match=message):
        codec_of(description)
