"""The pictures of a run folder: the panels of the best checkpoint, of some epochs, and of some predictions."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from depth_distill.tracking.run_report.page import Picture

_MOST = 4  # pictures of a page
_MOST_BYTES = 5_000_000  # of a picture
_PNG = b"\x89PNG\r\n\x1a\n"


def panels(folder: Path) -> tuple[list[Picture], list[str]]:
    """The pictures that a page shows, and what has to be said about the others.

    Those without an epoch in their name, which are of the best checkpoint, come first; of the others some that are
    evenly spread, with the first and the last. A file that is no PNG is left out, and so is a second one of the same
    content.
    """
    drawn = sorted((folder / "pictures").glob("*.png"))
    predicted = sorted((folder / "predictions" / "panels").rglob("*.png"))
    own = [path for path in drawn if "-epoch" not in path.name]
    over_epochs = [path for path in drawn if "-epoch" in path.name]
    room = max(0, _MOST - len(own))
    chosen = [*own[:_MOST], *(_spread(over_epochs, room) if over_epochs else _spread(predicted, room))]
    pictures: list[Picture] = []
    lines: list[str] = []
    seen: set[str] = set()
    for path in chosen:
        name = str(path.relative_to(folder))
        png = _read(path)
        if png is None:
            lines.append(f"{name} is no PNG file that can be shown, and left out.")
            continue
        content = hashlib.sha256(png).hexdigest()
        if content not in seen:
            seen.add(content)
            pictures.append(Picture(name + (", of the best checkpoint" if path in own and over_epochs else ""), png))
    total = len(drawn) + len(predicted)
    if total > len(chosen):
        lines.append(f"{len(chosen)} of {total} pictures are shown; the others are in the run folder.")
    if not total:
        lines.append("This run folder has no pictures.")
    return pictures, lines


def _spread(paths: Sequence[Path], count: int) -> list[Path]:
    if len(paths) <= count or count < 2:
        return list(paths[-count:]) if count else []
    return [paths[round(place * (len(paths) - 1) / (count - 1))] for place in range(count)]


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError:
        return None
    return content if content.startswith(_PNG) and len(content) <= _MOST_BYTES else None
