"""What a run tells its loggers beside losses and metrics."""

import csv

import pytest
from pytorch_lightning.loggers import CSVLogger

from depth_distill.callbacks import TrainingCurves
from tests.callbacks.small_run import STEPS_AN_EPOCH, datamodule, task, trainer


@pytest.mark.parametrize(("every", "steps"), [(50, [3, 7]), (2, [1, 3, 5, 7])])
def test_an_epoch_of_few_steps_is_logged_once(tmp_path, every, steps):
    logger = CSVLogger(tmp_path, name="", version="")
    trainer(tmp_path, TrainingCurves(), epochs=2, logger=logger, log_every_n_steps=every).fit(task(), datamodule())
    with (tmp_path / "metrics.csv").open() as file:
        logged = [int(row["step"]) for row in csv.DictReader(file) if row["train/lr"]]
    assert logged == steps
    assert max(steps) == 2 * STEPS_AN_EPOCH - 1
