"""The command line, end to end, on configs written to a temporary folder and on those that are shipped."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import depth_distill
from depth_distill.cli import command_parser, main
from depth_distill.commands import COMMANDS
from depth_distill.lightning_cli import DepthCLI, build_cli
from depth_distill.tasks import DepthTask

CONFIGS = Path(__file__).parents[1] / "configs"

SMALL = {
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "num_sanity_val_steps": 0, "log_every_n_steps": 1},
    "data": {
        "train": {"class_path": "SyntheticDepth", "init_args": {"length": 8, "size": [32, 64]}},
        "val": {"class_path": "SyntheticDepth", "init_args": {"length": 3, "size": [32, 64], "seed": 1}},
        "image_size": [32, 64],
        "batch_size": 4,
        "num_workers": 0,
    },
    "model": {
        "class_path": "DepthTask",
        "init_args": {
            "network": {
                "class_path": "DepthNet",
                "init_args": {
                    "encoder": "mobilenetv3_small_050",
                    "decoder_channels": [16, 16, 8, 8, 8],
                    "depth_range": {"min_m": "${data.depth_range.min_m}", "max_m": "${data.depth_range.max_m}"},
                },
            },
            "loss": {"class_path": "CompositeLoss", "init_args": {"terms": {"silog": {"class_path": "SILogLoss"}}}},
            "lr_scheduler": {"class_path": "WarmupCosineLR"},
        },
    },
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, and what it printed; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["fit", "--config", str(folder / "small.yaml"), "--runs_dir", str(folder / "runs")]) == 0
    return only(folder / "runs" / "small", "2*"), printed.getvalue()


@pytest.fixture
def fitted(finished):
    return finished[0]


def test_fit_leaves_a_complete_run_folder(fitted):
    assert (fitted / "config.yaml").is_file()
    assert (fitted / "checkpoints" / "last.ckpt").is_file()
    assert (fitted / "pictures" / "val.png").is_file()
    with (fitted / "metrics.csv").open() as file:
        assert "val/abs_rel" in (csv.DictReader(file).fieldnames or [])
    summary = json.loads((fitted / "summary.json").read_text())
    assert summary["metrics"]["val/abs_rel"] > 0
    assert Path(summary["best_checkpoint"]).is_file()
    assert summary["protocol"] == "per-image mean, depth 0.5-15 m"
    assert {"wall_s", "train_images_per_s", "versions", "seed"} <= summary.keys()


def test_fit_ends_with_a_table_the_best_checkpoint_and_the_next_command(finished):
    _, printed = finished
    assert "abs_rel" in printed
    assert "5-15m" in printed
    assert "best checkpoint" in printed
    assert "depth-distill predict --config" in printed


def test_a_run_and_its_best_checkpoint_have_a_name_that_does_not_change(finished):
    run, printed = finished
    latest = run.parent / "latest"
    assert latest.is_symlink()
    assert latest.resolve() == run
    best = latest / "checkpoints" / "best.ckpt"
    assert best.samefile(json.loads((run / "summary.json").read_text())["best_checkpoint"])
    assert f"best checkpoint  {best}" in printed
    assert f"--config {latest / 'config.yaml'} --ckpt_path {best}" in printed


def test_an_evaluation_has_a_folder_of_its_own_and_is_not_the_latest_run(fitted, tmp_path):
    base = shutil.copytree(fitted.parent, tmp_path / "runs" / "small", symlinks=True)
    before = contents(base / fitted.name)
    latest = base / "latest"
    words = ["--config", str(latest / "config.yaml"), "--ckpt_path", str(latest / "checkpoints" / "best.ckpt")]
    for command in ("validate", "predict"):
        assert main([command, *words, "--runs_dir", str(base.parent), "--predictions.panels", "false"]) == 0
    assert contents(base / fitted.name) == before
    assert latest.resolve() == base / fitted.name
    validated = only(base / "validate", "2*")
    evaluation = json.loads((validated / "evaluation.json").read_text())
    assert evaluation["checkpoint"] == str((latest / "checkpoints" / "best.ckpt").resolve())  # the link moves on
    summary = json.loads((fitted / "summary.json").read_text())
    assert evaluation["metrics"]["val/abs_rel"] == pytest.approx(summary["metrics"]["val/abs_rel"], abs=1e-6)
    assert evaluation["versions"] == summary["versions"]
    # Its config is one of fit, which neither resumes from that checkpoint nor writes into that run.
    words = ["--trainer.max_epochs", "1", "--panels.every_n_epochs", "0", "--runs_dir", str(base.parent)]
    assert main(["fit", "--config", str(only(base / "predict", "2*") / "config.yaml"), *words]) == 0
    assert contents(base / fitted.name) == before
    assert latest.resolve() != base / fitted.name
    assert latest.resolve().parent == base


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", "1", "--model.init_args.optimizer"]
        + ["AdamW", "--model.init_args.optimizer.fused", "true"],
        ["--trainer.callbacks", "Timer", "--trainer.callbacks.duration", "00:01:00:00"],
        ["--trainer.accumulate_grad_batches", "2", "--trainer.profiler", "simple"],
    ],
    ids=["bf16-mixed", "Timer", "profiler"],
)
def test_options_of_lightning_that_failed_once(words, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("depth_distill.lightning_cli.emulates_bfloat16", lambda: True)
    small = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "1"]
    run = tmp_path / "run"
    assert main(["fit", "--config", str(config), "--run_dir", str(run), *small, *words]) == 0
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 1
    assert ("this CPU has no instructions for bfloat16" in capsys.readouterr().out) == ("bf16-mixed" in words)


def test_fast_dev_run_leaves_nothing(config, tmp_path):
    words = ["fit", "--config", str(config), "--runs_dir", str(tmp_path / "runs"), "--trainer.fast_dev_run", "1"]
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent)}
    subprocess.run([sys.executable, "-m", "depth_distill", *words], env=environment, check=True, capture_output=True)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file() or path.is_symlink()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.barebones", "true"], "trainer.barebones: received true, but a run keeps a log and checkpoints"),
        (["--trainer.compile", "true"], "there is no option 'trainer.compile': quantizers and hooks change networks"),
    ],
)
def test_options_that_cannot_work_are_one_line(words, message, config, tmp_path, capsys):
    assert main(["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_resolved_config_and_checkpoint_give_the_same_number_again(fitted, tmp_path, capsys):
    summary = json.loads((fitted / "summary.json").read_text())
    capsys.readouterr()
    code = main(
        ["validate", "--config", str(fitted / "config.yaml"), "--ckpt_path", summary["best_checkpoint"]]
        + ["--run_dir", str(tmp_path / "again")]
    )
    assert code == 0
    assert f"{summary['metrics']['val/abs_rel']:.4f}" in capsys.readouterr().out


def test_predict_writes_a_depth_map_and_a_panel_an_image(fitted, tmp_path):
    best = json.loads((fitted / "summary.json").read_text())["best_checkpoint"]
    out = tmp_path / "predicted"
    assert main(["predict", "--config", str(fitted / "config.yaml"), "--ckpt_path", best, "--run_dir", str(out)]) == 0
    maps = sorted((out / "predictions" / "depth").rglob("*.png"))
    assert len(maps) == len(list((out / "predictions" / "panels").rglob("*.png"))) == 3
    with Image.open(maps[0]) as depth:
        assert depth.mode == "I;16"
        assert depth.size == (64, 32)
        low, high = depth.getextrema()
        assert 500 <= low <= high <= 15000  # millimetres, inside the depth range


def test_test_runs_on_the_test_split(fitted, tmp_path, capsys):
    best = json.loads((fitted / "summary.json").read_text())["best_checkpoint"]
    out = tmp_path / "tested"
    assert main(["test", "--config", str(fitted / "config.yaml"), "--ckpt_path", best, "--run_dir", str(out)]) == 0
    assert "test: per-image mean" in capsys.readouterr().out


def test_a_checkpoint_loads_without_the_command_line(fitted):
    best = json.loads((fitted / "summary.json").read_text())["best_checkpoint"]
    task = DepthTask.load_from_checkpoint(best, weights_only=True)
    assert task.network.predict_depth(torch.zeros(1, 3, 32, 64)).shape == (1, 1, 32, 64)


def test_resuming_continues_in_the_same_folder_and_keeps_the_log(fitted, tmp_path):
    run = shutil.copytree(fitted, tmp_path / "run")
    last = run / "checkpoints" / "last.ckpt"
    code = main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(last), "--trainer.max_epochs", "3"])
    assert code == 0
    assert json.loads((run / "summary.json").read_text())["epochs"] == 3
    assert (run / "metrics.1.csv").is_file()
    assert (run / "metrics.csv").is_file()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copied_run_goes_on_in_the_copy(fitted, tmp_path):
    run = shutil.copytree(fitted, tmp_path / "run")
    values = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(values | {"run_dir": str(fitted)}))  # as if made with --run_dir
    before = contents(fitted)
    words = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main([*words, "--trainer.max_epochs", "3", "--panels.every_n_epochs", "0"]) == 0
    assert contents(fitted) == before
    summary = json.loads((run / "summary.json").read_text())
    assert summary["epochs"] == 3
    assert Path(summary["best_checkpoint"]).parent == run / "checkpoints"


def test_the_config_of_a_run_with_a_given_folder_leaves_that_folder_alone(config, tmp_path):
    run = tmp_path / "run"
    words = ["--panels.every_n_epochs", "0", "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", str(config), "--run_dir", str(run), *words]) == 0
    before = contents(run)
    words = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main(["validate", *words, "--runs_dir", str(tmp_path / "runs")]) == 0
    assert contents(run) == before


def test_a_misspelt_metric_is_one_line_and_exit_code_2_before_training(config, tmp_path, capsys):
    words = ["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), "--checkpoint.monitor", "val/absrel"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "ModelCheckpoint monitors 'val/absrel', which nothing logs; did you mean 'val/abs_rel'?" in error
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_a_run_that_diverges_announces_no_best_checkpoint(config, tmp_path, capsys):
    words = ["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), "--model.init_args.optimizer"]
    assert main([*words, "AdamW", "--model.init_args.optimizer.lr", "1e30"]) == 2
    printed = capsys.readouterr()
    assert "best checkpoint" not in printed.out
    assert re.search(r"error: epoch 0, step \d: .*\(the first that is not finite: [a-z]+", printed.err)
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_fit_with_a_checkpoint_and_the_code_of_a_shell(config, tmp_path, signum, code):
    values = yaml.safe_load(config.read_text())
    values["trainer"]["callbacks"] = [
        {"class_path": "tests.killed.KillAt", "init_args": {"step": 1, "signum": int(signum)}}
    ]
    config.write_text(yaml.safe_dump(values))
    words = [sys.executable, "-m", "depth_distill", "fit", "--config", str(config), "--run_dir", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent)}
    done = subprocess.run(words, cwd=CONFIGS.parent, env=environment, timeout=300, capture_output=True, text=True)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert f"to go on from {last}, give it to fit as --ckpt_path" in done.stderr
    assert torch.load(last, weights_only=True)["global_step"] == 2  # the batch in progress was finished


def test_the_same_seed_gives_the_same_numbers(config, fitted, tmp_path):
    main(["fit", "--config", str(config), "--run_dir", str(tmp_path / "again"), "--panels.every_n_epochs", "0"])
    one, two = (json.loads((run / "summary.json").read_text())["metrics"] for run in (fitted, tmp_path / "again"))
    assert one == two


def test_wandb_without_a_key_works_offline(config, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), "--wandb", "true"]
    assert main([*words, "--trainer.max_epochs", "1", "--panels.every_n_epochs", "0"]) == 0
    assert only(tmp_path / "run", "wandb/offline-run-*").is_dir()


def test_the_progress_bar_can_be_switched_off(config, tmp_path, capsys):
    words = ["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "1"]
    assert main([*words, "--trainer.enable_progress_bar", "false", "--panels.every_n_epochs", "0"]) == 0
    printed = capsys.readouterr().out
    assert "Epoch 0/0" not in printed
    assert "best checkpoint" in printed


def test_validate_data_reports_every_split(config, capsys):
    assert main(["validate-data", "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "train" in printed
    assert "val" in printed


def test_bad_data_is_one_line_and_exit_code_2(tmp_path, capsys):
    code = main(
        ["fit", "--config", str(CONFIGS / "teacher" / "resnet18.yaml"), "--data.root", str(tmp_path)]
        + ["--runs_dir", str(tmp_path / "runs")]
    )
    assert code == 2
    error = capsys.readouterr().err
    assert "train.csv" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["quickstart.yaml", "distill/quickstart.yaml"])
def test_shipped_configs_without_files_run(name, tmp_path):
    code = main(
        ["fit", "--config", str(CONFIGS / name), "--run_dir", str(tmp_path), "--trainer.fast_dev_run", "1"]
        + ["--data.num_workers", "0", "--data.calibration_size", "4"]
    )
    assert code == 0


HEAVY = ("torch", "timm", "pytorch_lightning", "jsonargparse", "onnx", "onnxruntime", "matplotlib", "numpy")
LIGHT = f"""
import json, sys
from depth_distill.cli import main
code = main(json.loads(sys.argv[1]))
print("\\nimported:", *[name for name in {HEAVY} if name in sys.modules])
sys.exit(code)
"""


def at_once(*words):
    """Exit code and output of a command line that must not import anything heavy."""
    done = subprocess.run([sys.executable, "-c", LIGHT, json.dumps(words)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "imported:"
    return done.returncode, "\n".join(done.stdout.splitlines()[:-2]), done.stderr


def test_help_lists_every_command():
    code, printed, _ = at_once("--help")
    assert code == 0
    for name, summary in COMMANDS.items():
        assert f"  {name} " in printed
        assert summary in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_page_with_an_example(name):
    code, printed, _ = at_once(name, "--help")
    assert code == 0
    assert printed.startswith(f"usage: depth-distill {name} ")
    assert f"  depth-distill {name} " in printed[printed.index("\nexample") :]
    assert "default: None" not in printed
    assert "``" not in printed


def test_examples_are_command_lines_that_are_taken():
    for name in COMMANDS:
        lines = [line.strip() for line in command_parser(name).epilog.splitlines()[1:]]
        assert lines
        for line in lines:
            words = line.replace("'", "").split()
            assert words[:2] == ["depth-distill", name]
            command_parser(name).parse(words[2:])


def test_without_a_command_the_overview_is_shown(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_the_version():
    assert at_once("--version")[:2] == (0, f"depth-distill {depth_distill.__version__}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exprt"], "there is no command 'exprt'; did you mean 'export'?"),
        (["npu_info"], "there is no command 'npu_info'; did you mean 'npu-info'?"),
        (["--config", "quickstart"], "there is no command '--config'; depth-distill --help lists them"),
        (["export", "--chekpoint", "x"], "there is no option --chekpoint; did you mean '--checkpoint'?"),
        (["export", "--image", "3"], "there is no option --image; did you mean '--images'?"),
        (["export"], "the following arguments are required: --checkpoint, --out; see depth-distill export --help"),
        (["fit", "--confg", "quickstart"], "there is no option --confg; did you mean '--config'?"),
        (["fit", "--config", "quickstrt"], "no shipped config of that name; did you mean 'quickstart'?"),
        (["export", "--checkpoint", "x", "--out", "y", "z"], "unexpected argument 'z'"),
        (["npu-info", "--target", "rkn"], "--target: unknown target 'rkn'; did you mean 'rknn'"),
        (["sensitivity", "--images", "0"], "--images must be a whole number of 1 or more, received '0'"),
        (["sensitivity", "--images", "2.5"], "--images must be a whole number of 1 or more, received '2.5'"),
        (["mixed-precision", "--threshold", "nan"], "--threshold must be a finite number, received 'nan'"),
        (["mixed-precision", "--target-abs-rel", "inf"], "--target-abs-rel must be a finite number, received 'inf'"),
        (["error-budget", "--recipe", "eqalize"], "there is no recipe 'eqalize'; did you mean 'equalize'?"),
        (["error-budget", "--stress", "1"], "there is no option --stress"),
        (["list", "encodrs"], "invalid choice: 'encodrs'"),
    ],
)
def test_a_mistake_is_one_line_at_once(words, message):
    code, printed, error = at_once(*words)
    assert code == 2
    assert not printed
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_an_option_is_the_same_in_every_command():
    """One name has one type, one placeholder and one help text, but for the default at the end of it."""
    shared = {"checkpoint", "config", "target", "images", "calibration_images", "out", "json", "recipe"}
    found = {}
    for name in COMMANDS:
        for action in command_parser(name)._actions:
            if action.dest in shared and action.help != "==SUPPRESS==":
                text = action.help.split(" (default:")[0]
                found.setdefault(action.dest, set()).add((action.option_strings[-1], action.type, action.metavar, text))
    assert found.keys() == shared
    assert {dest: len(forms) for dest, forms in found.items()} == dict.fromkeys(shared, 1)


def test_what_prints_results_writes_them_as_json_too():
    without = {"fit", "validate", "test", "predict", "report"}  # runs have records, of which report makes a page
    assert {name for name in COMMANDS if "--json" not in command_parser(name).format_help()} == without


def test_the_short_help_of_training_knows_the_options_of_lightning():
    found = {}

    class Asked(DepthCLI):
        def parse_arguments(self, parser, args):
            for name, command in self._subcommand_parsers.items():
                found[name] = {option for option in command._option_string_actions if "." not in option}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cli(Asked, ["fit"], run=True)
    for name, options in found.items():
        known = command_parser(name)._option_string_actions.keys() - {"--help_all"}
        assert options <= known, name
    assert known <= set.union(*found.values())


def test_help_all_is_that_of_lightning(capsys):
    assert main(["validate", "--help_all"]) == 0
    assert "--trainer.max_epochs" in capsys.readouterr().out


def test_ctrl_c_is_130(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("depth_distill.commands.list.run", interrupt)
    assert main(["list", "targets"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_shipped_config_by_name_names_the_run_as_its_file_does(tmp_path):
    words = ["--config", "distill/quickstart", "--runs_dir", str(tmp_path), "--trainer.fast_dev_run", "1"]
    assert main(["fit", *words, "--data.num_workers", "0", "--data.calibration_size", "4"]) == 0
    assert (tmp_path / "distill-quickstart").is_dir()


def test_the_package_offers_its_names_without_importing_them():
    program = (
        "import sys, depth_distill as package; "
        "print('torch' in sys.modules, package.load_network.__name__, dir(package))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("False load_network")
    for name in depth_distill.__all__:
        assert f"'{name}'" in printed
        assert getattr(depth_distill, name).__name__.rpartition(".")[2] == name
    assert callable(depth_distill.export)  # the package of that name
    with pytest.raises(AttributeError, match="no attribute 'load_rnu'"):
        depth_distill.load_rnu  # noqa: B018


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_bad_checkpoint_is_one_line_in_every_command(command, config, tmp_path, capsys):
    bad = tmp_path / "x.ckpt"
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(100)):
        bad.write_bytes(content)
        assert (
            main([command, "--config", str(config), "--runs_dir", str(tmp_path / "runs"), "--ckpt_path", str(bad)]) == 2
        )
        errors = [line for line in capsys.readouterr().err.splitlines() if "x.ckpt" in line]
        assert errors[-1].startswith(f"error: {bad} cannot be read as a checkpoint")


def test_the_hyperparameters_of_a_checkpoint_build_nothing(fitted, tmp_path):
    content = torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True)
    content["hyper_parameters"] = {"_class_path": "subprocess.Popen", "args": ["touch", str(tmp_path / "executed")]}
    torch.save(content, tmp_path / "x.ckpt")
    words = ["validate", "--config", str(fitted / "config.yaml"), "--ckpt_path", str(tmp_path / "x.ckpt")]
    assert main([*words, "--run_dir", str(tmp_path / "run"), "--panels.every_n_epochs", "0"]) == 0
    assert not (tmp_path / "executed").exists()


def test_checkpoints_are_never_unpickled(config, tmp_path, capsys):
    (tmp_path / "x.ckpt").touch()
    words = ["test", "--config", str(config), "--ckpt_path", str(tmp_path / "x.ckpt"), "--weights_only", "false"]
    assert main(words) == 2
    assert "weights_only: received false, but checkpoints are never unpickled" in capsys.readouterr().err


EXECUTE = "{class_path: subprocess.Popen, init_args: {args: [touch, EXECUTED]}}"


@pytest.mark.parametrize(
    "key",
    [
        "model",
        "model.init_args.network",
        "model.init_args.network.init_args.head",
        "model.init_args.loss.init_args.terms",
        "model.init_args.optimizer",
        "model.init_args.lr_scheduler",
        "data.train",
        "data.augment",
        "trainer.callbacks",
        "trainer.logger",
        "trainer.strategy",
    ],
)
@pytest.mark.parametrize(
    "named", [EXECUTE, "{class_path: os.system, init_args: {command: touch EXECUTED}}", "os.system"]
)
def test_what_is_no_class_of_its_kind_is_refused_before_it_is_built(key, named, config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = {
        "data.augment": f"[{named}]",
        "trainer.callbacks": f"[{named}]",
        "model.init_args.loss.init_args.terms": f"{{a: {named}}}",
    }
    assert main(["fit", "--config", str(config), "--run_dir", "run", f"--{key}", value.get(key, named)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_folder_of_a_run_is_not_given_to_another(command, fitted, tmp_path, capsys):
    run = shutil.copytree(fitted, tmp_path / "run")
    before = contents(run)
    words = [command, "--config", str(run / "config.yaml"), "--run_dir", str(run)]
    if command != "fit":
        words += ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main(words) == 2
    assert "holds the checkpoints of another run" in capsys.readouterr().err
    assert contents(run) == before


def test_resuming_with_another_batch_size_is_refused(fitted, tmp_path, capsys):
    run = shutil.copytree(fitted, tmp_path / "run")
    words = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main([*words, "--trainer.max_epochs", "3", "--data.batch_size", "2"]) == 2
    error = capsys.readouterr().err
    assert "the checkpoint is of a run with data.batch_size 4, but this one has 2: resume with 4" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.strategy", "foo"], "trainer cannot be built: ValueError: You selected an invalid strategy name"),
        (["--trainer.val_check_interval", "1000"], "trainer: `val_check_interval` (1000) must be less than or equal"),
        (["--trainer.max_time", "abc"], "is not a valid duration"),
        (["--seed_everything", "-1"], "seed_everything: received -1, expected 0 to 4294967295"),
        (["--runs_dir", ""], "runs_dir: received nothing"),
    ],
)
def test_a_bad_option_of_the_trainer_is_one_line(words, message, config, tmp_path, capsys):
    assert main(["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_markup_in_names_is_printed_as_it_is(config, tmp_path, capsys):
    run = tmp_path / "[red]x[/nope]"
    assert main(["fit", "--config", str(config), "--run_dir", str(run), "--trainer.max_epochs", "1"]) == 0
    assert f"pictures         {run / 'pictures'}" in capsys.readouterr().out


def test_nobody_reads_the_output_any_more():
    command = [sys.executable, "-m", "depth_distill", "list", "encoders"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1])
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (141, b"")


def test_a_working_directory_that_is_gone_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["list", "targets"]) == 2
    assert "the working directory is gone" in capsys.readouterr().err


def test_killed_while_the_config_is_written_again_the_one_before_is_there(fitted, tmp_path, monkeypatch):
    run = shutil.copytree(fitted, tmp_path / "run")
    before = (run / "config.yaml").read_bytes()
    # The process is killed where the content is on its way to the disk.
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(SystemExit(9)))
    words = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main([*words, "--trainer.max_epochs", "5"]) == 9
    assert (run / "config.yaml").read_bytes() == before
