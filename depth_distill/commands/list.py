"""List what can be named on the command line or in a config, with one line about each.

encoders (of timm; those with a feature pyramid work), targets (NPU profiles), backends (tool chains), recipes (of
passes), losses, datasets and heads. A pattern such as 'resnet*' picks some; quote it.
"""

import argparse
import ast
import fnmatch
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from depth_distill.commands.options import CommandParser, add_json
from depth_distill.shipped_configs import shipped_folder

EXAMPLE = """
depth-distill list targets
depth-distill list encoders 'mobilenetv3*'
"""
_PACKAGE = Path(__file__).parents[1]

Names = dict[str, str]
"""Descriptions, of one line or none, by name."""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("kind", choices=tuple(KINDS), help="what to list")
    parser.add_argument("pattern", nargs="?", default="*", help="pattern of the names, with * and ?")
    add_json(parser)


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Print and write."""
    found = {name: line for name, line in KINDS[options.kind]().items() if fnmatch.fnmatchcase(name, options.pattern)}
    width = max(map(len, found), default=0)
    for name, line in found.items():
        print(f"{name:{width}}  {line}".rstrip())
    if not found and options.pattern != "*":
        print(f"no {options.kind} of the name {options.pattern}", file=sys.stderr)
    if options.json is not None:
        from depth_distill.atomic import write_json

        write_json(options.json, [{"name": name, "description": line} for name, line in found.items()])


def encoders() -> Names:
    """Timm's architectures, read from its sources: timm itself takes seconds to import."""
    timm = importlib.util.find_spec("timm")
    assert timm is not None
    assert timm.origin is not None
    registered = re.compile(r"^@register_model\s+def (\w+)", re.MULTILINE)
    sources = Path(timm.origin).parent.joinpath("models").glob("*.py")
    return dict.fromkeys(sorted(name for path in sources for name in registered.findall(path.read_text("utf-8"))), "")


def targets() -> Names:
    """Shipped NPU profiles."""
    return _described("target")


def recipes() -> Names:
    """Shipped recipes."""
    return _described("recipe")


def backends() -> Names:
    """Tool chains: each has a script that runs in its environment."""
    scripts = sorted(_PACKAGE.glob("export/backends/runners/run_*.py"))
    return {path.stem.removeprefix("run_"): _first_line(ast.parse(path.read_text("utf-8"))) for path in scripts}


def losses() -> Names:
    """Losses and their weights, for ``model.init_args``."""
    return _exported("losses")


def datasets() -> Names:
    """Data sets, for ``data.train`` and the other splits."""
    return _exported("data", base="DepthDataset")


def heads() -> Names:
    """Heads of a ``DepthNet``."""
    return _exported("models", base="DepthHead")


KINDS: Mapping[str, Callable[[], Names]] = {
    each.__name__: each for each in (encoders, targets, backends, recipes, losses, datasets, heads)
}


def _described(folder: str) -> Names:
    import yaml  # type: ignore[import-untyped]

    paths = sorted((shipped_folder() / folder).glob("*.yaml"))
    return {path.stem: str((yaml.safe_load(path.read_text("utf-8")) or {}).get("description", "")) for path in paths}


def _exported(package: str, base: str | None = None) -> Names:
    """The classes that a package exports, and of these the subclasses of ``base``; nothing is imported."""
    folder = _PACKAGE / package
    exported = {
        alias.name
        for node in ast.parse((folder / "__init__.py").read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    classes = {node.name: node for path in folder.rglob("*.py") for node in _classes(path)}
    chosen = (name for name in exported & classes.keys() if base is None or base in _bases(name, classes))
    return {name: _first_line(classes[name]) for name in sorted(chosen)}


def _classes(path: Path) -> Iterator[ast.ClassDef]:
    return (node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef))


def _bases(name: str, classes: Mapping[str, ast.ClassDef]) -> set[str]:
    """Names of the direct and indirect base classes."""
    if name not in classes:
        return set()
    direct = {base.id for base in classes[name].bases if isinstance(base, ast.Name)}
    return direct.union(*(_bases(base, classes) for base in direct))


def _first_line(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    """Of the docstring; a class that only refers to a function has that function's."""
    line = (ast.get_docstring(node) or "").partition("\n")[0]
    if match := re.fullmatch(r":func:`~?depth_distill\.([\w.]+)\.(\w+)`\.?", line):
        source = _PACKAGE.joinpath(*match[1].split(".")).with_suffix(".py")
        functions = (each for each in ast.parse(source.read_text("utf-8")).body if isinstance(each, ast.FunctionDef))
        line = next((_first_line(each) for each in functions if each.name == match[2]), line)
    return line.replace("``", "")
