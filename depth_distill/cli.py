"""The command line: ``python -m depth_distill {fit,validate,test,predict,validate-data} --config FILE``."""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from rich.console import Console
from rich.progress import Progress
from typing_extensions import override

import depth_distill.losses
import depth_distill.models  # noqa: F401 - an imported class can be named in a config without its module
from depth_distill import runs
from depth_distill.callbacks import DepthPanels, GracefulInterrupt, PredictionWriter, RunSummary
from depth_distill.data import DepthDataModule, report_table, validate_dataset
from depth_distill.errors import UserError
from depth_distill.tables import metric_table
from depth_distill.tasks import DepthTask  # noqa: F401

# ${data.root} names a key of the file it stands in, whatever subcommand the file is given to.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
EVALUATION_KEYS = ("accelerator", "devices", "strategy", "enable_progress_bar", "deterministic")


class DepthCLI(LightningCLI):
    """LightningCLI with run folders, a CSV log, Weights & Biases by one flag, and a table at the end."""

    run_folder: Path
    words: Sequence[str]

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.words = args
        super().parse_arguments(parser, args)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--runs_dir", type=str, default="runs", help="Folder that new run folders are made in.")
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Folder of this run; runs/<config name>/<time> if not set."
        )
        parser.add_argument("--wandb", type=bool, default=False, help="Log to Weights & Biases; offline without a key.")
        parser.add_lightning_class_args(RunSummary, "summary")
        parser.add_lightning_class_args(DepthPanels, "panels")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
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
        resumed = runs.resumed_run_folder(self._get(self.config, "ckpt_path")) if self.subcommand == "fit" else None
        chosen = self._get(self.config, "run_dir") or resumed
        name = runs.run_name(runs.config_files(self.words))
        self.run_folder = Path(chosen or runs.new_run_folder(Path(self._get(self.config, "runs_dir")), name)).absolute()
        runs.keep_metrics_log(self.run_folder)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        return super().instantiate_trainer(logger=self._loggers(), default_root_dir=self.run_folder, **kwargs)

    def _loggers(self) -> list[Logger] | bool:
        if self._get(self.config, "trainer").logger is False:
            return False
        loggers: list[Logger] = [CSVLogger(self.run_folder, name="", version="")]
        if self._get(self.config, "wandb"):
            import wandb

            offline = os.environ.get("WANDB_MODE") == "offline" or not runs.has_wandb_key(wandb.Settings().base_url)
            self.run_folder.mkdir(parents=True, exist_ok=True)
            loggers.append(
                WandbLogger(
                    name="/".join(self.run_folder.parts[-2:]),
                    save_dir=self.run_folder,
                    project="depth-distill",
                    offline=offline,
                )
            )
        return loggers

    def after_fit(self) -> None:
        """Evaluate the best checkpoint, and say what was reached, where it lies, and what to do next."""
        checkpoint: Any = self.trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_path", "")
        if not best or not self.trainer.is_global_zero:
            return
        console = Console()
        # A trainer of its own: callbacks that average weights would put theirs in place of the checkpoint's.
        config = self._get(self.config, "trainer")
        evaluator = Trainer(
            logger=False,
            default_root_dir=self.run_folder,
            callbacks=[self._callback(DepthPanels), RichProgressBar()],
            enable_model_summary=False,
            **{key: config[key] for key in EVALUATION_KEYS} | {"devices": 1, "strategy": "auto"},
        )
        (metrics,) = evaluator.validate(self.model, self.datamodule, ckpt_path=best, verbose=False, weights_only=True)
        self._callback(RunSummary).write(self.trainer, metrics)
        self._print_metrics("val", metrics)
        console.print(f"best checkpoint  {best}", soft_wrap=True, highlight=False)
        console.print(f"pictures         {self.run_folder / 'pictures'}", soft_wrap=True, highlight=False)
        console.print(f"next             {runs.next_command(self.run_folder, best)}", soft_wrap=True, highlight=False)

    def validate(self, **kwargs: Any) -> None:
        """Evaluate on the validation split and print the metrics."""
        self._print_metrics("val", self.trainer.validate(**kwargs | {"verbose": False})[0])

    def test(self, **kwargs: Any) -> None:
        """Evaluate on the test split and print the metrics."""
        self._print_metrics("test", self.trainer.test(**kwargs | {"verbose": False})[0])

    def predict(self, **kwargs: Any) -> None:
        """Write predictions; nothing is kept in memory."""
        self.trainer.predict(**kwargs | {"return_predictions": False})
        Console().print(f"predictions  {self.run_folder / 'predictions'}", soft_wrap=True, highlight=False)

    def _print_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:
        title = f"{stage}: {self.model.val_metrics.protocol}"
        values = {name.removeprefix(f"{stage}/"): value for name, value in metrics.items()}
        Console().print(metric_table(title, values))

    def _callback(self, kind: type) -> Any:
        return next(callback for callback in self.trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]


class DataCLI(DepthCLI):
    """The same options without a subcommand; only the data module is built."""

    @override
    def before_instantiate_classes(self) -> None:
        pass

    @override
    def instantiate_classes(self) -> None:
        self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule = self.config_init["data"]


def build_cli(kind: type[DepthCLI], args: Sequence[str], run: bool) -> DepthCLI:
    """Parse the arguments, and run the subcommand they name if ``run``."""
    return kind(
        LightningModule,
        DepthDataModule,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_kwargs={"parser_mode": "omegaconf+", "prog": "depth-distill"},
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [GracefulInterrupt(), RichProgressBar()]},
        args=list(args),
        run=run,
    )


def validate_data(args: Sequence[str]) -> int:
    """Read every sample of every split of a config; print counts, ranges and the bad files. 1 if any is bad."""
    datamodule = build_cli(DataCLI, args, run=False).datamodule
    splits = {name: getattr(datamodule, name) for name in ("train", "val", "test", "predict", "calibration")}
    unique = {name: data for i, (name, data) in enumerate(splits.items()) if data not in list(splits.values())[:i]}
    reports = {}
    with Progress(console=Console()) as progress:
        for name, dataset in unique.items():
            if dataset is not None:
                step = partial(progress.advance, progress.add_task(name, total=len(dataset)))
                reports[name] = validate_dataset(dataset, datamodule.depth_range, step)
    Console().print(report_table(reports))
    return int(any(report.bad for report in reports.values()))


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if args is None else args)
    try:
        if words[:1] == ["validate-data"]:
            return validate_data(words[1:])
        build_cli(DepthCLI, words, run=True)
    except UserError as error:
        # From a loader worker the message arrives below the worker's traceback.
        message = str(error).rsplit(f"{type(error).__name__}: ")[-1].strip()
        Console(stderr=True).print(f"[red]error:[/red] {message}", soft_wrap=True, highlight=False)
        return 2
    return 0
