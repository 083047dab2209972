"""A roadmap file: networks, rows and seeds."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from depth_distill.errors import ConfigError, first_line
from depth_distill.export.backends.vendor_ptq import inexpressible
from depth_distill.export.onnx_io.substitution import unwritable
from depth_distill.quantization.recipe import DEFAULT_RECIPE, load_recipe
from depth_distill.quantization.target.target import load_target
from depth_distill.shipped_configs import find_config
from depth_distill.suggestions import did_you_mean
from depth_distill.yaml_files import read_yaml

Kind = Literal["float", "ptq", "distill", "mixed"]


@dataclass
class RoadmapRow:
    """One row of the table.

    Attributes:
        name: title of the row.
        kind: ``float``: the float teacher; ``ptq``: the teacher after the recipe and the tool chain's PTQ; ``distill``:
            a student of the teacher, trained after the recipe, then the tool chain's PTQ; ``mixed``: the smallest set
            of FP16 layers that reaches ``reach`` times FP32.
        recipe: passes before quantizing or training: name of a recipe, its file, or a list of passes.
        then: passes that the trained student goes through before it is quantized; for ``distill``.
        options: options of ``fit``, which override those of the roadmap; for ``distill``. A value ``{teacher}`` is
            replaced by the teacher's checkpoint, ``{teacher_network}`` by the ``network`` of its config, for students
            of another architecture, ``{data_root}`` by ``data.root``.
        fake_quant: arguments of the callback ``FakeQuant``, which override target and recipe; for ``distill``.
        seeds: seeds to train with, for mean and spread; those of the roadmap unless given.
        networks: networks to measure the row on; all unless given.
        reach: abs_rel to reach, as a multiple of FP32; for ``mixed``.
        decode_table: whether the host decodes through a table that is fitted on what the tool chain's network says on
            the calibration images; for ``ptq``.
        planned: abs_rel that a plan foresaw at this point, to be set beside what is measured.
    """

    name: str
    kind: Kind
    recipe: Any = DEFAULT_RECIPE
    then: Any = "naive"
    options: dict[str, Any] = field(default_factory=dict)
    fake_quant: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] | None = None
    networks: list[str] | None = None
    reach: float = 1.01
    decode_table: bool = False
    planned: float | None = None


@dataclass
class Plan:
    """A roadmap file.

    Attributes:
        teacher_config: config of the teacher, which is trained first unless a checkpoint is given.
        distill_config: config of the students.
        rows: rows to measure, in this order.
        teacher_checkpoint: checkpoint of a trained teacher.
        teacher_options: options of the teacher's ``fit``.
        options: options of every student's ``fit``.
        target: NPU profile.
        substituting: profile of a tool chain that computes something else in place of an operator; what is quantized
            behind ``target`` is measured with these substitutions, too, in place of those of the target.
        teachers: options of ``fit`` by name, where there are several teachers: each is a network of its own. Students
            get those that describe the network and the data of their teacher.
        teacher_checkpoints: checkpoints of trained ones among them, by name.
        planned_float: abs_rel in FP32 of the network that a plan was made for; what rows say of ``planned`` is shown as
            a multiple of it.
        networks: variants of the teacher by name. A number spreads the channel ranges such that abs_rel after naive PTQ
            is this multiple of FP32; null changes nothing. By default only ``plain: null``.
        seeds: seeds of trainings.
        images: approximate number of validation images; null for all.
        calibration_images: number of calibration images for the tool chain.
    """

    teacher_config: str
    distill_config: str
    rows: list[RoadmapRow]
    teacher_checkpoint: str | None = None
    teacher_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    target: str = "per-tensor-minmax"
    substituting: str | None = None
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)
    teacher_checkpoints: dict[str, str] = field(default_factory=dict)
    planned_float: float | None = None
    networks: dict[str, float | None] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    images: int | None = None
    calibration_images: int = 64


def load_plan(path: Path) -> Plan:
    """Read a roadmap file.

    Raises:
        ConfigError: the file does not exist, is not YAML, or has unknown, missing or ill-typed keys.
    """
    if not isinstance(read_yaml(path), dict):
        raise ConfigError(f"{path} is not a roadmap: it has no keys such as teacher_config and rows")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Plan), OmegaConf.load(path))
        plan: Plan = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path} is not a roadmap: {first_line(error)}") from error
    plan.networks = plan.networks or {"plain": None}
    _check(path, plan)
    for row in plan.rows:
        try:
            load_recipe(row.recipe)
            load_recipe(row.then)
        except ConfigError as error:
            raise ConfigError(f"{path}: row {row.name!r}: {error}") from error
        for name in row.networks or []:
            if name not in plan.networks:
                raise ConfigError(
                    f"{path}: row {row.name!r} names the network {name!r}, expected one of {', '.join(plan.networks)}"
                )
    return plan


def _check(path: Path, plan: Plan) -> None:
    """Refuse what would be found out after hours of training."""
    for key in ("images", "calibration_images"):
        value = getattr(plan, key)
        if value is not None and value < 1:
            raise ConfigError(f"{path}: {key}: received {value}, expected a whole number of 1 or more")
    numbers = {f"networks.{name}": value for name, value in plan.networks.items() if value is not None}
    numbers |= {f"row {row.name!r}: reach": row.reach for row in plan.rows}
    numbers |= {f"row {row.name!r}: planned": row.planned for row in plan.rows if row.planned is not None}
    if plan.planned_float is not None:
        numbers["planned_float"] = plan.planned_float
    for key, number in numbers.items():
        if not 0 < number < math.inf:
            raise ConfigError(f"{path}: {key}: received {number}, expected a positive number")
    if any(row.kind == "distill" and not (row.seeds or plan.seeds) for row in plan.rows):
        raise ConfigError(f"{path}: seeds is empty: expected at least one for rows of the kind distill")
    if plan.planned_float is None and any(row.planned is not None for row in plan.rows):
        raise ConfigError(f"{path}: rows have planned, but planned_float is not given: expected abs_rel of its FP32")
    for row in plan.rows:
        if row.then != "naive" and row.kind != "distill":
            raise ConfigError(f"{path}: row {row.name!r}: then is for the kind distill, received {row.kind}")
        if row.decode_table and row.kind != "ptq":
            raise ConfigError(f"{path}: row {row.name!r}: decode_table is for the kind ptq, received {row.kind}")
    for name in plan.teacher_checkpoints:
        if name not in plan.teachers:
            hint = did_you_mean(name, plan.teachers) if plan.teachers else "there are no teachers"
            raise ConfigError(f"{path}: teacher_checkpoints: unknown teacher {name!r}; {hint}")
    if plan.teachers and plan.teacher_checkpoint is not None:
        raise ConfigError(
            f"{path}: teacher_checkpoint stands beside teachers: give the checkpoint of each in teacher_checkpoints"
        )
    rows = [row.name for row in plan.rows]
    for key, names in (("teachers", plan.teachers), ("networks", plan.networks), ("rows", rows)):
        _require_folders(f"{path}: {key}", names)
    if not plan.rows:
        raise ConfigError(f"{path}: rows is empty: expected the rows to measure")
    try:
        for profile in filter(None, (plan.target, plan.substituting)):
            reason = unwritable(load_target(profile).substitutions)
            if reason is not None:
                raise ConfigError(f"no file can be written as the profile {profile} computes it: {reason}")
        reason = inexpressible(load_target(plan.target)) if plan.substituting is not None else None
        if reason is not None:
            raise ConfigError(
                f"substituting: needs a target that ONNX Runtime's quantizer can stand for; of {plan.target}, {reason}"
            )
        if plan.substituting is not None and not load_target(plan.substituting).substituted:
            raise ConfigError(f"substituting: the profile {plan.substituting} substitutes nothing")
        config = find_config(plan.distill_config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not config.is_file() and any(row.kind == "distill" for row in plan.rows):
        raise ConfigError(f"{path}: distill_config: there is no file {config}")


def slug(text: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _require_folders(key: str, names: Iterable[str]) -> None:
    """Refuse names whose folders would be one."""
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(slug(name), name)
        if other is not name:
            raise ConfigError(f"{key}: {other!r} and {name!r} would share the folder {slug(name)!r}: rename one")
