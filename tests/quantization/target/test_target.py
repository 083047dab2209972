import dataclasses
from pathlib import Path

import pytest

from depth_distill.errors import ConfigError
from depth_distill.quantization.target.operators import OperatorLimits
from depth_distill.quantization.target.target import NpuTarget, TensorFormat, load_target, target_names

BUILT_IN = Path(__file__).parents[3] / "configs" / "target"


def edited(tmp_path: Path, old: str, new: str, profile: str = "per-tensor-minmax") -> Path:
    text = (BUILT_IN / f"{profile}.yaml").read_text()
    assert old in text
    path = tmp_path / "chip.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_built_in_profiles():
    assert target_names() == (
        "aiware-apache6",
        "hard-sigmoid",
        "onnxruntime-cpu",
        "per-channel",
        "per-tensor-minmax",
        "rknn",
        "symmetric-pow2",
        "weights-int4",
    )
    for name in target_names():
        assert load_target(name).name == name
        assert load_target(name) == load_target(BUILT_IN / f"{name}.yaml")


def test_the_users_npu():
    target = load_target("per-tensor-minmax")
    assert target.weights == TensorFormat("int8", symmetric=True)
    assert target.activations == TensorFormat("uint8", symmetric=False)
    assert (target.calibrator, target.scales) == ("minmax", "vendor")
    assert target.capabilities.fp16 == "unconfirmed"
    assert target.capabilities.several_outputs == "yes"


def test_the_operator_limits_of_aiware():
    target = load_target("aiware-apache6")
    rules = target.operators
    assert rules.supported is not None
    assert len(rules.supported) == 61  # of the vendor's list
    key, limits = rules.limits_of("MaxPool")
    assert key == "operators.supported.MaxPool"
    assert limits.given() == {"max_window": 17, "max_dilation": 5, "strides": "powers_of_two"}
    assert target.line_of(f"{key}.max_window").endswith(": operators.supported.MaxPool.max_window: 17")
    assert rules.limits_of("ConvTranspose")[1].max_window == 5
    assert rules.limits_of("Relu")[1] == OperatorLimits()
    assert (rules.takes("Relu"), rules.takes("HardSwish"), rules.max_opset) == (True, False, 11)
    plain = target.to_dict()["operators"]
    assert (plain["supported"]["Relu"], plain["supported"]["LpPool"]["p"]) == ({}, (1, 2))
    assert isinstance(hash(target), int)


