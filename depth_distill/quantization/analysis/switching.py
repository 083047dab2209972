"""Score a network with many settings of its quantizers and substitutions, for sensitivity and error budget."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor, fx

from depth_distill.atomic import atomic_path
from depth_distill.errors import ConfigError
from depth_distill.quantization.analysis.replay import Replay
from depth_distill.quantization.analysis.scoring import Scorer
from depth_distill.quantization.graph.substituted import substituted
from depth_distill.quantization.simulate.calibrate import weights_hash
from depth_distill.quantization.simulate.fake_quantize import EnabledSites, quantizers, select

_NONE: EnabledSites = frozenset()


def score_settings(
    quantized: fx.GraphModule,
    scorer: Scorer,
    settings: Mapping[str, EnabledSites],
    resume: Path | None = None,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Metrics of the network with each setting, equal to those of one full evaluation per setting.

    Each batch is run twice, with all quantizers off and with all on. Each setting then recomputes only what differs
    from the nearer of the two, see :class:`~depth_distill.quantization.analysis.replay.Replay`.

    Args:
        quantized: network from ``fake_quantize``, with ranges; it is not changed.
        scorer: images and metrics.
        settings: the sites that are on, by name of the setting.
        resume: folder for the rows of finished batches, so that an interrupted call can continue. Rows of another
            network, or of other ranges, settings or metrics, are not used.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: a site does not exist, or a quantizer has no range.
    """
    select(quantized, {site for setting in settings.values() for site in setting} - substituted(quantized).keys())
    every = frozenset(quantizers(quantized)) | frozenset(substituted(quantized))
    bases = {name: _NONE if 2 * len(setting) < len(every) else every for name, setting in settings.items()}
    replay = Replay(quantized)
    kept = None if resume is None else _KeptRows(resume, _key(quantized, scorer, settings))
    rows: list[Tensor] = []
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("settings", total=len(scorer.images) * len(settings))
        for position, images in enumerate(scorer.images):
            found = None if kept is None else kept.load(position)
            if found is None:
                by_name: dict[str, Tensor] = {}
                for base in (_NONE, every):
                    replay.switch_on(base)
                    replay.record(images)
                    for name, setting in settings.items():
                        if bases[name] == base:
                            replay.switch_on(setting)
                            by_name[name] = scorer.measure(position, replay.again())
                            bar.advance(task)
                found = torch.stack([by_name[name] for name in settings])
                if kept is not None:
                    kept.save(position, found)
            else:
                bar.advance(task, len(settings))
            rows.append(found)
    scores = torch.cat(rows, dim=1)
    return {name: scorer.summarize(each) for name, each in zip(settings, scores, strict=True)}


class _KeptRows:
    """Rows ``(settings, B, metrics)`` of finished batches, one file per batch, in a folder named after their hash."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder / key
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file, expected a folder for unfinished work")

    def load(self, position: int) -> Tensor | None:
        path = self._file(position)
        return torch.load(path, weights_only=True) if path.is_file() else None

    def save(self, position: int, rows: Tensor) -> None:
        with atomic_path(self._file(position)) as temporary:
            torch.save(rows, temporary)

    def _file(self, position: int) -> Path:
        return self.folder / f"batch-{position:05d}.pt"


def _key(quantized: fx.GraphModule, scorer: Scorer, settings: Mapping[str, EnabledSites]) -> str:
    constants = {
        site: [each.tolist() for each in quantizer.constants()] + [str(quantizer.tensor_format), quantizer.in_half]
        for site, quantizer in quantizers(quantized).items()
        if quantizer.has_range
    }
    digest = hashlib.sha256(weights_hash(quantized).encode())
    described = [constants, {name: sorted(setting) for name, setting in settings.items()}, scorer.names]
    digest.update(json.dumps([*described, sorted(substituted(quantized))]).encode())
    for images in scorer.images:
        digest.update(str(tuple(images.shape)).encode())  # rows are kept per batch
        digest.update(images.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
