"""A roadmap file: which networks, which rows, which seeds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from depth_distill.errors import ConfigError
from depth_distill.quantization.recipe import DEFAULT_RECIPE, load_recipe

Kind = Literal["float", "ptq", "distill", "mixed"]


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: title.
        kind: ``float``: the teacher as it is; ``ptq``: what the tool chain makes of it behind the recipe; ``distill``:
            what it makes of a student that was trained from it behind the recipe; ``mixed``: the smallest set of FP16
            layers that reaches ``reach`` times FP32.
        recipe: passes before quantizing or training: name of a recipe, its file, or a list of passes.
        options: of ``fit``, over those of the roadmap; for ``distill``. A value ``{teacher}`` stands for the
            teacher's checkpoint.
        fake_quant: arguments of the callback ``FakeQuant``, over target and recipe; for ``distill``.
        seeds: train with each of these, and give mean and spread; the roadmap's unless given.
        networks: which of the networks the row is measured on; all unless given.
        reach: for ``mixed``.
    """

    name: str
    kind: Kind
    recipe: Any = DEFAULT_RECIPE
    options: dict[str, Any] = field(default_factory=dict)
    fake_quant: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] | None = None
    networks: list[str] | None = None
    reach: float = 1.01


@dataclass
class Plan:
    """A roadmap file.

    Attributes:
        teacher_config: config of the teacher; trained first where no checkpoint is given.
        distill_config: config that the students are trained with.
        rows: what is measured, in this order.
        teacher_checkpoint: a trained teacher.
        teacher_options: of the teacher's ``fit``.
        options: of every student's ``fit``.
        target: NPU profile.
        networks: by name, how many times worse than FP32 naive PTQ of it is made to be by spreading channel ranges;
            null leaves the network as it is. Just that, called plain, unless given.
        seeds: of trainings.
        images: validate on about this many; all if null.
        calibration_images: that the tool chain is given.
    """

    teacher_config: str
    distill_config: str
    rows: list[Row]
    teacher_checkpoint: str | None = None
    teacher_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    target: str = "per-tensor-minmax"
    networks: dict[str, float | None] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    images: int | None = None
    calibration_images: int = 64


def load_plan(path: Path) -> Plan:
    """Read a roadmap file.

    Raises:
        ConfigError: no such file, not YAML, or unknown, missing or ill-typed keys.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Plan), OmegaConf.load(path))
        plan: Plan = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist") from error
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path} is not a roadmap: {str(error).splitlines()[0]}") from error
    plan.networks = plan.networks or {"plain": None}
    for row in plan.rows:
        try:
            load_recipe(row.recipe)
        except ConfigError as error:
            raise ConfigError(f"{path}: row {row.name!r}: {error}") from error
        for name in row.networks or []:
            if name not in plan.networks:
                raise ConfigError(
                    f"{path}: row {row.name!r} names the network {name!r}, expected one of {', '.join(plan.networks)}"
                )
    return plan
