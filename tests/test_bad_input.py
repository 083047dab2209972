"""Every bad input of docs/bad_input.md, tried on the command line: message and exit code are those of the page."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from depth_distill.cli import main
from tests.data.files import write_depth, write_image, write_png_header
from tests.test_yaml_files import BOMB

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "teacher" / "resnet18.yaml"
SIZE = (128, 96)
TRAIN, VAL = 6, 2
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
NETWORK = "--model.init_args.network.init_args."
SMALL = [f"{NETWORK}encoder", "mobilenetv3_small_050", "--data.image_size", "[32,64]", "--data.batch_size", "2"]
SMALL += ["--data.num_workers", "0", "--trainer.accelerator", "cpu", "--run_dir", "run"]


def documented():
    """The page's messages by their case. '...' stands for what differs between versions."""
    rows = re.findall(r"^\| ([^|]+?) \| `(.+)` \|$", (ROOT / "docs" / "bad_input.md").read_text(), re.MULTILINE)
    return dict(rows)


def good_data(root):
    """Write a good data set."""
    rows = {"train": range(TRAIN), "val": range(TRAIN, TRAIN + VAL)}
    for split, numbers in rows.items():
        for number in numbers:
            write_image(root / "rgb" / f"{number:04d}.jpg", 100 + number, SIZE)
            write_depth(root / "depth" / f"{number:04d}.png", 1800 + 20 * number, SIZE)
        lines = ["image,depth", *(f"rgb/{number:04d}.jpg,depth/{number:04d}.png" for number in numbers)]
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def my_data(tmp_path, monkeypatch):
    """A good data set, from the folder above of which the commands are given."""
    monkeypatch.chdir(tmp_path)
    return good_data(tmp_path / "my_data")


@pytest.fixture(scope="module")
def good_checkpoint(tmp_path_factory):
    """The checkpoint of a run on a good data set."""
    folder = tmp_path_factory.mktemp("good")
    root = good_data(folder / "my_data")
    words = ["fit", "--config", str(CONFIG), "--data.root", str(root), *SMALL, "--run_dir", str(folder / "run")]
    assert main([*words, "--trainer.max_epochs", "1", "--panels.every_n_epochs", "0"]) == 0
    return folder / "run" / "checkpoints" / "last.ckpt"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# What is done to the files of a sample: found by fit, and in the list of validate-data.
