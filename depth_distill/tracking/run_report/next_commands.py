"""What can be done next with a run, as commands with its own paths."""

import shlex
from pathlib import Path

from depth_distill import runs
from depth_distill.tracking.run_report.folder import RunFolder, at
from depth_distill.tracking.run_report.judge import epochs_done, fake_quant

_DEFAULT_TARGET = "per-tensor-minmax"


def next_commands(run: RunFolder) -> list[tuple[str, str]]:
    """What each command does, and the command; none where there is no checkpoint."""
    if run.job != "fit":
        scored = run.evaluation.get("checkpoint")
        checkpoint = Path(scored) if isinstance(scored, str) else None
        return [] if checkpoint is None or not checkpoint.is_file() else _with(run, checkpoint)
    checkpoints = run.path / "checkpoints"
    last, best = checkpoints / runs.LAST_CHECKPOINT, checkpoints / runs.BEST_CHECKPOINT
    found = []
    if last.is_file():
        planned, done = run.at("trainer", "max_epochs"), epochs_done(run)
        words = ["fit", *_config(run), "--ckpt_path", str(last)]
        if isinstance(planned, int) and done is not None and done >= planned:
            words += ["--trainer.max_epochs", str(2 * planned)]
            found.append(("Train on, for as many epochs again", _command(words)))
        else:
            found.append(("Go on where it stopped", _command(words)))
    usable = next((each for each in (best, last) if each.is_file()), None)
    return found + ([] if usable is None else _with(run, usable))


def _with(run: RunFolder, checkpoint: Path) -> list[tuple[str, str]]:
    path = str(checkpoint)
    quantized = fake_quant(run) or {}
    target, recipe = at(quantized, "target"), at(quantized, "recipe")
    options = ["--target", target if isinstance(target, str) else _DEFAULT_TARGET]
    options += ["--recipe", recipe] if isinstance(recipe, str) else []
    predict = ["predict", *_config(run), "--ckpt_path", path]
    return [
        (
            "Depth maps and panels of your own photographs",
            _command([*predict, "--data.predict", "ImageFolder", "--data.predict.root", "my_photos"]),
        ),
        ("A bundle of ONNX files for an NPU", _command(["export", "--checkpoint", path, *options, "--out", "bundle"])),
        (
            "Which kinds of tensors, and which stages, the error of INT8 comes from",
            _command(["error-budget", "--checkpoint", path, *options, "--out", "budget"]),
        ),
        (
            "What each pass of preparation gains",
            _command(["ptq-table", "--checkpoint", path, *options[:2], "--out", "ptq"]),
        ),
    ]


def _config(run: RunFolder) -> list[str]:
    return ["--config", str(run.path / runs.CONFIG_FILE)]


def _command(words: list[str]) -> str:
    return shlex.join(["depth-distill", *words])
