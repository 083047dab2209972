"""Write a target's YAML profile with changed values, edited as text to preserve its comments and order."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError
from depth_distill.quantization.target.substitutions import ITSELF, UNCONFIRMED
from depth_distill.quantization.target.target import NpuTarget, Support, load_target, target_names

_MARK = "probed: "  # marks the remark of an earlier run, which is replaced
Edit = tuple[int, int, str]
"""Start and end of a range of characters, and its replacement."""


def check_destination(target: NpuTarget, path: Path) -> None:
    """Check that a profile can be written to a path, before an hour of probes.

    Raises:
        ConfigError: the path is not a .yaml file, is a built-in profile or a folder, or the target was not read from a
            file.
    """
    if target.source is None:
        raise ConfigError(f"target {target.name} was not read from a file, so there is no profile to copy")
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path}: a profile must be a .yaml file; write to {path.with_suffix('.yaml')}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, expected the name of a .yaml file")
    built_in = [load_target(name).source for name in target_names()]
    if path.exists() and any(each is not None and path.samefile(each) for each in built_in):
        raise ConfigError(f"{path} is a built-in profile, which must not change; write to another file")


def write_profile(
    target: NpuTarget,
    path: Path,
    capabilities: Mapping[str, Support],
    forbidden: Sequence[str],
    remark: str,
    substitutions: Mapping[str, str] | None = None,
) -> list[str]:
    """Write a copy of a target's profile with some capabilities, forbidden operators and substitutions changed.

    Args:
        target: target that was read from a file.
        path: destination, which is written atomically.
        capabilities: new values; unchanged values leave their lines untouched.
        forbidden: ONNX operator types to add to ``operators.forbidden``.
        remark: comment to add to each changed line.
        substitutions: what is computed in place of which activation; of others the profile says what it did.

    Returns:
        The changes, as ``key: old -> new``.

    Raises:
        ConfigError: see :func:`check_destination`, or the new profile contradicts itself; nothing is written then.
    """
    check_destination(target, path)
    assert target.source is not None
    with target.source.open(encoding="utf-8", newline="") as file:  # newline="" preserves line endings
        text = file.read()
    root = yaml.compose(text)
    changes, edits = [], []
    for name, value in capabilities.items():
        old = getattr(target.capabilities, name)
        if old != value:
            node = _child(_child(root, "capabilities"), name)
            word = value if value == "unconfirmed" else f'"{value}"'  # YAML 1.1 reads a bare yes as a boolean
            edits.append((node.start_mark.index, node.end_mark.index, word))
            changes.append(f"capabilities.{name}: {old} -> {value}")
    # What an allow list does not name is refused as it is; forbidden is stronger than the list.
    added = [op for op in dict.fromkeys(forbidden) if target.operators.takes(op)]
    if added:
        edits.append(_forbid(text, _child(root, "operators"), added))
        changes.append(f"operators.forbidden: + {', '.join(added)}")
    seen = {**target.substitutions, **(substitutions or {})}
    for operator in (each for each in seen if seen[each] != target.substitutions.get(each, UNCONFIRMED)):
        old = target.substitutions.get(operator, UNCONFIRMED)
        changes.append(f"substitutions.{operator}: {old} -> {seen[operator]}")
    if seen != target.substitutions:
        edits.append(_substitute(text, root, seen))
    with atomic_path(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(_edited(text, edits, remark))
        try:
            load_target(temporary)
        except ConfigError as error:
            reason = str(error).replace(str(temporary), path.name)
            raise ConfigError(
                f"{path} was not written, because the results contradict the rest of the profile: {reason}"
            ) from error
    return changes


def _forbid(text: str, operators: yaml.MappingNode, added: Sequence[str]) -> Edit:
    """Edit that adds operators to the list, which may be in either style of YAML, or missing."""
    found = [value for key, value in operators.value if key.value == "forbidden"]
    if found and isinstance(found[0], yaml.SequenceNode) and found[0].value:
        last = found[0].value[-1].end_mark.index
        if found[0].flow_style:
            return last, last, "".join(f", {op}" for op in added)
        indent = " " * (found[0].start_mark.column)
        return last, last, "".join(f"{_line_end(text)}{indent}- {op}" for op in added)
    names = ", ".join(added)
    if found:
        return found[0].start_mark.index, found[0].end_mark.index, f"[{names}]"
    start = operators.start_mark.index
    if operators.flow_style:
        return start + 1, start + 1, f"forbidden: [{names}]{', ' if operators.value else ''}"
    # There may be a comment above the first key: insert the new line below it.
    return start, start, f"forbidden: [{names}]{_line_end(text)}{' ' * operators.start_mark.column}"


def _substitute(text: str, root: yaml.MappingNode, substitutions: Mapping[str, str]) -> Edit:
    """Edit that writes the whole of ``substitutions``, on one line, at the end if the profile has none."""
    words = {ITSELF: '"no"'}  # YAML 1.1 reads a bare no as a boolean
    pairs = [f"{operator}: {words.get(by, by)}" for operator, by in substitutions.items()]
    line = f"{{{', '.join(pairs)}}}"
    for key, value in root.value:
        if key.value == "substitutions":
            start, end = value.start_mark.index, value.end_mark.index
            return start, start + len(text[start:end].rstrip()), line
    last = len(text.rstrip())
    return last, last, f"{_line_end(text)}substitutions: {line}"


def _edited(text: str, edits: Sequence[Edit], remark: str) -> str:
    """Apply edits from the end, so that positions stay valid; each changed line gets the remark once."""
    lines_done = set()
    for start, end, new in sorted(edits, reverse=True):
        line_end = re.compile(r"\r?$", re.MULTILINE).search(text, end)
        assert line_end is not None
        line_start = text.rfind("\n", 0, start) + 1
        if "\n" in new:
            # Each new line gets the remark; the rest of the line before and after the edit is unchanged.
            ending = _line_end(text)
            head, *rest = new.split(ending)
            if head:  # the new line is the first one
                text = f"{text[:start]}{head}  # {_MARK}{remark}{ending}{ending.join(rest)}{text[end:]}"
            else:
                added = "".join(f"{ending}{line}  # {_MARK}{remark}" for line in rest)
                text = text[: line_end.start()] + added + text[line_end.start() :]
            continue
        behind = text[end : line_end.start()]
        if line_start not in lines_done:
            behind = _remarked(behind, remark)
            lines_done.add(line_start)
        text = text[:start] + new + behind + text[line_end.start() :]
    return text


def _remarked(behind: str, remark: str) -> str:
    """The rest of a line with the remark replacing that of an earlier run, or appended to an existing comment."""
    behind, replaced = re.subn(rf"([#;] {_MARK}).*?(?=; |$)", lambda found: found[1] + remark, behind, count=1)
    if replaced:
        return behind
    return behind + (f"; {_MARK}{remark}" if "#" in behind else f"  # {_MARK}{remark}")


def _child(node: yaml.Node, key: str) -> yaml.Node:
    return next(value for name, value in node.value if name.value == key)


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