BAD_SAMPLES = {
    "an image is missing": lambda root: (root / "rgb/0003.jpg").unlink(),
    "a depth map is missing": lambda root: (root / "depth/0003.png").unlink(),
    "an image is cut short": lambda root: cut(root / "rgb/0003.jpg"),
    "a depth map is cut short": lambda root: cut(root / "depth/0003.png"),
    "an image is something else": lambda root: (root / "rgb/0003.jpg").write_text("hello"),
    "an image of another format": lambda root: Image.new("F", SIZE).save(root / "rgb/0003.jpg", format="TIFF"),
    "a file that Git LFS has not fetched": lambda root: (root / "rgb/0003.jpg").write_text(LFS_POINTER),
    "an image that is too large": lambda root: write_png_header(root / "rgb/0003.jpg", (16320, 12240)),
    "an image that its EXIF tag turns": lambda root: write_image(root / "rgb/0003.jpg", size=SIZE, orientation=3),
    "depth of another size than its image": lambda root: write_depth(root / "depth/0003.png", size=(64, 48)),
    "depth of 8 bits": lambda root: write_image(root / "depth/0003.png", size=SIZE),
    "depth of 3 channels": lambda root: write_png_header(root / "depth/0003.png", SIZE, bits=16),
    "depth that is zero everywhere": lambda root: write_depth(root / "depth/0003.png", 0, SIZE),
}
# What is done to a split: the same message from fit and from validate-data.
BAD_SPLITS = {
    "an empty split": lambda root: (root / "val.csv").write_text("image,depth\n"),
    "no manifest of that name": lambda root: (root / "val.csv").rename(root / "valid.csv"),
    "a misspelt column": lambda root: replace(root / "val.csv", "image,depth", "image,detph"),
    "a manifest with semicolons": lambda root: replace(root / "train.csv", ",", ";"),
    "a path with backslashes": lambda root: replace(root / "train.csv", "rgb/0003.jpg", r"rgb\0003.jpg"),
    "an absolute path in a manifest": lambda root: replace(root / "train.csv", "rgb/0003.jpg", "/photos/0003.jpg"),
    "a path that leaves the data root": lambda root: replace(root / "train.csv", "rgb/0003.jpg", "../photos/0003.jpg"),
}
# Options that go wrong on good data.
BAD_OPTIONS = {
    "depth in another unit": ["--data.train.init_args.depth_scale", "1"],
    "fewer samples than a batch": ["--data.batch_size", "16"],
    "a data root that is not there": ["--data.root", "my_dta"],
    "an unknown encoder": [f"{NETWORK}encoder", "resnet81"],
    "an image size that does not fit the network": ["--data.image_size", "[100,130]"],
    "a depth range of the network that is not the data's": [f"{NETWORK}depth_range.max_m", "10"],
    "an unknown option": ["--trainer.max_epocs", "5"],
    "an unknown option of a class": [f"{NETWORK}encodr", "resnet18"],
    "a value of another type": ["--data.batch_size", "many"],
    "an unknown class": ["--data.train", "RgbdFoldr"],
    "a function in place of a class": [
        "--model.init_args.optimizer",
        "{class_path: os.system, init_args: {command: ls}}",
    ],
    "no sample in a batch": ["--data.batch_size", "0"],
    "an image without pixels": ["--data.image_size", "[0,0]"],
    "an unknown way to resize": ["--data.resize", "squash"],
    "a seed below 0": ["--seed_everything", "-1"],
    "less than one epoch": ["--trainer.max_epochs", "-5"],
    "an unknown strategy": ["--trainer.strategy", "foo"],
    "an augmentation that changes the size": [
        "--data.augment",
        "[{class_path: torchvision.transforms.v2.Resize, init_args: {size: [5, 7]}}]",
    ],
    "an augmentation of something else": ["--data.augment", "[{class_path: torch.nn.Flatten}]"],
    "a learning rate below 0": ["--model.init_args.optimizer.init_args.lr", "-1"],
    "a schedule that knows no end": [
        "--model.init_args.lr_scheduler",
        "{class_path: torch.optim.lr_scheduler.StepLR}",
    ],
    "a loss that weighs nothing": ["--model.init_args.loss.init_args.weights", "{silog: 0, gradient: 0}"],
    "a run folder that is somebody's": ["--run_dir", "my_data"],
    "a metric of a validation that never comes": ["--trainer.limit_val_batches", "0"],
    "a monitored metric that nothing logs": ["--checkpoint.monitor", "val/absrel"],
    "a checkpoint that is not there": ["--ckpt_path", "run/checkpoints/last.ckpt"],
}
# Whole command lines.
BAD_COMMANDS = {
    "data.root not given": ["fit", "--config", str(CONFIG), *SMALL],
    "an unknown key in a config": ["fit", "--config", "unknown_key.yaml", "--data.root", "my_data", *SMALL],
    "a config that is not YAML": ["fit", "--config", "broken.yaml", "--data.root", "my_data"],
    "a config that is a folder": ["fit", "--config", "my_data", "--data.root", "my_data"],
    "a config in UTF-16": ["fit", "--config", "utf16.yaml", "--data.root", "my_data"],
    "a config without keys": ["fit", "--config", "empty.yaml", "--data.root", "my_data"],
    "a key that is given twice": ["fit", "--config", "twice.yaml", "--data.root", "my_data"],
    "aliases that grow without end": ["fit", "--config", "bomb.yaml", "--data.root", "my_data"],
    "a value that refers to no key": ["fit", "--config", "missing.yaml", "--data.root", "my_data"],
    "values that refer to each other": ["fit", "--config", "cycle.yaml", "--data.root", "my_data"],
    "no config": ["fit", "--data.root", "my_data"],
    "evaluation without a checkpoint": ["validate", "--config", str(CONFIG), "--data.root", "my_data", *SMALL],
}


def renamed(content):
    return {name.replace("encoder", "backbone"): each for name, each in content["state_dict"].items()}


def not_finite(content):
    content["state_dict"]["network.head.conv.weight"].fill_(torch.nan)
    return content


def edited(change):
    """Replaces a checkpoint by what ``change`` makes of its content."""
    return lambda path: torch.save(change(torch.load(path, weights_only=True)), path)


def folder(path):
    path.unlink()
    path.mkdir()


# What is done to the checkpoint of a good run.
BAD_CHECKPOINTS = {
    "a checkpoint that is empty": lambda path: path.write_bytes(b""),
    "a checkpoint that is cut short": cut,
    "a checkpoint with objects of other classes": edited(lambda content: content | {"a": Path("a")}),
    "a checkpoint that is a folder": folder,
    "a checkpoint that fit did not write": edited(lambda content: content["state_dict"]),
    "a checkpoint of another network": edited(lambda content: content | {"state_dict": renamed(content)}),
    "a checkpoint of another codec": edited(
        lambda content: content | {"codec": content["codec"] | {"max_depth_m": 10.0}}
    ),
    "weights that are not finite": edited(not_finite),
    "weights alone, to go on from": edited(
        lambda content: {k: v for k, v in content.items() if k != "optimizer_states"}
    ),
    "other batches than the run had": edited(
        lambda content: content | {"DepthDataModule": content["DepthDataModule"] | {"data.batch_size": 3}}
    ),
}
OF_FIT_ALONE = ("weights alone, to go on from", "other batches than the run had")


