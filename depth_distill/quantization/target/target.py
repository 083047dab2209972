"""NPU profiles: the capabilities of a chip and its tool chain, as self-validating data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

from depth_distill.errors import ConfigError
from depth_distill.quantization.target.operators import OperatorLimits, OperatorRules
from depth_distill.quantization.target.substitutions import ITSELF, UNCONFIRMED, problem_of
from depth_distill.quantization.target.validated import FieldError, ValidatedDataclass, validated_from_mapping
from depth_distill.shipped_configs import shipped_folder
from depth_distill.suggestions import did_you_mean
from depth_distill.yaml_files import read_yaml

Dtype = Literal["int4", "uint4", "int8", "uint8", "int16", "uint16"]
Granularity = Literal["per_tensor", "per_channel"]
Support = Literal["yes", "no", "unconfirmed"]
CalibratorName = Literal["minmax", "moving_average", "percentile", "mse"]
ActivationName = Literal[
    "relu", "relu6", "clip", "leaky_relu", "prelu", "elu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "gelu"
]

_BITS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16}
_GRANULARITY = "activations.granularity"


@dataclass(frozen=True)
class TensorFormat(ValidatedDataclass):
    """Storage format of weights or activations: ``real = (code - zero_point) * scale``, ONNX DequantizeLinear.

    Raises:
        ConfigError: the format is symmetric and unsigned, which cannot represent negative values.
    """

    dtype: Dtype
    symmetric: bool
    granularity: Granularity = "per_tensor"
    power_of_two: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.symmetric and self.dtype.startswith("u"):
            raise ConfigError(f"symmetric: true contradicts dtype: {self.dtype}; use dtype: {self.dtype[1:]}")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return _BITS[self.dtype]

    @property
    def quant_min(self) -> int:
        """Lowest code."""
        return 0 if self.dtype.startswith("u") else -(2 ** (self.bits - 1))

    @property
    def quant_max(self) -> int:
        """Highest code."""
        return self.quant_min + 2**self.bits - 1


@dataclass(frozen=True)
class Capabilities(ValidatedDataclass):
    """Capabilities of the chip and its tool chain; ``unconfirmed`` means that it has not been tested."""

    int8: Support
    int16: Support
    fp16: Support
    per_layer_precision: Support
    several_outputs: Support
    asymmetric_activations: Support
    per_channel_weights: Support


@dataclass(frozen=True)
class NpuTarget(ValidatedDataclass):
    """An NPU together with its tool chain.

    Raises:
        ConfigError: a field has a wrong type or value, or the formats contradict the capabilities.
    """

    name: str
    description: str
    weights: TensorFormat
    activations: TensorFormat
    bias_dtype: Literal["int32", "float32"]
    calibrator: CalibratorName
    scales: Literal["vendor", "imported"]
    """``vendor``: the tool chain quantizes a float file itself; ``imported``: it uses the scales of a QDQ file."""
    capabilities: Capabilities
    alignment: int
    """Height and width of feature maps should be multiples of this."""
    fused_activations: tuple[ActivationName, ...]
    """Activations that the NPU fuses into the preceding conv, linear or add, without quantization in between."""
    shared_scales: tuple[Literal["concat", "add"], ...]
    """``concat``: inputs and output must share one scale; ``add``: both inputs must share one scale."""
    operators: OperatorRules
    substitutions: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What the tool chain computes in place of a smooth activation, by operator: the name of a substitution; ``no``: it
    was seen to compute the operator itself; ``unconfirmed``, and every operator that is not named: not tested. See
    :data:`~depth_distill.quantization.target.substitutions.SUBSTITUTION_NAMES`."""
    dtypes: Mapping[str, Dtype] = field(default_factory=dict, hash=False)
    """Tensors that are stored in another dtype than the others of their kind: by the name of the tensor, such as
    ``encoder.conv1.weight`` or ``decoder.blocks.4.*``; what is named last counts."""
    source: Path | None = field(default=None, compare=False)
    """The file that the profile was read from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        can = self.capabilities
        needs = {
            "weights.granularity": (self.weights.granularity == "per_channel", "per_channel_weights"),
            "activations.symmetric": (not self.activations.symmetric, "asymmetric_activations"),
            "weights.dtype": (True, self.weights.dtype.removeprefix("u")),
            "activations.dtype": (True, self.activations.dtype.removeprefix("u")),
        }
        for key, (needed, capability) in needs.items():
            # Of 4 bits a profile says by its formats alone.
            if needed and getattr(can, capability, "yes") == "no":
                value = getattr(getattr(self, key.split(".")[0]), key.split(".")[1])
                raise FieldError(f"received {value!r}, which contradicts capabilities.{capability}: no", key)
        if self.activations.granularity == "per_channel":
            reason = "received 'per_channel', expected per_tensor: convolutions do not support per-channel inputs"
            raise FieldError(reason, _GRANULARITY)
        for pattern, dtype in self.dtypes.items():
            if self.activations.symmetric and dtype.startswith("u"):
                reason = f"received {dtype!r}, which contradicts activations.symmetric: true; use {dtype[1:]}"
                raise FieldError(reason, f"dtypes.{pattern}")
        for operator, by in self.substitutions.items():
            problem = problem_of(operator, by)
            if problem is not None:
                raise FieldError(problem, f"substitutions.{operator}")

    @property
    def substituted(self) -> dict[str, str]:
        """What is computed in place of each operator that the tool chain does not compute itself."""
        return {operator: by for operator, by in self.substitutions.items() if by not in (ITSELF, UNCONFIRMED)}

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain data, without its source file, limits that no operator has, and empty substitutions."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if key != "source"}
        for key in ("supported", "limits"):
            named: Mapping[str, OperatorLimits] | None = getattr(self.operators, key)
            values["operators"][key] = None if named is None else {op: each.given() for op, each in named.items()}
        for later in ("substitutions", "dtypes"):
            if not values[later]:
                del values[later]  # what older versions wrote of the profile stays comparable
        return values

    def line_of(self, key: str) -> str:
        """``file:line: key: value`` of a dotted key, to show which line of a profile forbids something.

        Raises:
            ConfigError: the profile was not read from a file.
        """
        if self.source is None:
            raise ConfigError(f"target {self.name} was not read from a file, so {key} has no line")
        value: Any = self
        for part in key.split("."):
            value = value[part] if isinstance(value, Mapping) else getattr(value, part)
        value = ", ".join(value) if isinstance(value, Mapping) else value
        return f"{self.source}:{_line(self.source, key)}: {key}: {value}"


def load_target(name_or_path: str | Path) -> NpuTarget:
    """Read a built-in profile by name, or any profile by the path of its YAML file.

    Raises:
        ConfigError: there is no such profile, the YAML cannot be parsed, a key is unknown or missing, or a value is
            invalid; the message names file, line, key, the value received and the nearest valid one.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in target_names():
            hint = did_you_mean(str(name_or_path), target_names())
            raise ConfigError(f"unknown target {str(name_or_path)!r}; {hint}, or the path of a .yaml file")
        path = shipped_folder() / "target" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ConfigError(f"target profile {path} does not exist; built in are {', '.join(target_names())}")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys of a target profile, received {values!r:.60}")
    for given in ("name", "source"):
        if given in values:
            raise ConfigError(f"{path}:{_line(path, given)}: {given}: is derived from the file; delete this line")
    if isinstance(values.get("capabilities"), dict):
        # YAML 1.1 reads an unquoted yes or no as a boolean.
        words = {True: "yes", False: "no"}
        values["capabilities"] = {
            key: words[value] if isinstance(value, bool) else value for key, value in values["capabilities"].items()
        }
    if "substitutions" in values:
        values["substitutions"] = _substitutions(values["substitutions"], path)
    try:
        return dataclasses.replace(validated_from_mapping(NpuTarget, {**values, "name": path.stem}), source=path)
    except FieldError as error:
        place = f"{path}:{_line(path, error.key)}" if error.key else path
        raise ConfigError(f"{place}: {error}") from error


def _substitutions(values: Any, path: Path) -> Any:
    """Substitutions by operator: operators with the same one may share a key, and ``no`` needs no quotes."""
    if not isinstance(values, Mapping):
        return values  # refused as any wrong value is
    words, found = {True: "yes", False: ITSELF}, {}
    for together, value in values.items():
        for operator in map(str.strip, str(together).split(",")):
            if operator in found:
                line = _line(path, f"substitutions.{operator}")
                raise ConfigError(f"{path}:{line}: substitutions.{operator}: {operator} stands there twice")
            found[operator] = words[value] if isinstance(value, bool) else str(value)
    return found


@lru_cache
def target_names() -> tuple[str, ...]:
    """Names of the built-in profiles."""
    return tuple(sorted(path.stem for path in (shipped_folder() / "target").glob("*.yaml")))


def _line(path: Path, key: str) -> int:
    """Line number of a dotted key, or of its innermost existing part."""
    node, line = yaml.compose(path.read_text(encoding="utf-8-sig")), 1
    for part in key.split("."):
        if not isinstance(node, yaml.MappingNode):
            break
        # Operators with the same limits share a key.
        found = [pair for pair in node.value if part in map(str.strip, pair[0].value.split(","))]
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line
