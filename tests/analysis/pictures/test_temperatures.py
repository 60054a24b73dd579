"""The picture of several temperatures is taken apart again."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from molsampler.analysis.pictures import temperatures
from molsampler.analysis.pictures.temperatures import draw_temperatures
from molsampler.analysis.statistics.thermodynamics import Thermodynamics, consistencies
from tests import oscillators
from tests.pictures import assert_picture

KELVIN = (300.0, 360.0, 430.0)


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that are drawn, instead of files."""
    seen: list[Figure] = []
    monkeypatch.setattr(temperatures, "save", lambda figure, path: seen.append(figure))
    return seen


def rows() -> list[Thermodynamics]:
    rng = np.random.default_rng(0)
    return [oscillators.row(rng, t, 300, 6) for t in KELVIN]


def points_and_bars(axis) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2), and the ends (n, 2) of their vertical bars."""
    (container,) = axis.containers
    line, _, bars = container.lines
    return line.get_xydata(), np.array([segment[:, 1] for segment in bars[-1].get_segments()])


def test_panels_show_figures_with_their_errors(figures) -> None:
    shown = rows()
    draw_temperatures(shown, "")
    ess, energy, capacity, gap = figures[0].axes
    for axis, values in (
        (ess, [(100 * row.ess.value, 100 * row.ess.stderr) for row in shown]),
        (energy, [row.mean_energy for row in shown]),
        (capacity, [row.heat_capacity for row in shown]),
    ):
        (points, bars), (found, error) = points_and_bars(axis), np.array(values).T
        assert points == pytest.approx(np.stack([KELVIN, found], 1))
        assert bars == pytest.approx(np.stack([found - error, found + error], 1))
        assert axis.get_title() and axis.get_xlabel() == "temperature (K)"
    pairs = consistencies(shown)
    points, bars = points_and_bars(gap)
    assert points == pytest.approx(np.array([(330.0, pairs[0].gap.value), (395.0, pairs[1].gap.value)]))
    assert bars[:, 1] - bars[:, 0] == pytest.approx([2 * pair.gap.stderr for pair in pairs])
    assert gap.get_xlim() == ess.get_xlim() and ess.get_ylim()[0] == 0


def test_one_temperature_has_nothing_to_compare(figures) -> None:
    draw_temperatures(rows()[:1], "")
    assert [axis.axison for axis in figures[0].axes] == [True, True, True, False]


def test_the_files_are_pictures_wide_and_narrow(tmp_path) -> None:
    for narrow in (False, True):
        draw_temperatures(rows(), tmp_path / "a.png", narrow=narrow)
        assert_picture(tmp_path / "a.png", 600)


def test_what_is_not_known_is_left_out(tmp_path) -> None:
    alone = Thermodynamics.of(500.0, np.zeros(1), np.ones(1))
    nothing = Thermodynamics.of(600.0, np.full(3, -np.inf), np.ones(3))
    draw_temperatures([*rows(), alone, nothing], tmp_path / "a.png")
    assert_picture(tmp_path / "a.png")
