"""Which layers of student and teacher are compared, and by what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from depth_distill.errors import ConfigError

FindLayers = Callable[[nn.Module, str, str], list[str]]
"""Names of the layers of a network that match a pattern; the last argument is ``student`` or ``teacher``."""


@dataclass
class LayerPair:
    """A layer of the student, the layer of the teacher that it is to match, and how the two are compared.

    Attributes:
        student: name of a layer, or a glob that matches several.
        loss: called with the maps of both layers, ``(B, C, h, w)``.
        teacher: name or glob in the teacher; the same as ``student`` if not given.
    """

    student: str
    loss: nn.Module
    teacher: str | None = None


@dataclass
class ResolvedPair:
    """A pair with the name of exactly one layer of each network."""

    name: str
    """Key of the term in logs: the name of the student's layer, followed by a number from its second pair on."""
    student: str
    teacher: str
    loss: nn.Module
    adapter: str | None = None
    """Key of the adapter that maps the student's channels to the teacher's, where their numbers differ."""


def resolve(
    pairs: Sequence[LayerPair], student: nn.Module, teacher: nn.Module, find_layers: FindLayers
) -> list[ResolvedPair]:
    """Replace names and globs by the layers that they match.

    Raises:
        ConfigError: no layer matches, or the globs match different numbers of layers in the two networks.
    """
    resolved: list[ResolvedPair] = []
    for pair in pairs:
        of_student = find_layers(student, pair.student, "student")
        of_teacher = find_layers(teacher, pair.teacher or pair.student, "teacher")
        if len(of_student) != len(of_teacher):
            raise ConfigError(
                f"{pair.student!r} stands for {len(of_student)} layers of the student ({', '.join(of_student)}) and "
                f"{pair.teacher or pair.student!r} for {len(of_teacher)} of the teacher ({', '.join(of_teacher)})"
            )
        for name, teacher_name in zip(of_student, of_teacher, strict=True):
            same = sum(each.student == name for each in resolved)
            resolved.append(ResolvedPair(f"{name}_{same}" if same else name, name, teacher_name, pair.loss))
    return resolved


def check_maps(pair: ResolvedPair, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> tuple[int, int]:
    """Number of channels of the student's map and of the teacher's.

    Raises:
        ConfigError: a layer was not called, or does not return a map.
    """
    channels = []
    for whose, name, features in (("student", pair.student, student), ("teacher", pair.teacher, teacher)):
        if name not in features:
            raise ConfigError(f"layer {name} of the {whose} is not called in a forward pass")
        shape = tuple(features[name].shape)
        if len(shape) != 4:
            raise ConfigError(f"layer {name} of the {whose} returns a tensor {shape}; expected a map (B, C, h, w)")
        channels.append(shape[1])
    return channels[0], channels[1]
