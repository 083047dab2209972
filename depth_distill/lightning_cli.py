"""Training, evaluation and prediction from a config: LightningCLI with run folders and tables."""

import re
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonargparse
import lightning_fabric
import pytorch_lightning
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities import rank_zero_only
from typing_extensions import override

import depth_distill.losses
import depth_distill.models  # noqa: F401 - an imported class can be named in a config without its module
from depth_distill import runs
from depth_distill.atomic import atomic_path, write_json
from depth_distill.callbacks import (
    AtomicCheckpointIO,
    CheckMonitors,
    DepthPanels,
    FakeQuant,
    FeatureHooks,
    GracefulInterrupt,
    KeepGradients,
    LayerRanges,
    PredictionWriter,
    ResumeInPlace,
    RunLinks,
    RunSummary,
    StopOnNonFinite,
    TrainingCurves,
    best_and_last,
)
from depth_distill.callbacks.run_summary import package_versions
from depth_distill.data.datamodule import DepthDataModule
from depth_distill.device import allow_tf32, emulates_bfloat16
from depth_distill.display.console import plain_console
from depth_distill.display.tables import metric_table
from depth_distill.errors import ConfigError, building, is_out_of_memory, one_line, user_error_in
from depth_distill.loading import imported  # noqa: F401 - makes ImportedNetwork known to configs
from depth_distill.loading.parsing import PARSER, instantiate, parse
from depth_distill.loading.trainer_options import check_seed, check_trainer_options
from depth_distill.shipped_configs import with_config_files
from depth_distill.tasks import DepthTask  # noqa: F401
from depth_distill.tracking.loggers import fill_in, loggers_of
from depth_distill.tracking.results import finishing_trackers, log_best, log_config
from depth_distill.yaml_files import read_yaml

