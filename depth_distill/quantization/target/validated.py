"""Frozen dataclasses that validate their own fields; target profiles consist of them."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from depth_distill.errors import ConfigError
from depth_distill.suggestions import did_you_mean

R = TypeVar("R", bound="ValidatedDataclass")


class FieldError(ConfigError):
    """A field is invalid: ``key`` is its dotted path, ``reason`` what is wrong."""

    def __init__(self, reason: str, key: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)
        self.reason = reason
        self.key = key


@dataclasses.dataclass(frozen=True)
class ValidatedDataclass:
    """Base of frozen dataclasses whose fields are literals, numbers, strings, tuples of these, or nested instances.

    A field may also be a mapping from names to nested instances; in YAML, names with equal values may share a key,
    separated by commas, and a name without a value has an instance of defaults.

    Raises:
        FieldError: a field does not fit its annotation; the message names it and the nearest valid value.
    """

    @classmethod
    def moved(cls, name: str) -> str | None:
        """What to write instead of a key that older files have; None if it was never one."""
        return None

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), hints[field.name])


def validated_from_mapping(cls: type[R], values: Any, key: str = "") -> R:
    """Build a validated dataclass, including nested ones, from the content of a YAML file.

    Args:
        cls: the dataclass to build.
        values: its fields; lists become tuples.
        key: dotted path of ``values`` in the file, for messages.

    Raises:
        FieldError: ``values`` is not a mapping, a key is unknown or missing, or a value is invalid.
    """
    if not isinstance(values, Mapping):
        raise FieldError(f"received {values!r}, expected a mapping of {', '.join(_field_names(cls))}", key)
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name in _field_names(cls)}
    arguments = {}
    for name, value in values.items():
        place = f"{key}.{name}" if key else str(name)
        if name not in hints:
            raise FieldError(cls.moved(str(name)) or f"unknown key; {did_you_mean(str(name), hints)}", place)
        nested, of_mapping = _validated_in(hints[name]), _validated_in_mapping(hints[name])
        if of_mapping is not None and value is not None:
            value = _mapping(of_mapping, value, place)
        elif nested is not None and value is not None:
            value = validated_from_mapping(nested, value, place)
        elif isinstance(value, list):
            value = tuple(value)
        _check(name, value, hints[name], place)
        arguments[name] = value
    missing = [
        field.name for field in dataclasses.fields(cls) if field.name not in arguments and not _has_default(field)
    ]
    if missing:
        raise FieldError(f"missing key{'s' * (len(missing) > 1)} {', '.join(missing)}", key)
    try:
        return cls(**arguments)
    except FieldError as error:
        raise FieldError(error.reason, f"{key}.{error.key}" if key else error.key) from error
    except ConfigError as error:
        raise FieldError(str(error), key) from error


def _mapping(cls: type[R], values: Any, key: str) -> dict[str, R]:
    if not isinstance(values, Mapping):
        raise FieldError(f"received {values!r}, expected a mapping from names to {', '.join(_field_names(cls))}", key)
    found: dict[str, R] = {}
    for together, value in values.items():
        for name in (each.strip() for each in str(together).split(",")):
            if name in found:
                raise FieldError(f"{name} stands there twice", f"{key}.{name}")
            found[name] = validated_from_mapping(cls, {} if value is None else value, f"{key}.{name}")
    return found


def _check(name: str, value: Any, annotation: Any, key: str = "") -> None:
    if not _fits(value, annotation):
        raise FieldError(f"received {value!r}, {_expected(value, annotation)}", key or name)


def _fits(value: Any, annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Literal:
        return value in get_args(annotation) and not isinstance(value, bool)
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(annotation))
    if origin is tuple:
        item = get_args(annotation)[0]
        return isinstance(value, tuple) and all(_fits(each, item) for each in value)
    if origin is Mapping:
        item = get_args(annotation)[1]
        return isinstance(value, Mapping) and all(_fits(each, item) for each in value.values())
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, annotation)


def _expected(value: Any, annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return did_you_mean(str(value), map(str, get_args(annotation)))
    if annotation == (Literal[0] | int):
        return "expected a whole number of 0 or more"
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(value, choice) for choice in get_args(annotation))
    if origin is tuple:
        wrong = next((each for each in value if not _fits(each, get_args(annotation)[0])), "")
        return "in a list: " + _expected(wrong, get_args(annotation)[0])
    if origin is Mapping:
        return "expected a mapping"
    if annotation is int:
        return "expected a whole number of 1 or more"
    if annotation is float:
        return "expected a number"
    if annotation is type(None):
        return "null"
    return f"expected {'true or false' if annotation is bool else annotation.__name__}"


def _validated_in(annotation: Any) -> type[ValidatedDataclass] | None:
    """The ValidatedDataclass that ``annotation`` is or contains in a union, if any."""
    choices = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((each for each in choices if isinstance(each, type) and issubclass(each, ValidatedDataclass)), None)


def _validated_in_mapping(annotation: Any) -> type[ValidatedDataclass] | None:
    """The ValidatedDataclass that the values of a mapping are, if ``annotation`` is or contains one."""
    choices = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    mappings = [each for each in choices if get_origin(each) is Mapping]
    return _validated_in(get_args(mappings[0])[1]) if mappings else None


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _field_names(cls: type[ValidatedDataclass]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]
