"""The pages that are made from registries are what would be made now, and say of every setting what is known of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from molsampler.basis.settings import about, walk
from molsampler.cli.pages import pages, write_pages
from molsampler.runs.density import DensityConfig
from molsampler.runs.molecule import RunConfig
from molsampler.runs.synthetic_config import SyntheticConfig
from molsampler.training.config import TrainConfig
from molsampler.training.rows import COLUMNS

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", pages(DOCS))
def test_a_page_in_the_tree_is_what_would_be_made(name):
    """`make docs` writes them."""
    assert (DOCS / name).read_text(encoding="utf-8") == pages(DOCS)[name]


def test_pages_that_are_out_of_date_are_written_again(tmp_path):
    for name in pages(DOCS):
        shutil.copy(DOCS / name, tmp_path / name)
    shutil.copytree(DOCS / "gallery", tmp_path / "gallery")
    assert write_pages(tmp_path) == []
    (tmp_path / "SETTINGS.md").write_text("old")
    text = (tmp_path / "METRICS.md").read_text()
    (tmp_path / "METRICS.md").write_text(text.replace("| `ess` |", "| `essence` |"))
    assert write_pages(tmp_path) == ["SETTINGS.md", "METRICS.md"]
    assert (tmp_path / "METRICS.md").read_text() == text == (DOCS / "METRICS.md").read_text()


def test_every_setting_has_its_row():
    """By table, with its default; and every row is one of a setting."""
    text = (DOCS / "SETTINGS.md").read_text(encoding="utf-8")
    for config, title in (
        (RunConfig(), "A molecule"),
        (DensityConfig(), "A density of one's own"),
        (SyntheticConfig(), "A synthetic target"),
    ):
        rows = {}
        sections = text.split(f"## {title}\n")[1].split("\n## ")[0] + "## Training" + text.split("## Training\n")[1]
        table = ""
        for line in sections.splitlines():
            if heading := re.fullmatch(r"### \[(.*)\]", line):
                table = f"{heading[1]}."
            if found := re.fullmatch(r"\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.*) \| (.*?) \|", line):
                rows[table + found[1]] = found.groups()[1:]
        settings = {name: (field, value) for name, _, field, value in walk(config)}
        assert rows.keys() == settings.keys()
        shared = {f"train.{name}": value for name, _, _, value in walk(TrainConfig())}
        for name, value in shared.items():  # the tables say what all runs share, the text what a molecule's has instead
            if settings[name][1] != value:
                assert isinstance(config, RunConfig) and f"`{name}` " in text.split("## Training")[1].split("###")[0]
                settings[name] = (settings[name][0], value)
        for name, (field, value) in settings.items():
            default, unit, range_, meaning, needs = rows[name]
            said = about(field)
            assert unit == said.unit and meaning == said.text and range_
            assert bool(needs) == bool(said.needs) and all(other in needs for other, _ in said.needs)
            if isinstance(value, float):
                assert float(default) == value
            elif isinstance(value, str):
                assert default == f'"{value}"'


def test_every_column_has_its_row_and_no_other():
    text = (DOCS / "METRICS_CSV.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(.+?)` \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert found == [(column.name, column.unit, column.meaning) for column in COLUMNS]
