"""Every command in README and docs/ that starts with `molsampler` or runs a script is one that the parser takes."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest

from molsampler.cli import main as cli
from molsampler.cli import synthetic as synthetic_cli

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = (
    r"(?:molsampler (?:new|check|train|sample|analyse|reference|compare)|python scripts/run_(?:aldp|synthetic)\.py)\b.*"
)


def documented() -> list[str]:
    """Indented commands, and those between backticks that have arguments."""
    found = set()
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        found |= set(re.findall(rf"^ {{4,}}({COMMAND})$", text, re.MULTILINE))
        found |= {words for words in re.findall(r"`([^`\n]+)`", text) if re.fullmatch(COMMAND + " .*", words)}
    return sorted(words for words in found if not re.search(r"\.\.\.|<|TARGET|NAME|SYSTEM", words))


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    for name in ("new", "check", "train", "sample", "analyse", "reference", "compare"):
        original = getattr(cli, name)
        monkeypatch.setattr(cli, name, functools.wraps(original)(lambda *args, **kwargs: None))
    monkeypatch.setattr(synthetic_cli, "_run_all", lambda *args: None)


def test_there_are_some():
    commands = documented()
    assert len(commands) > 15 and {words.split()[1] for words in commands} >= {"new", "check", "train", "sample"}


@pytest.mark.parametrize("command", documented())
def test_a_documented_command_is_understood(command):
    words = shlex.split(command, comments=True)
    if words[0] == "molsampler":
        assert cli.main(words[1:]) == 0
    else:
        run = cli.run_aldp if "aldp" in words[1] else synthetic_cli.main
        assert run(words[2:]) == 0
