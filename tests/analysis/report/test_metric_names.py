"""Every figure has an entry, and docs/METRICS.md says what the entries say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from molsampler.analysis.report.metric_names import GROUPS, find

PAGE = Path(__file__).parents[3] / "docs" / "METRICS.md"


def test_the_page_has_every_entry_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("## All names") : text.index("## Convergence")]
    found = re.findall(r"^\| `(.+?)` \| (.*?) \| (.*?) \|$", section, re.MULTILINE)
    assert found == [tuple(figure) for group in GROUPS.values() for figure in group]
    assert re.findall(r"^### (.*)$", section, re.MULTILINE) == list(GROUPS)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("ess", "ess"),
        ("ramachandran_tv_64_ALA2_raw", "ramachandran_tv_64_<residue>"),
        ("ramachandran_tv_ALA2", "ramachandran_tv_<residue>"),
        ("ramachandran_tv_64", "ramachandran_tv_64"),
        ("torsion_kl_mean_raw", "torsion_kl_mean"),
        ("torsion_kl_phi_ALA2", "torsion_kl_<torsion>"),
        ("reference_population_ALA2_-142_-68", "population_<residue>_<basin>"),
        ("reference_frames", "reference_frames"),
        ("median_energy_raw", "median_energy"),
        ("temperature_450_ess", "temperature_<K>_ess"),
        ("temperature_450_5_log_z_change_by_energies", "temperature_<K>_log_z_change_by_energies"),
        ("evaluations_md", "evaluations_<purpose>"),
    ],
)
def test_names_find_their_entry(name: str, entry: str) -> None:
    assert find(name).name == entry


def test_names_that_are_none_have_no_entry() -> None:
    assert find("ess_of_something") is None and find("raw") is None
