"""Under which id trackers know a run, kept in its folder, so that a run that goes on stays one run there."""

import json
from pathlib import Path
from typing import Any

from depth_distill.atomic import write_json

FILE = "tracking.json"


class Identity:
    """Ids of a run by tracker, in ``tracking.json`` of the run folder.

    A copied run folder goes on as a run of its own: its ids are those of the original, which is still there. A folder
    that was moved keeps them.

    Args:
        run_folder: folder of the run; it need not exist.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder.resolve()
        self.path = self.folder / FILE
        try:
            content = json.loads(self.path.read_text())
        except (OSError, ValueError):  # none yet, or a file of somebody else
            content = {}
        self._content: dict[str, Any] = content if isinstance(content, dict) else {}
        original = Path(str(self._content.get("folder", self.folder)))
        self.is_copy = original != self.folder and (original / FILE).is_file()

    def get(self, tracker: str) -> str | None:
        """The id of the run; None if it has none."""
        found = None if self.is_copy else self._content.get(tracker)
        return found if isinstance(found, str) else None

    def keep(self, tracker: str, run_id: str) -> None:
        """Write down an id."""
        known = {} if self.is_copy else self._content
        if known.get(tracker) == run_id and known.get("folder") == str(self.folder):
            return
        self._content = known | {"folder": str(self.folder), tracker: run_id}
        self.is_copy = False
        write_json(self.path, self._content)
