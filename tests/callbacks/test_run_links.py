"""latest and best.ckpt, on a trainer that has a folder and a checkpoint."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from depth_distill import runs
from depth_distill.callbacks import RunLinks


@pytest.fixture
def trainer(tmp_path):
    run = tmp_path / "runs" / "small" / "one"
    (run / "checkpoints").mkdir(parents=True)
    keeper = SimpleNamespace(dirpath=str(run / "checkpoints"), filename="epoch{epoch}", best_model_path="")
    state = SimpleNamespace(fn="fit")
    return SimpleNamespace(
        default_root_dir=run, is_global_zero=True, checkpoint_callback=keeper, state=state, fast_dev_run=False
    )


def better(trainer, name):
    path = Path(trainer.checkpoint_callback.dirpath) / name
    path.write_text(name)
    trainer.checkpoint_callback.best_model_path = str(path)


def test_best_follows_the_monitored_metric(trainer):
    links, best = RunLinks(), trainer.default_root_dir / "checkpoints" / "best.ckpt"
    links.on_train_start(trainer, None)
    assert not best.exists()
    for name in ("epoch0.ckpt", "epoch3.ckpt"):
        better(trainer, name)
        links.on_validation_end(trainer, None)
        assert best.read_text() == name


def test_an_evaluation_links_nothing(trainer):
    better(trainer, "epoch0.ckpt")
    trainer.state.fn = "validate"
    RunLinks().on_validation_end(trainer, None)
    assert not (trainer.default_root_dir / "checkpoints" / "best.ckpt").exists()


def test_the_best_checkpoint_of_another_folder_is_not_linked(trainer, tmp_path):
    better(trainer, "epoch0.ckpt")
    copied = tmp_path / "copy" / "checkpoints"
    copied.mkdir(parents=True)
    trainer.checkpoint_callback.dirpath = str(copied)
    RunLinks().on_validation_end(trainer, None)
    assert not (copied / "best.ckpt").exists()


def test_latest_is_made_at_the_first_step_and_not_before(trainer):
    links, latest = RunLinks(), trainer.default_root_dir.parent / "latest"
    links.on_train_start(trainer, None)
    assert not latest.exists()
    links.on_train_batch_end(trainer, None, None, None, 0)
    assert latest.samefile(trainer.default_root_dir)


def test_a_folder_of_the_users_choice_gets_no_neighbour(trainer):
    latest = trainer.default_root_dir.parent / "latest"
    RunLinks(names_latest=False).on_train_batch_end(trainer, None, None, None, 0)
    assert not latest.exists()
    latest.symlink_to("two")
    RunLinks(names_latest=False).on_train_batch_end(trainer, None, None, None, 0)  # a run that is resumed
    assert latest.samefile(trainer.default_root_dir)


def test_a_checkpoint_that_the_user_calls_best_is_no_link(trainer):
    trainer.checkpoint_callback.filename = "best"
    better(trainer, "best.ckpt")
    RunLinks().on_validation_end(trainer, None)
    assert not (trainer.default_root_dir / "checkpoints" / "best.ckpt").is_symlink()


def test_a_link_to_a_checkpoint_that_is_gone_is_removed(trainer):
    best = trainer.default_root_dir / "checkpoints" / "best.ckpt"
    best.symlink_to("gone.ckpt")
    RunLinks().on_train_start(trainer, None)
    assert not best.is_symlink()


def test_where_there_are_no_links_it_is_said_once(trainer, monkeypatch, caplog):
    monkeypatch.setattr(runs, "link", lambda path, to: False)
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    logger.addHandler(caplog.handler)
    links = RunLinks()
    better(trainer, "epoch0.ckpt")
    with caplog.at_level(logging.INFO):
        links.on_train_batch_end(trainer, None, None, None, 0)
        links.on_validation_end(trainer, None)
    logger.removeHandler(caplog.handler)
    assert len({record.message for record in caplog.records}) == 1
    assert f"give {trainer.default_root_dir} in its place" in caplog.text
