"""What is said of several temperatures, and the rows of their table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from molsampler.analysis.report.metric_names import find
from molsampler.analysis.report.temperatures_text import (
    judge_temperatures,
    limit,
    temperature_metrics,
    temperature_section,
)
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.analysis.statistics.thermodynamics import Thermodynamics, consistencies
from tests import oscillators


def said(rows: list[Thermodynamics]) -> tuple[list[str], bool]:
    """The sentences, and whether any of them calls for care."""
    sentences, levels = [], []
    judge_temperatures(lambda s, level="good": (sentences.append(s), levels.append(level)), rows)
    assert set(levels) <= {"good", "care"}
    return sentences, "care" in levels


def test_every_figure_of_every_temperature_has_its_name() -> None:
    rows = oscillators.rows()
    metrics = temperature_metrics(rows)
    assert [name for name in metrics if find(name) is None] == []
    assert len(metrics) == 4 * 7 + 3 * 3
    assert metrics["temperature_350_ess"] == rows[1].ess and metrics["temperature_350_samples"] == 1000
    assert metrics["temperature_410_entropy_change"] == rows[2].entropy_change(rows[0])
    assert metrics["temperature_480_log_z_change"] == consistencies(rows)[2].by_weights
    assert metrics["temperature_300_entropy_change"] == (0.0, 0.0) and "temperature_300_log_z_change" not in metrics
    assert "temperature_300_5_ess" in temperature_metrics([replace(rows[0], temperature=300.5)])


def test_healthy_temperatures_are_not_flagged() -> None:
    """100 sets of four at a false alarm of 1 % together: more than six in 1 of 12,000 series; the seeds are fixed."""
    assert sum(said(oscillators.rows(seed, 500))[1] for seed in range(100)) <= 6
    sentences, care = said(oscillators.rows())
    assert not care and len(sentences) == 2
    assert "4 temperatures from 300\u00a0K to 480\u00a0K" in sentences[0]
    assert sentences[1] == "How log Z changes from one temperature to the next agrees with the mean energies."


def test_what_does_not_fit_is_named() -> None:
    rows = oscillators.rows()
    rows[3] = oscillators.wrong(rows[3], -1.0)
    sentences, care = said(rows)
    assert care and len(sentences) == 2
    pair = consistencies(rows)[2]
    assert sentences[1].startswith("From 410 to 480\u00a0K log Z changes by") and f"{pair.z:.1f}"[1:] in sentences[1]


def test_a_temperature_with_few_effective_samples_is_named() -> None:
    rows = oscillators.rows()
    rows[0] = replace(rows[0], ess=Estimate(0.03, 0.01))
    sentences, care = said(rows)
    assert care and sentences[1].startswith("At 300\u00a0K it is low")


def test_one_temperature_and_one_without_samples() -> None:
    rows = oscillators.rows()
    assert said(rows[:1]) == ([], False)
    rows[1] = Thermodynamics.of(350.0, np.full(5, -np.inf), np.zeros(5))
    sentences, care = said(rows)
    assert (
        care and "At 350\u00a0K it is low" in sentences[1] and "in 1 of 3 steps; in the others too few" in sentences[-1]
    )
    cells, _ = temperature_section(rows, None).rows[1]
    assert cells[:3] == ["350", "5", "0\u00a0%"] and cells[3:] == ["–"] * 7


def test_rows_have_all_figures_and_only_wrong_ones_are_marked() -> None:
    rows = oscillators.rows()
    rows[3] = oscillators.wrong(rows[3], 1.0)
    section = temperature_section(rows, None)
    assert [marked for _, marked in section.rows] == [False, False, False, True]
    assert {len(cells) for cells, _ in section.rows} == {10} and section.first == "300\u00a0K"
    assert section.rows[0][0][6:] == [""] * 4
    assert section.limit == limit(3) == pytest.approx(2.935, abs=0.001)
    assert [cells[0] for cells, _ in section.rows] == ["300", "350", "410", "480"]
