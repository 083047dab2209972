"""A page with plots, tables and pictures in one file, which fetches nothing; its text comes from anybody."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from depth_distill import __version__
from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError

_HERE = Path(__file__).parent
Size = Literal["third", "half", "wide"]
_TEMPLATE, _STYLE, _SCRIPT = "page.html.j2", "page.css", "page.js"


@dataclass(frozen=True)
class Plot:
    """A plot of plotly's.

    Attributes:
        title: title, as plain text.
        traces: its data.
        layout: what differs from the layout of all plots.
        height: in pixels.
        size: its width, as a part of the page.
    """

    title: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 280
    size: Size = "half"

    @property
    def as_json(self) -> dict[str, Any]:
        """What the script of the page reads."""
        return _finite({"data": list(self.traces), "layout": dict(self.layout) | {"height": self.height}})


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, and the others are numbers.

    Attributes:
        header: titles of the columns.
        rows: cells.
        title: what it shows.
        folded: whether it is shown on demand.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG file.

    Attributes:
        title: what it shows.
        png: its bytes.
    """

    title: str
    png: bytes

    @property
    def source(self) -> str:
        """The picture as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Section:
    """A part of a page, in the order of its fields.

    Attributes:
        title: title.
        lines: paragraphs.
        plots: plots.
        tables: tables.
        pictures: pictures.
        commands: what a command does, and the command.
        text: a long text, shown on demand: its title, and the text.
    """

    title: str
    lines: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[tuple[str, str]] = ()
    text: tuple[str, str] | None = None


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: title.
        subtitle: what is looked at, and when it was made.
        verdict: the sentences on top.
        warnings: what is wrong, or missing.
        facts: name and value.
        sections: the parts.
    """

    title: str
    subtitle: str
    verdict: Sequence[str]
    warnings: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = ()


def require_packages() -> None:
    """Check that the packages of the extra ``report`` are installed.

    Raises:
        ConfigError: one is missing, and the message has the pip command.
    """
    for package in ("jinja2", "plotly"):
        if find_spec(package) is None:
            raise ConfigError(
                f"a report needs the package {package}, which is not installed: pip install 'depth-distill[report]'"
            )


def render(page: Page) -> str:
    """The page as HTML.

    All text is escaped, and a browser runs the two scripts of the page by their hashes, and no other.

    Raises:
        ConfigError: a package is missing.
    """
    require_packages()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    has_plots = any(section.plots for section in page.sections)
    scripts = [get_plotlyjs(), _own(_SCRIPT)] if has_plots else [_own(_SCRIPT)]
    scripts = [text.replace("\r\n", "\n").replace("\r", "\n") for text in scripts]  # as a browser hashes them
    return environment.get_template(_TEMPLATE).render(
        page=page, style=_own(_STYLE), scripts=scripts, hashes=[_hash(text) for text in scripts], version=__version__
    )


def write_page(page: Page, path: Path) -> None:
    """Write the page."""
    text = render(page)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinities, of which JSON has none."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _own(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
