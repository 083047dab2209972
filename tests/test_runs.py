"""Run folders: named after the config, never overwritten, found again by a checkpoint."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from depth_distill import runs
from depth_distill.errors import ConfigError


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("configs/quickstart.yaml", "quickstart"),
        ("configs/teacher/resnet18.yaml", "teacher-resnet18"),
        ("elsewhere/mine.yaml", "mine"),
        ("runs/teacher-resnet18/2026-01-01_00-00-00/config.yaml", "teacher-resnet18"),
        ("runs/teacher-resnet18/latest/config.yaml", "teacher-resnet18"),
        ("runs/teacher-resnet18/validate/2026-01-01_00-00-00/config.yaml", "teacher-resnet18"),
    ],
)
def test_a_run_is_named_after_its_config(config, name):
    assert runs.run_name([Path(config)]) == name


def test_a_checkpoint_is_titled_by_its_run(tmp_path):
    run = tmp_path / "teacher-resnet18" / "2026-01-01_00-00-00"
    (run / "checkpoints").mkdir(parents=True)
    latest = tmp_path / "teacher-resnet18" / "latest"
    latest.symlink_to(run.name)
    expected = "teacher-resnet18 2026-01-01_00-00-00"
    assert runs.title_of(run / "checkpoints" / "a.ckpt") == expected
    assert runs.title_of(latest / "checkpoints" / "best.ckpt") == expected
    assert runs.title_of(tmp_path / "mine" / "checkpoints" / "a.ckpt") == "mine"


def test_config_files_are_found_on_the_command_line():
    argv = ["fit", "--config", "a.yaml", "--data.root", "x", "-c", "b.yaml", "--config=c.yaml"]
    assert runs.config_files(argv) == [Path("a.yaml"), Path("b.yaml"), Path("c.yaml")]
    assert runs.config_files([]) == []
    assert runs.run_name([]) == "unnamed"


def test_two_runs_in_one_second_get_two_folders(tmp_path):
    folders = []
    for _ in range(3):
        folders.append(runs.new_run_folder(tmp_path, "quickstart"))
    assert len(set(folders)) == 3


START_AT = """
import sys, time
from pathlib import Path
from depth_distill import runs

class Clock:
    @staticmethod
    def now():
        return runs_datetime(2026, 1, 1)