def errors_of(words, capsys):
    """Exit code, and what was printed to both streams, with each blank as one."""
    capsys.readouterr()
    code = main(words)
    printed = capsys.readouterr()
    return code, *(" ".join(stream.split()) for stream in (printed.out, printed.err))


def matches(case, printed):
    return re.search(re.escape(documented()[case]).replace(r"\.\.\.", ".*"), printed)


def fit_words(*extra):
    return ["fit", "--config", str(CONFIG), "--data.root", "my_data", *SMALL, *extra]


def check(case, words, capsys):
    code, _, err = errors_of(words, capsys)
    assert code == 2
    assert "Traceback" not in err
    assert matches(case, err[err.index("error: ") :]), err


def test_every_case_of_the_page_is_tried():
    tried = BAD_SAMPLES.keys() | BAD_SPLITS.keys() | BAD_OPTIONS.keys() | BAD_COMMANDS.keys() | BAD_CHECKPOINTS.keys()
    assert documented().keys() == tried


def test_good_data_is_good(my_data, capsys):
    code, out, _ = errors_of(["validate-data", *fit_words()[1:]], capsys)
    assert code == 0
    assert "128 x 96" in out


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_bad_sample(case, my_data, capsys):
    BAD_SAMPLES[case](my_data)
    check(case, fit_words(), capsys)
    code, out, _ = errors_of(["validate-data", *fit_words()[1:]], capsys)
    assert code == 1
    assert matches(case, out), out


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_bad_split(case, my_data, capsys):
    BAD_SPLITS[case](my_data)
    check(case, fit_words(), capsys)
    check(case, ["validate-data", *fit_words()[1:]], capsys)


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_option(case, my_data, capsys):
    check(case, fit_words(*BAD_OPTIONS[case]), capsys)


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_command(case, my_data, capsys):
    config = yaml.safe_load(CONFIG.read_text())
    config["trainer"]["max_epoch"] = 5
    Path("unknown_key.yaml").write_text(yaml.safe_dump(config))
    Path("broken.yaml").write_text("trainer: {max_epochs: 5\n")
    Path("utf16.yaml").write_text(CONFIG.read_text(), encoding="utf-16")
    Path("empty.yaml").write_text("# nothing yet\n")
    Path("twice.yaml").write_text("trainer: {max_epochs: 5}\ntrainer: {max_epochs: 6}\n")
    Path("bomb.yaml").write_text(BOMB)
    for name, size in {"missing": "${data.batch_sice}", "cycle": "${data.num_workers}"}.items():
        config = yaml.safe_load(CONFIG.read_text())
        config["data"] |= {"batch_size": size, "num_workers": "${data.batch_size}" if name == "cycle" else 0}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    check(case, BAD_COMMANDS[case], capsys)


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoint(case, my_data, good_checkpoint, capsys):
    bad = Path(shutil.copy(good_checkpoint, "x.ckpt"))
    BAD_CHECKPOINTS[case](bad)
    check(case, fit_words("--ckpt_path", "x.ckpt"), capsys)
    if case not in OF_FIT_ALONE:
        check(case, ["test", *fit_words("--ckpt_path", "x.ckpt")[1:]], capsys)


def test_a_sample_that_goes_bad_during_training_ends_it_without_a_traceback(my_data, capsys):
    # More samples than are looked at before training, so that a loader worker is the first to see the bad one.
    rows = [f"rgb/{number:04d}.jpg,depth/{number:04d}.png\n" for number in range(TRAIN)]
    copies = [(my_data / "rgb" / f"copy{number}.jpg", number) for number in range(4 * TRAIN)]
    for path, number in copies:
        write_image(path, 100, SIZE)
        rows.append(f"rgb/{path.name},depth/{number % TRAIN:04d}.png\n")
    (my_data / "train.csv").write_text("".join(["image,depth\n", *rows]))
    cut(my_data / "rgb" / "copy1.jpg")
    code, _, err = errors_of(
        fit_words("--data.num_workers", "1", "--checkpoint.monitor", "train/loss", "--trainer.limit_val_batches", "0"),
        capsys,
    )
    assert code == 2
    assert "Traceback" not in err
    assert re.search(r"error: my_data/rgb/copy1\.jpg: cannot be read as a JPEG or PNG image", err)
    assert [path.name for path in Path("run/checkpoints").iterdir()] in ([], ["last.ckpt"])
