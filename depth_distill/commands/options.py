"""How subcommands are parsed: options that several of them share, and errors of one line."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from depth_distill.commands.values import (
    config_file,
    device_name,
    finite_number,
    head_name,
    output_file,
    output_folder,
    positive_number,
    recipe_word,
    target_name,
    whole_number,
)
from depth_distill.errors import ConfigError
from depth_distill.shipped_configs import with_config_files
from depth_distill.suggestions import did_you_mean

if TYPE_CHECKING:
    from depth_distill.data.network_inputs import PixelFormat

# Keys of a config that an override may name as a whole; every other one has a dot.
_WHOLE_KEYS = ("--seed_everything", "--data", "--model", "--trainer")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Paragraphs as they are written, and the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.required or action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """Parser of a subcommand.

    Args:
        name: of the subcommand.
        description: what it does; marks of reStructuredText are taken out.
        example: command lines for the end of the help.
    """

    def __init__(self, name: str, description: str, example: str = "") -> None:
        lines = [f"  {line}" for line in example.strip().splitlines()]
        super().__init__(
            prog=f"depth-distill {name}",
            description=description.replace("``", "").strip(),
            epilog="\n".join(["example:" if len(lines) == 1 else "examples:", *lines]) if lines else None,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def parse(self, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options of the subcommand, and the words that override keys of the config, such as ``--data.root DIR``.

        Raises:
            ConfigError: a value that does not fit, or an option that is neither.
        """
        for word in words:
            self._require_option(word)
        positional = any(not action.option_strings for action in self._actions)
        own, set_aside = self._without_overrides(words) if positional else (list(words), [])
        options, overrides = self.parse_known_args(own)
        overrides += set_aside
        for before, word in zip(["", *overrides], overrides, strict=False):
            if not word.startswith("--") and (not before.startswith("--") or "=" in before):
                raise ConfigError(f"unexpected argument '{word}'; see {self.prog} --help")
        return options, with_config_files(overrides)

    def error(self, message: str) -> NoReturn:
        """One line in place of the usage."""
        message = re.sub(r"^argument (-\w/)?", "", message).replace(": must be ", " must be ", 1)
        raise ConfigError(f"{message}; see {self.prog} --help" if "required" in message else message)

    def _without_overrides(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """The words apart from overrides, and the overrides: argparse would take the value of one for a positional."""
        own: list[str] = []
        overrides: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            option, equals, _ = word.partition("=")
            if re.match(r"--\w", word) and option.rstrip("+") not in self._option_string_actions:
                overrides.append(word)
                if not equals and rest and not rest[0].startswith("--"):
                    overrides.append(rest.pop(0))
            else:
                own.append(word)
        return own, overrides

    def _require_option(self, word: str) -> None:
        """Refuse an option that is neither the command's nor a key of a config."""
        option = word.partition("=")[0].rstrip("+")
        known = (*self._option_string_actions, *_WHOLE_KEYS)
        if re.match(r"--\w", word) and "." not in option and option not in known:
            raise ConfigError(f"there is no option {option}; {did_you_mean(option, known)}")


def add_checkpoint(parser: argparse._ActionsContainer, required: bool = True, several: bool = False) -> None:
    """``--checkpoint``."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=required,
        nargs="+" if several else None,
        metavar="CKPT",
        help="a .ckpt file of a run",
    )


def add_config(parser: argparse._ActionsContainer, required: bool = False, several: bool = False) -> None:
    """``--config``."""
    parser.add_argument(
        *(["-c"] if several else []),
        "--config",
        type=config_file,
        required=required,
        action="append" if several else "store",
        default=[] if several else None,
        metavar="FILE",
        help="a config file, or the name of a shipped one, such as teacher/resnet18",
    )


def add_target(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """``--target``."""
    parser.add_argument(
        "--target",
        type=target_name,
        required=required,
        default=None if required else "per-tensor-minmax",
        metavar="NAME",
        help="an NPU profile: a name of `depth-distill list targets`, or a .yaml file",
    )


def add_recipe(parser: argparse._ActionsContainer, default: str | None = "equalize") -> None:
    """``--recipe``."""
    parser.add_argument(
        "--recipe",
        type=recipe_word,
        default=default,
        metavar="NAME",
        help="passes that prepare the network: a name of `depth-distill list recipes`, a .yaml file, or a list such as "
        "'[fold, equalize]'",
    )


def add_head(parser: argparse._ActionsContainer) -> None:
    """``--head``."""
    parser.add_argument(
        "--head",
        type=head_name,
        metavar="NAME",
        help="what a single code becomes, without training: pair (2 outputs, integer and fractional), thermometer:N "
        "(N codes: 2, 4, 8, 16), or single, which stays as it is",
    )


def add_images(parser: argparse._ActionsContainer, default: int | None = None) -> None:
    """``--images``."""
    parser.add_argument(
        "--images",
        type=whole_number,
        default=default,
        metavar="N",
        help="score on about this many images" + (" (default: all)" if default is None else ""),
    )


def add_calibration_images(parser: argparse._ActionsContainer) -> None:
    """``--calibration-images``."""
    parser.add_argument(
        "--calibration-images",
        type=whole_number,
        default=64,
        metavar="N",
        help="calibrate on this many images of the training split, unless the config names a calibration set",
    )


def add_device(parser: argparse._ActionsContainer) -> None:
    """``--device``."""
    parser.add_argument(
        "--device",
        type=device_name,
        default="auto",
        metavar="NAME",
        help="compute on cpu, cuda or cuda:N; auto is a GPU if there is one",
    )


def add_out(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """``--out``, which is always a folder."""
    parser.add_argument("--out", type=output_folder, required=required, metavar="DIR", help="folder that results go to")


def add_pixels(parser: argparse.ArgumentParser, size: bool = False) -> None:
    """``--normalize``, ``--mean``, ``--std``, ``--colour-order``, ``--resize``, ``--size``: a file says none of it."""
    inputs = parser.add_argument_group("how pictures become the input")
    inputs.add_argument(
        "--normalize",
        choices=("imagenet", "unit", "raw"),
        help="imagenet: pixel / 255, ImageNet's mean and std; unit: pixel / 255; raw: 0 to 255 (default: imagenet)",
    )
    inputs.add_argument("--mean", type=finite_number, nargs=3, metavar="X", help="mean of red, green, blue, in [0, 1]")
    inputs.add_argument("--std", type=positive_number, nargs=3, metavar="X", help="std of red, green, blue, in [0, 1]")
    inputs.add_argument("--colour-order", choices=("RGB", "BGR"), help="order of the colours (default: RGB)")
    inputs.add_argument(
        "--resize",
        choices=("crop", "pad", "stretch"),
        help="how pictures of another aspect ratio come to the size of the input: their middle, whole between bars, or "
        "distorted (default: crop); a checkpoint or config has data.resize, and a bundle its own",
    )
    if size:
        inputs.add_argument(
            "--size",
            type=whole_number,
            nargs=2,
            metavar=("H", "W"),
            help="height and width of the input, where the file leaves them open",
        )


def pixels_of(options: argparse.Namespace) -> "PixelFormat | None":
    """What the options say about pixels; None if nothing."""
    from depth_distill.data.network_inputs import PixelFormat

    if (options.mean is None) != (options.std is None):
        raise ConfigError("--mean and --std belong together: give both, or neither")
    if options.mean is not None:
        if options.normalize is not None:
            raise ConfigError("--normalize and --mean exclude each other: give one of them")
        return PixelFormat(tuple(options.mean), tuple(options.std), colour_order=options.colour_order or "RGB")
    if options.normalize is None and options.colour_order is None:
        return None
    return PixelFormat.named(options.normalize or "imagenet", options.colour_order or "RGB")


def add_json(parser: argparse._ActionsContainer) -> None:
    """``--json``."""
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the result to this file, as JSON")


def add_wandb(parser: argparse._ActionsContainer) -> None:
    """``--wandb``, as of ``fit``."""
    parser.add_argument(
        "--wandb",
        choices=("true", "false"),
        default="false",
        metavar="BOOL",
        help="log the result to Weights & Biases as well; offline without a key",
    )


def add_analysis(parser: argparse.ArgumentParser) -> None:
    """The options of :func:`depth_distill.commands.analysis.quantize_run`."""
    add_checkpoint(parser)
    add_config(parser)
    add_target(parser)
    add_recipe(parser)
    add_images(parser)
    add_calibration_images(parser)
    add_device(parser)
    add_out(parser)
    add_wandb(parser)
    add_json(parser)
