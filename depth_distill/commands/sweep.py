"""Try many settings of a command, several at once, and rank them: a sweep without an account.

The file is one of Weights & Biases, with a method (grid, random or bayes), a metric, parameters and a command of
depth-distill; ``wandb sweep`` takes the same file. Suggestions come from the package ``sweeps``, which the servers of
Weights & Biases use, where it is installed, and else from Optuna; grid and random need neither. Every parameter is
checked against the command before the first trial. An interrupted sweep goes on where it stopped, within a training,
too. Writes ``sweep.json``, ``sweep.csv`` and ``sweep.png``. ``--checkpoint`` and keys of the config go to the command
of every trial; where that is ``fit``, the checkpoint is that of the teacher.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depth_distill.commands import COMMANDS, command_module
from depth_distill.commands.options import CommandParser, add_checkpoint, add_json, add_out
from depth_distill.commands.values import config_file, whole_number
from depth_distill.errors import ConfigError
from depth_distill.runs import EVALUATIONS, settled
from depth_distill.suggestions import did_you_mean

if TYPE_CHECKING:
    from depth_distill.sweep.file import SweepFile

EXAMPLE = """
depth-distill sweep sweep/recipe --checkpoint runs/NAME/latest/checkpoints/best.ckpt --out sweeps/recipe
depth-distill sweep my_sweep.yaml --count 20 --parallel 2 --out sweeps/mine --data.root my_data
"""
_LIGHTNING = ("fit", *EVALUATIONS)


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("file", type=config_file, metavar="FILE", help="a sweep, or the name of a shipped one")
    add_out(parser)
    parser.add_argument(
        "--count", type=whole_number, metavar="N", help="trials in all (default: run_cap, a whole grid, or 20)"
    )
    parser.add_argument("--parallel", type=whole_number, default=1, metavar="N", help="trials at once")
    parser.add_argument(
        "--search", choices=("auto", "sweeps", "optuna"), default="auto", help="package that makes suggestions"
    )
    parser.add_argument("--sweep-seed", type=int, default=0, metavar="N", help="seed of the suggestions")
    add_checkpoint(parser, required=False)  # for the command, or the teacher of a distillation
    parser.add_argument("--dry-run", action="store_true", help="check file and command, and print the first trial")
    add_json(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Check, run, print and write; 1 where no trial has a value or some were stopped."""
    from depth_distill.display.console import wide_console
    from depth_distill.sweep import report
    from depth_distill.sweep.file import SweepFile
    from depth_distill.sweep.search import DRAWN, choose_search, schema_violations
    from depth_distill.sweep.trials import Trial, Trials

    sweep = SweepFile.read(options.file)
    violations = schema_violations(sweep.content)
    if violations:
        raise ConfigError(f"{options.file}: against the schema of Weights & Biases: {'; '.join(violations)}")
    more = [*overrides, *_checkpoint_option(sweep, options.checkpoint)]
    check_command(sweep, more)
    search = choose_search(sweep, options.search, options.sweep_seed)
    trials = Trials(sweep, options.out.absolute(), more)
    count = options.count or sweep.run_cap or (None if sweep.method == "grid" else 20)
    console = wide_console()
    if options.dry_run:
        first = search.suggest([]) or {}
        first.pop(DRAWN, None)
        words = trials.words(Trial(1, first))
        console.print(
            f"first trial  depth-distill {sweep.subcommand} {' '.join(words)}", soft_wrap=True, highlight=False
        )
        return 0

    if "early_terminate" in sweep.content:
        console.print(
            f"early_terminate of {options.file} is for agents of Weights & Biases: here every trial runs to its end",
            soft_wrap=True,
            highlight=False,
        )

    def show(trial: Trial) -> None:
        console.print(report.line(trial, sweep, trials), soft_wrap=True, highlight=False)

    try:
        trials.run(search.suggest, count, options.parallel, show, DRAWN)
    finally:
        if trials.finished:
            report.write(sweep, trials, console, options.json)
    if not trials.is_unfinished:
        return 0
    waiting = sum(each.state == "running" for each in trials.all)
    why = f"{waiting} trials were stopped; the same command goes on with them" if waiting else "no trial has a value"
    console.print(f"unfinished  {why}; see {trials.out}/trials/*.log", soft_wrap=True, highlight=False)
    return 1


def check_command(sweep: "SweepFile", more: Sequence[str] = ()) -> None:
    """Check that the command of a sweep takes all its parameters: all choices of a list, both ends of a range.

    Args:
        sweep: the sweep.
        more: further options of the command.

    Raises:
        ConfigError: it does not, or an option sets a parameter that is varied.
    """
    if sweep.subcommand not in COMMANDS:
        raise ConfigError(f"{sweep.path}: command: {did_you_mean(sweep.subcommand, COMMANDS)}")
    varied = {each.name for each in sweep.parameters}
    for word in (*sweep.words, *more):
        if word.startswith("--") and word.partition("=")[0][2:] in varied:
            raise ConfigError(f"{word.partition('=')[0]} is varied by {sweep.path}, and cannot be given as well")
    # Every list is gone through at once, so that there are as many checks as the longest has values.
    for index in range(max(len(each.examples) for each in sweep.parameters)):
        values = {each.name: each.examples[index % len(each.examples)] for each in sweep.parameters}
        words = [*sweep.words, *more, *sweep.arguments(values)]
        if sweep.subcommand in _LIGHTNING:
            from depth_distill.lightning_cli import check_arguments

            check_arguments([sweep.subcommand, *words])
        else:
            module = command_module(sweep.subcommand)
            parser = CommandParser(sweep.subcommand, module.__doc__ or "")
            module.add_arguments(parser)
            parser.parse(words)


def _checkpoint_option(sweep: "SweepFile", checkpoint: Path | None) -> list[str]:
    """The option of the command; by the file's own name, since trials of one sweep are to have the same."""
    if checkpoint is None:
        return []
    key = "model.init_args.teacher_checkpoint" if sweep.subcommand == "fit" else "checkpoint"
    return [f"--{key}={settled(checkpoint)}"]
