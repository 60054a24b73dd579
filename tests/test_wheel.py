"""What the wheel holds: the package with its templates, the systems without their references, no tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("molsampler", "systems", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built by way of a source distribution, from a copy of the tree, in which nothing is left behind."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, tree / name, ignore=ignore) if source.is_dir() else shutil.copy(source, tree)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / "dist"), str(tree)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tree / "dist").glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_systems_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    package = [path for path in (ROOT / "molsampler").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    systems = [path for path in (ROOT / "systems").glob("*/*") if path.is_file()]
    expected = {path.relative_to(ROOT).as_posix() for path in package}
    expected |= {f"molsampler/{path.relative_to(ROOT).as_posix()}" for path in systems}
    assert set(names) == expected
    assert "molsampler/systems/aldp/system.toml" in expected
    assert "molsampler/analysis/report/templates/report.html" in expected
    assert wheel.stat().st_size < 1_000_000  # the references alone are 7 MB
