"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest
import torch

BESIDE_THE_REPOSITORY = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` where there is none."""
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no GPU that torch can use")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real RGB-D sets (see docs/data.md); skips the test where it is absent."""
    root = Path(os.environ.get("DEPTH_DISTILL_DATA", BESIDE_THE_REPOSITORY))
    if not root.is_dir():
        pytest.skip(f"no real RGB-D data in {root}: set DEPTH_DISTILL_DATA")
    return root


@pytest.fixture(scope="session")
def trained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a small finished run (see tests/trained_run.py); tests that change it take a copy."""
    from tests.trained_run import fit

    return fit(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def distilled_run(tmp_path_factory: pytest.TempPathFactory, trained_checkpoint: Path) -> tuple[Path, str]:
    """The last checkpoint of a fake-quantized student's run (see tests/distilled_run.py), and what the run printed."""
    from tests.distilled_run import fit

    return fit(tmp_path_factory.mktemp("distilled"), trained_checkpoint)
