"""Bring in a network that is not ours: a module of your own code with its checkpoint, or an ONNX file.

It is traced, or goes through ONNX where it cannot be traced; what the output does not need is removed, and the output
is brought to codes. Each step is verified on real images against the network as it was. The result is a run folder that
every command takes, without any training. The config describes network and data; docs/your_network.md has examples.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from depth_distill.commands.options import CommandParser, add_config, add_images, add_json, add_out, add_target
from depth_distill.errors import ConfigError

EXAMPLE = """
depth-distill import --config my.yaml --out runs/mine
depth-distill import --onnx my.onnx --meaning disparity.yaml --pictures DIR --out runs/mine
"""


def add_arguments(parser: CommandParser) -> None:
    """The options."""
    add_config(parser)
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="the network is this ONNX file")
    parser.add_argument(
        "--meaning",
        metavar="YAML",
        help="what the output means: keys as in a config, such as '{encoding: inverse, near: 1, "
        "min_m: 0.5, max_m: 15}', or a file with them",
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="folder of images, where the config has no data")
    add_out(parser)
    add_json(parser)
    add_target(parser)
    add_images(parser, 32)
    parser.add_argument(
        "--through-onnx", action="store_true", help="export the module to ONNX first, also where it could be traced"
    )
    parser.add_argument(
        "--keep-meaning", action="store_true", help="go on where another meaning of the output fits the data better"
    )


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Import, verify, write."""
    if options.config is None and options.onnx is None:
        raise ConfigError("give --config, which describes the network, or --onnx; see depth-distill import --help")
    if options.onnx is not None and not options.onnx.is_file():
        raise ConfigError(f"there is no file '{options.onnx}'")
    from depth_distill.commands.importing import import_network

    return import_network(options, overrides)
