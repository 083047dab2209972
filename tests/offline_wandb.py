"""What the offline file of Weights & Biases holds: records of its protocol in the log format of LevelDB."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER = 32768, 7  # bytes; of a record: checksum, length and kind
_FULL, _FIRST, _LAST = 1, 2, 4


def records(path: Path):
    """The records of a ``run-ID.wandb``."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, parts = _HEADER, []  # the file has a header of the same length
    while position + _HEADER <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + _HEADER])
        position += _HEADER
        if kind == 0:
            position += left - _HEADER
            continue
        parts = [*([] if kind in (_FULL, _FIRST) else parts), content[position : position + length]]
        position += length
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            yield record


@dataclass
class OfflineRun:
    """A run as it would be uploaded."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    used: list[Any] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)

    @property
    def keys(self):
        return {key for row in self.history for key in row}


def read(path: Path) -> OfflineRun:
    found = OfflineRun()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            _update(found.config, record.run.config.update)
        elif kind == "config":
            _update(found.config, record.config.update)
        elif kind == "summary":
            _update(found.summary, record.summary.update)
        elif kind == "history":
            row = {}
            _update(row, record.history.item)
            found.history.append(row)
        elif kind == "artifact":
            (found.used if record.artifact.use_after_commit else found.artifacts).append(record.artifact)
        elif kind == "use_artifact":
            found.used.append(record.use_artifact)
        elif kind == "metric":
            found.metrics.append(record.metric)
    return found


def _update(values, items):
    for item in items:
        values[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
