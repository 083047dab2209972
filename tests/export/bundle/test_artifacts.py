"""Files of a bundle that are copied."""

import os

from depth_distill.export.bundle import artifacts


def test_permissions_of_runners_are_those_of_the_umask(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "run_tool.py").write_text("pass")
    (package / "run_tool.py").chmod(0o400)
    package.chmod(0o500)
    monkeypatch.setattr(artifacts, "RUNNERS", package)
    (tmp_path / "bundle").mkdir()
    before = os.umask(0o027)
    try:
        for _ in range(2):  # also over those of an unfinished export
            artifacts._write_runners(tmp_path / "bundle")
    finally:
        os.umask(before)
        package.chmod(0o700)
    folder = tmp_path / "bundle" / "runners"
    assert [path.name for path in folder.iterdir()] == ["run_tool.py"]
    assert [oct(path.stat().st_mode & 0o777) for path in (folder, folder / "run_tool.py")] == ["0o750", "0o640"]
