"""A tool chain that computes something else in place of an activation is found out, in float and in 8 bits."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from depth_distill.errors import ConfigError
from depth_distill.export.backends.backends import BackendRun
from depth_distill.export.onnx_io.substitution import substitute_operators
from depth_distill.export.probe.judgement import reference
from depth_distill.export.probe.probes import Prober
from depth_distill.export.probe.profile_writing import write_profile
from depth_distill.export.probe.report import ProbeReport
from depth_distill.export.probe.substitutions import judge_substitution, substitution_probes
from depth_distill.quantization.graph.substitutions import EXACT, SUBSTITUTIONS
from depth_distill.quantization.target.substitutions import SUBSTITUTION_NAMES
from depth_distill.quantization.target.target import load_target
from tests.quantization.target.test_target import with_substitutions

TARGET = load_target("per-tensor-minmax")
PROBES = {each.operator: each for each in substitution_probes(TARGET)}


def rounded(values):
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = (high - low) / 255
    return (np.round(values / step) * step).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A tool chain that substitutes when it reads a float file, and one that does so in its own PTQ only."""

    substitutions: dict
    in_ptq_only: bool = False
    refuses: str = ""
    name: str = "chain"
    takes: frozenset = frozenset({"float"})
    quantizes: bool = True
    simulator: bool = False

    def missing(self):
        return None

    def run(self, model, inputs, calibration=None, options=None, repeats=20):
        file = onnx.load(model)
        if self.refuses in {node.op_type for node in file.graph.node}:
            raise ConfigError(f"chain:\nerror: no {self.refuses}")
        if calibration is not None or not self.in_ptq_only:
            file = substitute_operators(file, self.substitutions)
        if calibration is None:
            return BackendRun(reference(file, inputs), None, 0.0, "3", False, ())
        outputs = {name: rounded(each) for name, each in reference(file, rounded(inputs)).items()}
        return BackendRun(outputs, None, 0.0, "3", False, ())


def test_the_operators_themselves():
    prober = Prober(Chain({}))
    assert PROBES.keys() == SUBSTITUTION_NAMES.keys()
    for result in prober.substitutions(list(PROBES.values())):
        assert (result.computed, result.verdict) == ("no", "confirmed"), result.reason
    old = dataclasses.replace(TARGET, operators=dataclasses.replace(TARGET.operators, max_opset=11))
    assert "HardSwish" not in {each.operator for each in substitution_probes(old)}


@pytest.mark.parametrize("in_ptq_only", [False, True])
def test_a_tool_chain_that_substitutes(in_ptq_only):
    prober = Prober(Chain({"Sigmoid": "hard_sigmoid", "Elu": "relu", "Softplus": "relu"}, in_ptq_only))
    found = {each.name: each for each in prober.substitutions(list(PROBES.values()))}
    assert found["Sigmoid"].computed == "hard_sigmoid"
    assert found["Sigmoid"].verdict == "unsupported"
    assert "behind its own PTQ: RMS 0.0" in found["Sigmoid"].reason
    assert (found["Elu"].computed, found["Softplus"].computed) == ("relu", "relu")
    assert found["Tanh"].computed == "no"
    # Its Sigmoid is in x * Sigmoid(x), too, which is then no operator that is known, or x * HardSigmoid(x).
    assert found["Swish"].computed != "no"


@pytest.mark.parametrize("operator", SUBSTITUTIONS)
def test_each_substitution_is_recognized_in_float(operator):
    probe = PROBES[operator]
    x = torch.from_numpy(probe.inputs).double()
    for by, function in SUBSTITUTIONS[operator].items():
        found, reason = judge_substitution(probe, function(x).numpy(), False)
        if (operator, by) == ("Gelu", "tanh"):  # 0.0002 off: FP16 may be as much
            assert (found, "tanh could not be told apart" in reason) == ("no", True)
        else:
            assert found == by
    assert judge_substitution(probe, EXACT[operator](x).numpy(), False)[0] == "no"
    assert judge_substitution(probe, EXACT[operator](0.7 * x).numpy(), False)[0] == "unconfirmed"


def test_what_8_bits_cannot_show_is_said():
    probe = PROBES["Sigmoid"]
    values = rounded(torch.sigmoid(torch.from_numpy(probe.inputs)).numpy())
    found, reason = judge_substitution(probe, values, True)
    assert found == "no"
    assert "table_8 could not be told apart" in reason.replace("table_7, ", "")
    assert judge_substitution(probe, np.full_like(values, np.nan), True)[0] == "unconfirmed"
    assert "shape" in judge_substitution(probe, values[..., :3], True)[1]


def test_a_refusal_says_nothing():
    results = Prober(Chain({}, refuses="Softplus")).substitutions(list(PROBES.values()))
    by_name = {each.name: each for each in results}
    refused = by_name.pop("Softplus")
    assert (refused.computed, refused.verdict) == ("unconfirmed", "unconfirmed")
    assert "refused: error: no Softplus" in refused.reason
    assert {each.computed for each in by_name.values()} == {"no"}


def test_the_profile_as_found(tmp_path):
    source = load_target(with_substitutions(tmp_path, "{Sigmoid: no, 'Tanh, Elu': unconfirmed, Gelu: sigmoid}"))
    prober = Prober(Chain({"Sigmoid": "hard_sigmoid"}))
    results = tuple(prober.substitutions([PROBES[name] for name in ("Sigmoid", "Elu", "Gelu", "Tanh")]))
    report = ProbeReport(source, "chain 3", results)
    assert [each.name for each in report.overstated] == ["Sigmoid"]
    assert [each.name for each in report.understated] == ["Gelu"]
    assert report.disagreements()[0] == "Sigmoid itself: the profile claims it, but it is unsupported"
    assert report.capabilities() == {}
    path = tmp_path / "mine.yaml"
    changes = write_profile(source, path, {}, [], "chain 3", report.substitutions())
    assert set(changes) == {
        "substitutions.Sigmoid: no -> hard_sigmoid",
        "substitutions.Tanh: unconfirmed -> no",
        "substitutions.Elu: unconfirmed -> no",
        "substitutions.Gelu: sigmoid -> no",
    }
    assert load_target(path).substitutions == {"Sigmoid": "hard_sigmoid", "Tanh": "no", "Elu": "no", "Gelu": "no"}
    # Into a profile that has none.
    plain = tmp_path / "plain.yaml"
    write_profile(TARGET, plain, {}, ["Softmax"], "chain 3", {"Sigmoid": "table_6", "Elu": "no"})
    assert load_target(plain).substitutions == {"Sigmoid": "table_6", "Elu": "no"}
    assert plain.read_text().rstrip().endswith('substitutions: {Sigmoid: table_6, Elu: "no"}  # probed: chain 3')
    assert load_target(plain).operators.forbidden == ("Softmax",)