runs_datetime, runs.datetime = runs.datetime, Clock
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
folder = runs.new_run_folder(Path(sys.argv[1]), "sweep")
(folder / "config.yaml").touch()
print(folder.name)
"""


def test_runs_that_start_at_the_same_moment_get_a_folder_each(tmp_path):
    command = [sys.executable, "-c", START_AT, str(tmp_path), str(time.time() + 5)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    names = [each.communicate(timeout=60)[0].strip() for each in started]
    assert sorted(names) == ["2026-01-01_00-00-00", *(f"2026-01-01_00-00-00-{copy}" for copy in (1, 2, 3))]


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path):
    command = "from pathlib import Path; from depth_distill import runs; print(runs.new_run_folder(Path('runs'), 'a'))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, env=environment, check=True)
    assert list((tmp_path / "runs" / "a").iterdir()) == []


def test_processes_for_more_devices_share_the_folder_of_the_first(tmp_path, monkeypatch):
    first = runs.new_run_folder(tmp_path, "quickstart")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runs.new_run_folder(tmp_path, "quickstart") == first


def test_where_no_folder_can_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--runs_dir"):
        runs.new_run_folder(tmp_path / "file", "quickstart")


def test_the_command_line_then_the_checkpoint_then_the_config_choose_the_folder(tmp_path):
    checkpoint = tmp_path / "copy" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "copy" / "config.yaml").touch()
    argv = ["fit", "--config", "a.yaml", "--run_dir=given"]
    assert runs.chosen_run_folder(argv, str(checkpoint), "old") == Path("given")
    assert runs.chosen_run_folder(argv[:3], str(checkpoint), "old") == tmp_path / "copy"
    assert runs.chosen_run_folder(argv[:3], None, "old") == Path("old")
    assert runs.chosen_run_folder(argv[:3], None, None) is None


def test_a_checkpoint_leads_back_to_its_run(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert runs.resumed_run_folder(str(checkpoint)) is None  # no config: not a run of ours
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    assert runs.resumed_run_folder(str(checkpoint)) == tmp_path / "run"
    assert runs.resumed_run_folder(None) is None


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    for name in ("last.ckpt", ".last.12-partial.ckpt"):
        (tmp_path / name).touch()
    for good in (None, "last", str(tmp_path / "last.ckpt")):  # "last" is looked up by Lightning
        runs.require_checkpoint(good)
    with pytest.raises(ConfigError, match=r"best\.ckpt: no such checkpoint; in .* there is last\.ckpt"):
        runs.require_checkpoint(str(tmp_path / "best.ckpt"))


def test_the_log_of_an_interrupted_run_is_kept(tmp_path):
    for text in ("first", "second"):
        (tmp_path / "metrics.csv").write_text(text)
        runs.keep_metrics_log(tmp_path)
    assert (tmp_path / "metrics.1.csv").read_text() == "first"
    assert (tmp_path / "metrics.2.csv").read_text() == "second"
    assert not (tmp_path / "metrics.csv").exists()


def test_a_wandb_key_is_found_in_the_environment_and_in_netrc(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not runs.has_wandb_key("https://wandb.example")
    (tmp_path / ".netrc").write_text("machine wandb.example login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert runs.has_wandb_key("https://wandb.example")
    assert not runs.has_wandb_key("https://other.example")
    (tmp_path / "elsewhere").write_text("machine wandb.example:8080 login user password secret\n")
    (tmp_path / "elsewhere").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
    assert runs.has_wandb_key("http://wandb.example:8080")
    assert not runs.has_wandb_key("http://wandb.example")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert runs.has_wandb_key("https://other.example")


def test_a_checkpoint_from_a_url_is_refused_because_lightning_would_unpickle_it():
    with pytest.raises(ConfigError, match="is a URL: download the file"):
        runs.require_checkpoint("https://example.org/model")


def test_a_folder_is_named_that_a_run_may_write_into(tmp_path):
    runs.require_own_folder(tmp_path / "new" / "run", "fit", None)
    assert (tmp_path / "new" / "run").is_dir()
    (tmp_path / "new" / "run" / "config.yaml").touch()  # killed before its first checkpoint
    runs.require_own_folder(tmp_path / "new" / "run", "fit", None)


@pytest.mark.parametrize(("command", "checkpoint"), [("fit", None), ("test", "last.ckpt"), ("validate", "last.ckpt")])
def test_the_folder_of_another_run_is_left_alone(tmp_path, command, checkpoint):
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    (tmp_path / "config.yaml").touch()
    runs.require_own_folder(tmp_path, "fit", str(last))
    runs.require_own_folder(tmp_path, "fit", "last")
    with pytest.raises(
        ConfigError, match=r"run_dir: .* holds the checkpoints of another run; .*--ckpt_path .*last\.ckpt"
    ):
        runs.require_own_folder(tmp_path, command, checkpoint and str(last))


def test_a_run_that_was_killed_while_it_wrote_its_first_last_checkpoint_starts_again(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (tmp_path / "config.yaml").touch()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    best, partial = checkpoints / "epoch000.ckpt", checkpoints / f".last.{ended.pid}-partial.ckpt"
    for path in (best, partial):
        path.touch()
    with pytest.raises(ConfigError, match="holds the checkpoints of another run"):
        runs.require_own_folder(tmp_path, "test", "elsewhere.ckpt")
    assert best.exists()
    runs.require_own_folder(tmp_path, "fit", None)
    assert not list(checkpoints.iterdir())
    # A process that writes there now, or a last checkpoint, is another run.
    best.touch()
    for other in (checkpoints / f".last.{os.getpid()}-partial.ckpt", checkpoints / "last.ckpt"):
        other.touch()
        partial.touch()
        with pytest.raises(ConfigError, match="holds the checkpoints of another run"):
            runs.require_own_folder(tmp_path, "fit", None)
        assert best.exists()
        other.unlink()


def test_the_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is neither empty nor a run folder; give a new folder"):
        runs.require_own_folder(tmp_path, "fit", None)
    with pytest.raises(ConfigError, match=r"thesis\.tex/run cannot be made \(Not a directory\)"):
        runs.require_own_folder(tmp_path / "thesis.tex" / "run", "fit", None)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("nope", "nope: no such checkpoint; in . there is none"),
        ("", "ckpt_path: received '', expected the path of a .ckpt file"),
        ("best", "ckpt_path: received 'best', expected"),
        ("s3://bucket/a.ckpt", "is a URL: download the file"),
    ],
)
def test_what_is_no_path_of_a_checkpoint_is_refused(checkpoint, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        runs.require_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "torchrun"),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "torchrun"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "srun"),
        ({"NODE_RANK": "1"}, "NODE_RANK"),
    ],
)
def test_processes_of_a_launcher_are_told_to_share_a_folder(tmp_path, monkeypatch, environment, launcher):
    monkeypatch.delenv("DEPTH_DISTILL_RUN_FOLDER", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"--run_dir is missing: {launcher} started several processes"):
        runs.new_run_folder(tmp_path, "name")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("environment", [{"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "2"}, {"SLURM_NTASKS": "2"}])
def test_a_process_alone_makes_its_folder(tmp_path, monkeypatch, environment):
    for name, value in environment.items():  # WORLD_SIZE is also set by Lightning, for the processes that it starts
        monkeypatch.setenv(name, value)
    assert runs.new_run_folder(tmp_path, "name").is_dir()


@pytest.mark.parametrize("rank", ["LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID"])
def test_only_the_first_process_checks_the_folder(tmp_path, monkeypatch, rank):
    (tmp_path / "metrics.csv").touch()  # of the first process, which has begun
    monkeypatch.setenv(rank, "1")
    runs.require_own_folder(tmp_path, "fit", None)


def test_a_link_is_relative_and_replaced_at_once(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert runs.link(tmp_path / "latest", tmp_path / name)
        assert (tmp_path / "latest").readlink() == Path(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]


def test_a_folder_in_the_place_of_a_link_is_left(tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "one").mkdir()
    assert not runs.link(tmp_path / "latest", tmp_path / "one")
    assert not (tmp_path / "latest").is_symlink()


def test_without_symbolic_links_a_file_has_two_names_and_a_folder_one(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (tmp_path / "a.ckpt").write_text("weights")
    (tmp_path / "one").mkdir()
    assert runs.link(tmp_path / "best.ckpt", tmp_path / "a.ckpt")
    assert (tmp_path / "best.ckpt").read_text() == "weights"
    assert not runs.link(tmp_path / "latest", tmp_path / "one")
    assert runs.by_short_name(tmp_path / "one") == tmp_path / "one"
    monkeypatch.setattr(os, "link", refuse)
    assert not runs.link(tmp_path / "other.ckpt", tmp_path / "a.ckpt")


def test_a_run_is_resumed_in_its_own_folder_also_through_latest(tmp_path):
    run = tmp_path / "small" / "2026-01-01_00-00-00"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    (run / "checkpoints" / "last.ckpt").touch()
    assert runs.link(run.parent / "latest", run)
    assert runs.resumed_run_folder(str(run.parent / "latest" / "checkpoints" / "last.ckpt")) == run


def test_a_run_folder_named_by_latest_is_the_one_that_it_leads_to(tmp_path):
    run = tmp_path / "small" / "2026-01-01_00-00-00"
    run.mkdir(parents=True)
    latest = run.parent / "latest"
    assert runs.link(latest, run)
    assert runs.chosen_run_folder(["fit", f"--run_dir={latest}"], None, None) == run
    assert runs.chosen_run_folder(["fit"], None, str(latest)) == run
    assert not runs.link(latest, latest)  # it would lead to itself
    assert latest.samefile(run)


def test_a_record_has_the_file_and_not_the_link_to_it(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "a.ckpt").touch()
    assert runs.link(run / "best.ckpt", run / "a.ckpt")
    assert runs.link(run.parent / "latest", run)
    assert runs.settled(run.parent / "latest" / "best.ckpt") == (run / "a.ckpt").resolve()
    monkeypatch.chdir(tmp_path)
    assert runs.settled(Path("runs/latest/best.ckpt")) == Path("runs/one/a.ckpt")


def test_a_config_called_as_an_evaluation_names_its_runs_so(tmp_path):
    run = tmp_path / "runs" / "test" / "2026-01-01_00-00-00"
    (run / "checkpoints").mkdir(parents=True)
    assert runs.run_name([run / "config.yaml"]) == "test"