def test_a_profile_without_a_list_takes_everything(tmp_path):
    text = 'operators:\n  limits: {"Conv, MaxPool": {max_window: 7}, Slice: {multiple: 8}}\n  forbidden: [Softmax]'
    target = load_target(edited(tmp_path, "operators: {}", text))
    rules = target.operators
    assert (rules.takes("HardSwish"), rules.takes("Softmax")) == (True, False)
    assert [rules.limits_of(each)[1].max_window for each in ("Conv", "MaxPool", "Slice", "Relu")] == [7, 7, None, None]
    assert target.line_of("operators.limits.MaxPool.max_window").endswith(":20: operators.limits.MaxPool.max_window: 7")


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("int4", -8, 7), ("uint4", 0, 15), ("int8", -128, 127), ("uint8", 0, 255), ("int16", -32768, 32767),
        ("uint16", 0, 65535),
    ],
)  # fmt: skip
def test_codes_of_a_dtype(dtype, low, high):
    tensor_format = TensorFormat(dtype, symmetric=False)
    assert (tensor_format.quant_min, tensor_format.quant_max) == (low, high)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("calibrator:", "calibrater:", r"chip.yaml:6: calibrater: unknown key; did you mean 'calibrator'"),
        ("calibrator: minmax", "calibrator: min-max", r"calibrator: received 'min-max', did you mean 'minmax'"),
        ("int16: unconfirmed", "int61: no", r"chip.yaml:10: capabilities.int61: unknown key; did you mean 'int16'"),
        ("int16: unconfirmed", "int16: maybe", r"capabilities.int16: received 'maybe', expected one of yes"),
        ("alignment: 1", "alignment: 0", r"chip.yaml:16: alignment: received 0, expected a whole number of 1 or more"),
        ("scales: vendor\n", "", r"missing key scales"),
        ("[relu, relu6, clip]", "[relu, rely6]", r"chip.yaml:17: fused_activations: received .* did you mean 'relu6'"),
        ("operators: {}", "operators: {limits: {Conv: {max_windw: 3}}}", r"Conv.max_windw: unknown key"),
        ("operators: {}", "operators: {limits: {Relu: {max_window: 3}}}", r":19: .*Relu.max_window: Relu has no"),
        ("operators: {}", "operators: {forbidden: [Sofmax]}", r":19: .*forbidden: ONNX has no .*'Softmax'"),
        ("operators: {}", "operators: {supported: {Rleu: {}}}", r"operators.supported: .*'Rleu'; did you mean 'Relu'"),
        ("operators: {}", "operators: {supported: [Relu]}", r"operators.supported: received .*, expected a mapping"),
        ("operators: {}", "operators: {limits: {'Relu, Relu': {}}}", r"limits.Relu: Relu stands there twice"),
        ("operators: {}", "operators: {limits: {Relu: }, supported: {Relu: }}", r"limits.Relu: Relu is in"),
        ("operators: {}", "operators: {conv: {max_window: 3}}", r"conv: is now a limit .*{Conv: {max_w"),
        ("operators: {}", "operators: {slice_multiple: 8}", r"slice_multiple: is now a limit .*Split"),
        ("operators: {}", "operators: {max_opset: 1.9}", r"operators.max_opset: received 1.9, expected a whole number"),
        ("uint8, symmetric: false", "uint8, symmetric: true", r"chip.yaml:4: activations: symmetric: true contradicts"),
        ("granularity: per_tensor", "granularity: per_channel", r"weights.granularity: .* contradicts capabilities"),
        ("asymmetric_activations: unconfirmed", "asymmetric_activations: no", r"activations.symmetric: .* contradicts"),
        ("operators: {}", "operators: {}\ndtypes: {head.*: int5}", r"dtypes: received .*, expected a mapping"),
        ("description", "name: chip\ndescription", r"chip.yaml:2: name: is derived from the file; delete this line"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_profile_is_named_with_its_line(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load_target(edited(tmp_path, old, new))


def test_optional_limits_of_operators(tmp_path):
    path = edited(tmp_path, "operators: {}", "operators:\n  max_opset: 17\n  domains: [com.microsoft]")
    target = load_target(path)
    assert (target.operators.max_opset, target.operators.domains) == (17, ("com.microsoft",))
    assert target.line_of("operators.max_opset").endswith("chip.yaml:20: operators.max_opset: 17")
    assert load_target("per-tensor-minmax").operators.max_opset is None


def test_an_unquoted_yes_is_still_yes(tmp_path):
    assert load_target(edited(tmp_path, 'int8: "yes"', "int8: yes")).capabilities.int8 == "yes"


def test_unknown_target_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown target 'per-tensor-minimax'; did you mean 'per-tensor-minmax'"):
        load_target("per-tensor-minimax")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="does not exist; built in are"):
        load_target(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("weights: {dtype: int8")
    with pytest.raises(ConfigError, match="broken.yaml: not valid YAML"):
        load_target(tmp_path / "broken.yaml")


def test_a_tensor_with_a_dtype_of_its_own(tmp_path):
    plain = load_target("per-tensor-minmax")
    assert "dtypes" not in plain.to_dict()  # the profiles of older versions stay what they were
    target = load_target(edited(tmp_path, "operators: {}", "operators: {}\ndtypes: {'decoder.*': uint4}"))
    assert target.to_dict()["dtypes"] == target.dtypes == {"decoder.*": "uint4"}
    symmetric = load_target("symmetric-pow2")
    with pytest.raises(ConfigError, match="received 'uint4', which contradicts activations.symmetric: true; use int4"):
        dataclasses.replace(symmetric, dtypes={"decoder.*": "uint4"})


def test_a_profile_validates_itself_without_a_file():
    target = load_target("per-tensor-minmax")
    with pytest.raises(ConfigError, match="calibrator: received 'kl', expected one of minmax"):
        dataclasses.replace(target, calibrator="kl")
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.alignment = 8  # type: ignore[misc]


def test_the_line_of_a_key():
    target = load_target("symmetric-pow2")
    assert target.line_of("capabilities.fp16").endswith("symmetric-pow2.yaml:11: capabilities.fp16: no")
    assert isinstance(target, NpuTarget)


def with_substitutions(tmp_path: Path, text: str) -> Path:
    return edited(tmp_path, "operators: {}", f"operators: {{}}\nsubstitutions: {text}")


def test_substitutions(tmp_path):
    target = load_target(with_substitutions(tmp_path, "{Sigmoid: hard_sigmoid, 'Tanh, Elu': no, Gelu: unconfirmed}"))
    assert target.substitutions == {"Sigmoid": "hard_sigmoid", "Tanh": "no", "Elu": "no", "Gelu": "unconfirmed"}
    assert target.substituted == {"Sigmoid": "hard_sigmoid"}
    assert target.to_dict()["substitutions"]["Tanh"] == "no"
    assert target.line_of("substitutions.Elu").endswith(":20: substitutions.Elu: no")
    assert isinstance(hash(target), int)
    assert load_target("per-tensor-minmax").substituted == {}  # unconfirmed
    assert load_target("hard-sigmoid").substituted == {"Sigmoid": "hard_sigmoid"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{Sigmoyd: hard_sigmoid}", "chip.yaml:20: substitutions.Sigmoyd: .*did you mean 'Sigmoid'"),
        ("{Sigmoid: hard_sigmod}", "chip.yaml:20: substitutions.Sigmoid: received 'hard_sigmod'.*mean 'hard_sigmoid'"),
        ("{Sigmoid: yes}", "chip.yaml:20: substitutions.Sigmoid: received 'yes', which does not say what"),
        ("{Sigmoid: 3}", "chip.yaml:20: substitutions.Sigmoid: received '3'"),
        ("{Sigmoid: no, 'Sigmoid, Tanh': no}", "chip.yaml:20: substitutions.Sigmoid: Sigmoid stands there twice"),
        ("hard_sigmoid", "chip.yaml:20: substitutions: .*expected a mapping"),
    ],
)
def test_a_substitution_that_is_not_known(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_target(with_substitutions(tmp_path, text))


def test_a_profile_that_substitutes_nothing_is_written_as_before_there_were_substitutions():
    assert "substitutions" not in load_target("per-tensor-minmax").to_dict()