# Warnings that a person can do nothing about: a resumed run keeps its log and checkpoints, the callbacks that a
# checkpoint has the state of are not needed to evaluate it, the size of a model is a detail, and a teacher does not
# train; the last is between Lightning and torch.
IGNORED_WARNINGS = (
    "Experiment logs directory .* exists",
    "Checkpoint directory .* exists",
    "Be aware that when using `ckpt_path`, callbacks",
    "Precision .* is not supported by the model summary",
    "The number of training batches .* is smaller than the logging interval",  # TrainingCurves lowers it
    r"Found \d+ module\(s\) in eval mode",  # the teacher
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
# jsonargparse renamed the option in 4.49, and warns of the old name.
_RENAMED = tuple(map(int, jsonargparse.__version__.split(".")[:2])) >= (4, 49)
_KEEP_NULL = {"skip_unset" if _RENAMED else "skip_none": False}
_OF_ONE_SUBCOMMAND = ("ckpt_path", "verbose", "return_predictions")
_STARTS_FROM = ("teacher_checkpoint", "student_init")  # files that a task reads
_RESTORES = re.compile(r"_?(restore|resume)")  # functions of Lightning that read a checkpoint
EVALUATION_KEYS = ("accelerator", "devices", "strategy", "enable_progress_bar", "deterministic")


class SaveConfig(SaveConfigCallback):
    """Write ``config.yaml`` into the run folder, whole or not at all: a run is resumed with it."""

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # What is built, not what was done with it: any subcommand takes the file, and none of them resumes by it.
        config = self.config.clone()
        for key in _OF_ONE_SUBCOMMAND:
            config.pop(key, None)
        path = Path(trainer.default_root_dir) / runs.CONFIG_FILE
        with atomic_path(path) as temporary:
            self.parser.save(config, temporary, **_KEEP_NULL)
        log_config(trainer.loggers, read_yaml(path), path.parent)


class DepthCLI(LightningCLI):
    """LightningCLI with run folders, a CSV log, Weights & Biases by one flag, and a table at the end."""

    run_folder: Path
    argv: Sequence[str]

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Not the method of LightningCLI, which warns of arguments that do not come from sys.argv itself.
        self.argv = args
        command = getattr(self, "_subcommand_parsers", {}).get(next(iter(args), ""), parser)
        self.config = parse(parser, args, runs.config_files(args), command)
        values = self.config.get(self.config.get("subcommand") or "", self.config)
        check_seed("seed_everything", values.get("seed_everything"))

    @override
    def _parse_ckpt_path(self) -> None:
        """The config says what is built: hyperparameters in a checkpoint would replace it, and name any class."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--runs_dir", type=str, default="runs", help="Folder that new run folders are made in.")
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Folder of this run; runs/<config name>/<time> if not set."
        )
        parser.add_argument("--wandb", type=bool, default=False, help="Log to Weights & Biases; offline without a key.")
        parser.add_argument(
            "--tf32", type=bool, default=False, help="Train in TF32 on a GPU: faster, and not quite float32."
        )
        parser.add_lightning_class_args(RunSummary, "summary")
        parser.add_lightning_class_args(LayerRanges, "layers")
        parser.add_lightning_class_args(DepthPanels, "panels")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_class_arguments(ModelCheckpoint, "checkpoint", instantiate=False)  # see best_and_last
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/abs_rel",
                "checkpoint.filename": "epoch{epoch:03d}-abs_rel{val/abs_rel:.4f}",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.save_last": True,
                "checkpoint.save_on_exception": True,
            }
        )

    @override
    def before_instantiate_classes(self) -> None:
        allow_tf32(self._get(self.config, "tf32"))
        checkpoint = self._get(self.config, "ckpt_path")
        if self.subcommand in runs.EVALUATIONS:
            if checkpoint is None:
                raise ConfigError(
                    f"{self.subcommand} needs --ckpt_path: without a checkpoint the network is not trained"
                )
            # Which checkpoint was the best so far matters to a run that goes on, and to no other.
            warnings.filterwarnings("ignore", "The dirpath has changed")
        runs.require_checkpoint(checkpoint)
        if self._get(self.config, "weights_only") is False:
            raise ConfigError("weights_only: received false, but checkpoints are never unpickled; leave it out")
        check_trainer_options(self._get(self.config, "trainer"), fits=self.subcommand == "fit")
        resumed = checkpoint if self.subcommand == "fit" else None
        chosen = runs.chosen_run_folder(self.argv, resumed, self._get(self.config, "run_dir"))
        name = runs.run_name(runs.config_files(self.argv))
        if self.subcommand in runs.EVALUATIONS:
            name = f"{name}/{self.subcommand}"
        if not self._get(self.config, "runs_dir"):
            raise ConfigError("runs_dir: received nothing, expected the folder that new run folders are made in")
        self._is_new = chosen is None
        self.run_folder = (chosen or runs.new_run_folder(Path(self._get(self.config, "runs_dir")), name)).absolute()
        if chosen is not None:
            runs.require_own_folder(chosen, self.subcommand or "", checkpoint)
        self._settle_checkpoints()
        # config.yaml runs again elsewhere: another run with it must not write into this folder.
        (self.config if self.subcommand is None else self.config[self.subcommand]).run_dir = None
        rank_zero_only(runs.keep_metrics_log)(self.run_folder)

    def _settle_checkpoints(self) -> None:
        """Name the checkpoints that a task starts from by their own names: a link would lead a resume elsewhere."""
        arguments = (self._get(self.config, "model") or {}).get("init_args") or {}
        for key in _STARTS_FROM:
            value = arguments.get(key)
            if value is not None and Path(str(value)).is_file():
                arguments[key] = type(value)(runs.settled(Path(str(value))))

    @override
    def instantiate_classes(self) -> None:
        # Loggers are built for this run, but its config.yaml has what was configured, and runs elsewhere.
        self._configured, self.config = self.config, self.config.clone()
        trainer = self._get(self.config, "trainer")
        trainer.logger = fill_in(trainer.logger, self.run_folder, self.subcommand or "fit")
        with building("the config"):
            super().instantiate_classes()

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.config = self._configured
        self.trainer_defaults["callbacks"] = [
            FeatureHooks(),
            CheckMonitors(),
            TrainingCurves(),
            StopOnNonFinite(),
            ResumeInPlace(),
            KeepGradients(),
            GracefulInterrupt(),
            *self._progress_bar(),
            *best_and_last(**self._get(self.config_init, "checkpoint")),
            RunLinks(self._is_new),
        ]
        plugins = self._get(self.config_init, "trainer").plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        configured, wandb = self._get(self.config_init, "trainer").logger, self._get(self.config, "wandb")
        with building("trainer"):
            loggers = loggers_of(configured, wandb, self.run_folder, self.subcommand or "fit")
            return super().instantiate_trainer(logger=loggers, default_root_dir=self.run_folder, **kwargs)

    def before_fit(self) -> None:
        """Say what becomes of images of another aspect ratio than the network's, and what makes training slow."""
        self._note_resize("train", "val")
        self._note_precision()

    def before_validate(self) -> None:
        """See :meth:`before_fit`."""
        self._note_resize("val")

    def before_test(self) -> None:
        """See :meth:`before_fit`."""
        self._note_resize("test")

    def before_predict(self) -> None:
        """See :meth:`before_fit`."""
        self._note_resize("predict")

    @rank_zero_only
    def _note_resize(self, *splits: str) -> None:
        for note in self.datamodule.resize_notes(self.datamodule.sizes_of(*splits)):
            plain_console().print(note, soft_wrap=True, highlight=False)

    @rank_zero_only
    def _note_precision(self) -> None:
        precision = str(self.trainer.precision)
        if precision.startswith("bf16") and self.trainer.strategy.root_device.type == "cpu" and emulates_bfloat16():
            plain_console().print(
                f"trainer.precision {precision}: this CPU has no instructions for bfloat16, and training in it takes "
                "several times as long: leave the option out",
                soft_wrap=True,
                highlight=False,
            )

    def after_fit(self) -> None:
        """Evaluate the best checkpoint, and say what was reached, where it lies, and what to do next."""
        checkpoint: Any = self.trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_path", "")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()  # the first process evaluates alone
        if not best or not self.trainer.is_global_zero:
            return
        console = plain_console()
        # A trainer of its own: callbacks that average weights would put theirs in place of the checkpoint's.
        config = self._get(self.config, "trainer")
        evaluator = Trainer(
            logger=False,
            default_root_dir=self.run_folder,
            callbacks=[*self._callbacks(FakeQuant), *self._callbacks(DepthPanels), *self._progress_bar()],
            enable_model_summary=False,
            **{key: config[key] for key in EVALUATION_KEYS} | {"devices": 1, "strategy": "auto"},
        )
        (metrics,) = evaluator.validate(self.model, self.datamodule, ckpt_path=best, verbose=False, weights_only=True)
        for summary in self._callbacks(RunSummary):
            summary.write(self.trainer, metrics)
        log_best(self.trainer.loggers, Path(best), metrics, getattr(checkpoint, "monitor", None))
        self._print_metrics("val", metrics)
        console.print(f"best checkpoint  {runs.by_short_name(Path(best))}", soft_wrap=True, highlight=False)
        console.print(f"pictures         {self.run_folder / 'pictures'}", soft_wrap=True, highlight=False)
        console.print(f"next             {runs.next_command(self.run_folder, best)}", soft_wrap=True, highlight=False)

    def validate(self, **kwargs: Any) -> None:
        """Evaluate on the validation split, print the metrics and keep them in ``evaluation.json``."""
        self._report("val", self.trainer.validate(**kwargs | {"verbose": False})[0])

    def test(self, **kwargs: Any) -> None:
        """Evaluate on the test split, print the metrics and keep them in ``evaluation.json``."""
        self._report("test", self.trainer.test(**kwargs | {"verbose": False})[0])

    def predict(self, **kwargs: Any) -> None:
        """Write predictions; nothing is kept in memory."""
        self.trainer.predict(**kwargs | {"return_predictions": False})
        if self.trainer.is_global_zero:
            plain_console().print(f"predictions  {self.run_folder / 'predictions'}", soft_wrap=True, highlight=False)

    def _report(self, stage: str, metrics: Mapping[str, float]) -> None:
        self._print_metrics(stage, metrics)
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            scored = str(Path(self._get(self.config, "ckpt_path")).resolve())
            record = {"split": stage, "checkpoint": scored, "protocol": self.model.val_metrics.protocol}
            record |= {"metrics": dict(metrics), "versions": package_versions()}
            write_json(self.run_folder / runs.EVALUATION_FILE, record)

    def _print_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:
        if not self.trainer.is_global_zero:
            return
        protocol = self.model.val_metrics.protocol
        titles = {stage: f"{stage}: {protocol}", "vendor": f"{stage}, after the tool chain's own PTQ: {protocol}"}
        for prefix, title in titles.items():
            values = {
                name.removeprefix(f"{prefix}/"): value
                for name, value in metrics.items()
                if name.startswith(f"{prefix}/")
            }
            if values:
                plain_console().print(metric_table(title, values))

    def _progress_bar(self) -> list[Callback]:
        return [] if self._get(self.config, "trainer").enable_progress_bar is False else [RichProgressBar()]

    def _callbacks(self, kind: type) -> list[Any]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


class DataCLI(DepthCLI):
    """The same options without a subcommand: data module and task are built, and no trainer."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        # The resolved config of a run has these options of ``fit``.
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Ignored.")
        parser.add_argument("--weights_only", type=bool | None, default=None, help="Ignored.")
        parser.add_argument("--json", type=str | None, default=None, help="Of validate-data, which reads it.")

    @override
    def before_instantiate_classes(self) -> None:
        pass

    @override
    def instantiate_classes(self) -> None:
        self.config_init = instantiate(self.parser, self.config)
        self.datamodule, self.model = self.config_init["data"], self.config_init.get("model")


class _CheckedError(Exception):
    """Arguments were parsed, and nothing was to be done with them."""


class _Check(DepthCLI):
    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        raise _CheckedError


def check_arguments(args: Sequence[str]) -> None:
    """Parse a command line of fit, validate, test or predict, and do nothing.

    Raises:
        ConfigError: a key is unknown, or a value does not fit it.
    """
    with suppress(_CheckedError):
        build_cli(_Check, args, run=True)


def build_cli(kind: type[DepthCLI], args: Sequence[str], run: bool) -> DepthCLI:
    """Parse the arguments, and run the subcommand they name if ``run``."""
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    try:
        with finishing_trackers():
            return kind(
                LightningModule,
                DepthDataModule,
                subclass_mode_model=True,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                parser_kwargs=dict(PARSER),
                save_config_callback=SaveConfig,
                save_config_kwargs={"save_to_log_dir": False},
                args=with_config_files(args),
                run=run,
            )
    except Exception as error:
        is_known = user_error_in(error) is not None or is_out_of_memory(error)
        reason = None if is_known else _of_an_option(error)
        if reason is None:
            raise
        raise ConfigError(reason) from error


def _of_an_option(error: Exception) -> str | None:
    """What Lightning or an optimizer raises about options or a checkpoint, in one line; None for all other errors."""
    if type(error).__module__.startswith("wandb."):
        return f"Weights & Biases: {one_line(error)}; with WANDB_MODE=offline nothing is sent"
    frames = traceback.extract_tb(error.__traceback__)
    if any(each.filename.endswith("checkpoint_connector.py") and _RESTORES.match(each.name) for each in frames):
        why = f"{type(error).__name__}: {one_line(error)}"
        return f"ckpt_path: the state of that run cannot be restored ({why}); it is damaged, or of another optimizer"
    source = Path(frames[-1].filename)
    if any(source.is_relative_to(Path(str(each.__file__)).parent) for each in (pytorch_lightning, lightning_fabric)):
        return f"trainer: {one_line(error)}"
    return f"the optimizer: {one_line(error)}" if source.is_relative_to(Path(torch.optim.__file__).parent) else None
