"""The code of docs/ANALYSIS.md runs as it stands, and its numbers are right."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "ANALYSIS.md"


def test_the_page_runs_and_agrees_with_the_report(analysed_run, stored_reference, monkeypatch, capsys) -> None:
    run, metrics = analysed_run
    monkeypatch.chdir(run.path.parents[1])
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    space: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), space)
    assert space["ess"] == pytest.approx(metrics["effective_samples"]["value"])
    mean, error = space["average"](space["energy"])
    assert mean == pytest.approx(metrics["mean_energy"]["value"])
    exact = np.sqrt(np.square(space["w"] * (space["energy"] - mean)).sum())  # the delta method
    assert error == pytest.approx(exact, rel=0.25)  # of 200 bootstrap samples: known to 5 %
    assert mean == pytest.approx(stored_reference.potential_energy.mean(), abs=4.5 * error + 0.5)
    assert 5.0 < space["average"](space["coupling"][:, 0])[0] < 10.0  # Hz, of an extended residue
    assert space["population"] == pytest.approx(metrics["population_ALA2_phi_positive"]["value"])
    assert (Path("my_ramachandran.png")).stat().st_size > 5000
    assert np.isfinite(space["free_energy"]).sum() > 100
    said = capsys.readouterr().out
    for words in ("independent ones", "3J(HN, HA)", "population_ALA2_C5", "equally weighted frames", "kJ/mol"):
        assert words in said
