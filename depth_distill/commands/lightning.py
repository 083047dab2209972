"""What fit, validate, test and predict share: a short help page, and the way to LightningCLI, which has the rest.

The options here are those of LightningCLI without a dot. They are parsed first, and only to refuse a typo at once.
"""

import argparse
from collections.abc import Sequence

from depth_distill.commands.options import CommandParser, add_config
from depth_distill.shipped_configs import with_config_files

WHOLE_BLOCKS = ("trainer", "data", "model", "summary", "panels", "layers", "predictions", "checkpoint")
_RARE = ("seed_everything", "weights_only", "verbose", "return_predictions")


def add_arguments(parser: CommandParser) -> None:
    """The main options."""
    add_config(parser, several=True)
    parser.add_argument("--ckpt_path", metavar="CKPT", help="checkpoint to go on from (fit) or to evaluate")
    parser.add_argument("--run_dir", metavar="DIR", help="folder of this run (default: RUNS_DIR/CONFIG/TIME)")
    parser.add_argument("--runs_dir", metavar="DIR", default="runs", help="folder that new run folders are made in")
    parser.add_argument(
        "--wandb", metavar="BOOL", default="false", help="log to Weights & Biases as well; offline without a key"
    )
    parser.add_argument(
        "--tf32", metavar="BOOL", default="false", help="train in TF32 on a GPU: faster, and not quite float32"
    )
    parser.add_argument(
        "--print_config", nargs="?", const="", metavar="FLAGS", help="print the resolved config instead of running"
    )
    keys = parser.add_argument_group(
        "keys of the config",
        "Each one is an option as well, which overrides it: --trainer.max_epochs 5, --data.root DIR,\n"
        "--model.init_args.network.init_args.encoder resnet18. --data takes a file, or the name of a shipped one,\n"
        "such as data/kitti.",
    )
    keys.add_argument("--help_all", action="store_true", help="list every option of trainer, data and model")
    add_unlisted(parser, *WHOLE_BLOCKS, *_RARE)


def add_unlisted(parser: CommandParser, *names: str) -> None:
    """Options of LightningCLI that the short help page leaves out."""
    for name in names:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)


def run(options: argparse.Namespace, _: Sequence[str]) -> None:
    """Hand the command line to LightningCLI as it is."""
    words = [options.words[0], "--help"] if options.help_all else with_config_files(options.words)
    from depth_distill.lightning_cli import DepthCLI, build_cli

    build_cli(DepthCLI, words, run=True)
