"""A policy for a range of temperatures, from the subject of an analysis to figures, verdict, section and picture."""

from __future__ import annotations

from dataclasses import replace

import pytest

from molsampler.analysis import steps
from molsampler.analysis.analyse import Subject, analyse
from molsampler.analysis.report.metric_names import find
from tests import oscillators
from tests.analysis.conftest import write_samples_of_a_simulation
from tests.pictures import assert_picture


def test_the_figures_and_the_section_are_there(analysed_run) -> None:
    run, metrics = analysed_run
    for name, truth in oscillators.closed_forms(480.0, 300.0, 12).items():
        entry = metrics[f"temperature_480_{name}"]
        assert abs(entry["value"] - truth) < 4.5 * entry["stderr"], name
    assert [name for name in metrics if find(name) is None] == []
    assert_picture(run / "temperatures.png")
    page = (run / "report.html").read_text()
    assert "agrees with the mean energies." in page
    assert page.index("<h2>Temperatures</h2>") < page.index('alt="Temperatures"') < page.index("are against 300")


def test_what_does_not_fit_is_told_and_without_temperatures_nothing_is(
    stored_reference, peptide, tmp_path, monkeypatch
) -> None:
    draw = steps._draw
    monkeypatch.setattr(steps, "_draw", lambda study, name, *rest: name[:4] == "temp" and draw(study, name, *rest))
    run = write_samples_of_a_simulation(tmp_path, stored_reference, 1000)
    rows = oscillators.rows()
    rows[2] = oscillators.wrong(rows[2], 1.0)
    subject = Subject("aldp", 300.0, peptide.positions, temperatures=rows)
    metrics = analyse(run, subject)
    page = (run / "report.html").read_text()
    assert metrics["temperature_410_log_z_change_z"]["value"] > 4
    assert 'class="verdict good"' not in page and "From 350 to 410\u00a0K log Z changes by" in page
    assert page.count('<tr class="off">') == 2 and (run / "temperatures.png").is_file()
    metrics = analyse(run, replace(subject, temperatures=None))
    assert not (run / "temperatures.png").exists() and not any(name.startswith("temperature_") for name in metrics)
    assert "<h2>Temperatures</h2>" not in (run / "report.html").read_text()


@pytest.mark.parametrize("rows", [None, []])
def test_a_verdict_needs_no_temperatures(rows, stored_reference, peptide, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(steps, "_draw", lambda *arguments: None)
    run = write_samples_of_a_simulation(tmp_path, stored_reference, 300)
    analyse(run, Subject("aldp", 300.0, peptide.positions, temperatures=rows))
    assert "mean energies" not in (run / "report.html").read_text()
