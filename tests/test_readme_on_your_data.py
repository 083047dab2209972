"""README's way for data of one's own, block by block and in order, as somebody would type it; the Python, too."""

import csv
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml
from PIL import Image

from depth_distill.cli import main
from depth_distill.commands import ptq_rows
from depth_distill.data import SyntheticDepth
from depth_distill.display.pictures import save_depth_png
from depth_distill.quantization.passes.adaround import AdaRound
from depth_distill.shipped_configs import shipped_folder
from depth_distill.yaml_files import read_yaml
from tests.test_readme import blocks, command_lines, run_python

pytestmark = pytest.mark.slow

README = Path(__file__).parents[1] / "README.md"
SIDE = 64  # pixels
NETWORK = [
    *("--model.init_args.network.init_args.encoder", "test_resnet"),
    *("--model.init_args.network.init_args.decoder_channels", "[8, 8, 8, 8, 8]"),
]
DATA = ["--data.image_size", f"[{SIDE}, {SIDE}]", "--data.batch_size", "4", "--data.num_workers", "0"]
TRAINING = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
FEW = ["--images", "4", "--calibration-images", "4"]
ADDED = {
    "depth-distill validate-data": [],
    "depth-distill fit --config teacher/resnet18": [*NETWORK, *DATA, *TRAINING],
    "depth-distill fit --config runs/": ["--trainer.max_epochs", "2"],  # as if it had been interrupted after one
    "depth-distill predict": [],
    "depth-distill ptq-table": [*FEW, "--reconstruction-images", "2"],
    "depth-distill error-budget": FEW,
    "depth-distill sensitivity": [*FEW, "--recipe", "[fold, equalize, {adaround: {iterations: 5}}, bias_correct]"],
    "depth-distill fit --config distill/kitchen": [*NETWORK, *DATA, *TRAINING, "--data.calibration_size", "4"],
    "depth-distill roadmap": [*NETWORK, *DATA, "--config", "few-rows.yaml"],
    "depth-distill export": [*FEW, "--recipe", "[fold, equalize, bias_correct]"],
}
"""What is added to each command so that it takes seconds. Where the option is there already, the last one counts."""
ROWS = ("FP32 teacher", "INT8 PTQ baseline", "+ equalization", "+ output distillation")
"""The rows of the roadmap that few-rows.yaml keeps."""


