"""The rooms of the package: imports point downwards only, and no module lies loose in the hall."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "molsampler"
ROOMS = (
    "cli",
    "api",
    "runs",
    "preparation",
    "training",
    "targets",
    "smc",
    "diffusion",
    "molecules",
    "analysis",
    "store",
    "basis",
)
"""From the roof to the basement: a room may use those after it."""
BARRED = {
    "training": {"molecules", "analysis", "targets.molecule"},
    "smc": {"molecules", "analysis"},
    "diffusion": {"molecules", "analysis"},
    "molecules": {"analysis"},
}
"""Rooms that lie below and are none of a room's business: the sampler knows no molecule, a molecule no analysis."""


def room(module: str) -> str:
    return module.removeprefix("molsampler.").partition(".")[0]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name == "api.py")


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, functions' own imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("molsampler."):
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module == "molsampler":
            found |= {f"molsampler.{alias.name}" for alias in node.names if (PACKAGE / alias.name).is_dir()}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("molsampler.")}
    return found


def test_nothing_lies_loose_in_the_hall():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "api.py"}
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} == {*ROOMS} - {"api"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in sorted(imported(path)):
        there = room(module)
        assert ROOMS.index(there) >= ROOMS.index(here), f"{here} imports {module}, which lies above it"
        barred = BARRED.get(here, set())
        named = module.removeprefix("molsampler.")
        assert not any(named == name or named.startswith(f"{name}.") for name in barred), f"{here} imports {module}"
