"""The wheel away from the repository: built, installed beside nothing else, and used from another folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NETWORK = "--model.init_args.network.init_args."
TINY = [
    *("--data.train.init_args.length=8", "--data.val.init_args.length=2", "--data.batch_size=2"),
    *("--data.image_size=[32,64]", "--data.train.init_args.size=[32,64]", "--data.val.init_args.size=[32,64]"),
    *(f"{NETWORK}encoder=test_efficientnet", f"{NETWORK}decoder_channels=[8,8,8,8,8]"),
    *("--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    "--panels.every_n_epochs=0",
]
pytestmark = pytest.mark.slow


class Installed:
    """A fresh environment with the wheel, which finds its dependencies, and nothing of ours, where they are here."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder / "venv", folder / "elsewhere"
        self.work.mkdir()
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        self._check([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT)
        (self.wheel,) = folder.glob("*.whl")
        venv.create(self.folder)
        self.python = self.folder / "bin" / "python"
        self._check([*pip, "--python", str(self.python), "install", "--no-deps", "--no-index", str(self.wheel)])
        (site,) = self.folder.glob("lib/python*/site-packages")
        # A path in a .pth file is put at the end, and the .pth files in it, such as that of an editable install, are
        # not read.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *words: str) -> str:
        """What ``depth-distill`` prints."""
        return self._check([str(self.folder / "bin" / "depth-distill"), *words])

    def python_prints(self, *words: str) -> str:
        """What its Python prints."""
        return self._check([str(self.python), *words])

    def _check(self, command: list[str], cwd: Path | None = None) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(command, cwd=cwd or self.work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_it_is_the_wheel_that_is_imported(installed):
    found = installed.python_prints("-c", "import depth_distill; print(depth_distill.__file__)").strip()
    assert Path(found).is_relative_to(installed.folder)
    assert (Path(found).parent / "py.typed").is_file()
    assert not (Path(found).parents[1] / "configs").exists()


def test_its_version_and_its_configs_are_those_of_the_repository(installed):
    version = installed.run("--version").split()[1]
    assert installed.wheel.name.startswith(f"depth_distill-{version}-")
    names = [line.split()[0] for line in installed.run("list", "targets").splitlines()]
    assert names == sorted(path.stem for path in (ROOT / "configs" / "target").glob("*.yaml"))


def test_it_has_the_template_of_reports(installed):
    script = "from depth_distill.tracking import run_report; print(*run_report.__path__)"
    folder = Path(installed.python_prints("-c", script).strip())
    assert {path.name for path in folder.iterdir()} >= {"page.html.j2", "page.css", "page.js"}


def test_a_network_is_trained_exported_and_run(installed):
    installed.run("fit", "--config", "quickstart", *TINY)
    run = (installed.work / "runs" / "quickstart" / "latest").resolve()
    words = ["--checkpoint", str(run / "checkpoints" / "last.ckpt"), "--out", "my bundle", "--json", "bundle.json"]
    installed.run("export", *words, "--calibration-images", "2", "--images", "2", "--backends")
    manifest = json.loads((installed.work / "bundle.json").read_text())
    model = Path("my bundle") / manifest["artifacts"]["int8"]
    image = sorted((installed.work / "my bundle" / "calibration" / "tensors").glob("*.npy"))[0]
    script = str(Path("my bundle") / "runners" / "run_onnxruntime.py")
    files = ["--inputs", str(image), "--outputs", "outputs.npz", "--report", "report.json"]
    installed.python_prints(script, "--model", str(model), *files)
    with np.load(installed.work / "outputs.npz") as outputs:
        (codes,) = outputs.values()
    assert codes.shape == (1, 1, 32, 64)
    assert 0 <= codes.min() <= codes.max() <= 1