def commands():
    """The commands under the heading "On your own data", a list of words each."""
    section = re.search(r"^## On your own data$(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)
    # One text, as the checkpoint is named in one block and used in the next.
    lines = command_lines("\n".join(re.findall(r"^```bash\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)))
    # What make builds its command line from is in tests/test_readme.py.
    return [words for words in lines if words[0] == "depth-distill"]


def added_to(words):
    line = " ".join(words)
    return next(more for start, more in ADDED.items() if line.startswith(start))


def write_data(folder):
    """``my_data``, an RGB-D folder of built-in scenes as files, and ``my_photos``, images alone."""
    for split, count, seed in (("train", 12, 0), ("val", 4, 1)):
        scenes, rows = SyntheticDepth(count, (SIDE, SIDE), seed), []
        for place in range(count):
            names = [f"{kind}/{split}{place:04d}.png" for kind in ("rgb", "depth")]
            paths = [folder / "my_data" / name for name in names]
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
            sample = scenes.load(place)
            Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(paths[0])
            save_depth_png(sample.depth_m, paths[1])
            rows.append(names)
        with (folder / "my_data" / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "depth"), *rows])
    (folder / "my_photos").mkdir()
    for place in range(2):
        Image.open(folder / "my_data" / f"rgb/val{place:04d}.png").save(folder / "my_photos" / f"{place}.jpg")


def write_plan(folder):
    """The roadmap of the README with its network as it is, one seed, and the rows named above."""
    plan = read_yaml(shipped_folder() / "roadmap" / "kitchen.yaml")
    rows = [row for row in plan["rows"] if row["name"] in ROWS]
    plan |= {"networks": {"plain": None}, "seeds": [0], "calibration_images": 4, "rows": rows}
    for row in rows:
        row.pop("networks", None)
    (folder / "few-rows.yaml").write_text(yaml.safe_dump(plan))


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folder in which every command was run."""
    folder = tmp_path_factory.mktemp("walked")
    write_data(folder)
    write_plan(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(ptq_rows, "AdaRound", partial(AdaRound, iterations=5))  # not 300 per layer
        for words in commands():
            assert main([*words[1:], *added_to(words)]) == 0, " ".join(words)
    return folder


def test_the_manifests_of_a_video_are_written_with_its_end_for_validation(tmp_path):
    for folder, suffix in (("rgb", "jpg"), ("depth", "png")):
        (tmp_path / "my_data" / folder).mkdir(parents=True)
        for frame in range(10):
            (tmp_path / "my_data" / folder / f"{frame:04d}.{suffix}").touch()
    (block,) = [each for each in blocks(README, "bash") if "train.csv" in each]
    subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path, check=True)
    rows = {split: (tmp_path / "my_data" / f"{split}.csv").read_text().split() for split in ("train", "val")}
    frames = [f"rgb/{frame:04d}.jpg,depth/{frame:04d}.png" for frame in range(10)]
    assert rows == {"train": ["image,depth", *frames[:8]], "val": ["image,depth", *frames[8:]]}
    assert not (tmp_path / "my_data" / "all").exists()


def test_every_row_of_the_table_is_a_command_of_the_readme():
    lines = [" ".join(words) for words in commands()]
    assert [start for start in ADDED if not any(line.startswith(start) for line in lines)] == []


def test_the_links_of_the_run_lead_to_its_checkpoints(walked):
    (run,) = [each for each in (walked / "runs" / "teacher-resnet18").glob("2*") if each.is_dir()]
    latest = walked / "runs" / "teacher-resnet18" / "latest"
    assert latest.is_symlink()
    assert latest.resolve() == run
    best = latest / "checkpoints" / "best.ckpt"
    assert best.is_symlink()
    assert best.resolve().parent == run / "checkpoints"
    assert (latest / "checkpoints" / "last.ckpt").is_file()
    assert (walked / "runs" / "distill-kitchen" / "latest" / "checkpoints" / "best.ckpt").is_file()


def test_the_resumed_run_went_on_in_its_folder(walked):
    epochs = []
    for name in ("metrics.1.csv", "metrics.csv"):  # before and after
        with (walked / "runs/teacher-resnet18/latest" / name).open() as file:
            epochs += [row["epoch"] for row in csv.DictReader(file) if row["val/abs_rel"]]
    assert epochs == ["0", "1"]


def test_each_command_left_what_the_readme_says(walked):
    (predicted,) = walked.glob("runs/teacher-resnet18/predict/2*/predictions")
    assert len([each for each in predicted.rglob("*.png") if Image.open(each).mode.startswith("I")]) == 2
    for name in ("ptq/ptq_table.md", "budget/error_budget.png", "sensitivity/sensitivity.json", "roadmap/roadmap.md"):
        assert (walked / name).is_file(), name
    assert "cannot run" not in (walked / "roadmap" / "roadmap.md").read_text()
    for name in ("model.float.onnx", "model.int8.onnx", "decode.py", "decode.h", "calibration", "report.html"):
        assert (walked / "bundle" / name).exists(), name


def test_the_python_runs_on_the_trained_checkpoint(walked, monkeypatch, capsys):
    monkeypatch.chdir(walked)
    checkpoint = walked / "runs" / "teacher-resnet18" / "latest" / "checkpoints" / "best.ckpt"
    names = run_python(blocks(README, "python"), checkpoint)
    assert capsys.readouterr().out.startswith("FP32 ")
    assert names["bundle"].artifacts["float"].is_file()
