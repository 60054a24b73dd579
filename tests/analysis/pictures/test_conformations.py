"""The picture of conformations is taken apart again: which panel shows which atoms, bonds and colours."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from molsampler.analysis.observables.rmsd import heavy_atoms
from molsampler.analysis.pictures import conformations
from molsampler.analysis.pictures.conformations import ELEMENTS, Panel, draw_conformations

GREEN, BLUE = "#2f8f4e", "#1f6fb4"


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that are drawn, instead of files."""
    seen: list[Figure] = []
    monkeypatch.setattr(conformations, "save", lambda figure, path: seen.append(figure))
    return seen


def panels(peptide, n: int) -> list[Panel]:
    frames = peptide.frames(np.linspace(-2.0, 2.0, 2 * n)[:, None].repeat(2, 1))
    return [Panel(f"state {k}", frames[k], frames[k + 1 : k + 4], [BLUE, GREEN, BLUE], GREEN) for k in range(n)]


def test_a_panel_shows_its_atoms_and_the_bonds_of_the_others(peptide, figures):
    shown = panels(peptide, 5)
    draw_conformations(peptide.topology, shown, "")
    axes = [axis for axis in figures[0].axes if axis.get_title()]
    assert [axis.get_title() for axis in axes] == [panel.title for panel in shown]
    heavy = set(heavy_atoms(peptide.topology).tolist())
    bonds = [(a.index, b.index) for a, b in peptide.topology.bonds if {a.index, b.index} <= heavy]
    for axis, panel in zip(axes, shown, strict=True):
        balls = [line for line in axis.lines if line.get_marker() == "o"]
        found = np.array([np.ravel(line.get_data()) for line in balls])
        assert found == pytest.approx(panel.central[:, :2], abs=1e-6)
        (thin,) = (c for c in axis.collections if isinstance(c, LineCollection))
        expected = panel.others[:, bonds, :2].reshape(-1, 2, 2)
        assert np.array(thin.get_segments()) == pytest.approx(expected, abs=1e-6)
        assert [to_hex(c) for c in thin.get_colors()[:: len(bonds)]] == [BLUE, GREEN, BLUE]
        assert axis.get_aspect() == 1.0 and axis.get_xlim() == axes[0].get_xlim()
        low, high = np.array([axis.get_xlim(), axis.get_ylim()]).T
        assert (expected.min((0, 1)) > low).all() and (expected.max((0, 1)) < high).all()


def test_atoms_have_the_colours_of_elements_and_carbon_that_of_the_state(peptide, figures):
    (panel,) = panels(peptide, 1)
    flat = panel.central * [1.0, 1.0, 0.0]  # nothing lies behind another atom
    flat[0, 2] = 1.0  # but all behind the first one, which keeps its colour
    draw_conformations(peptide.topology, [panel._replace(central=flat)], "")
    balls = [line for line in figures[0].axes[0].lines if line.get_marker() == "o"]
    first = next(iter(peptide.topology.atoms)).element.symbol
    assert to_hex(balls[0].get_color()) == ELEMENTS.get(first, GREEN)
    colours = {}
    for ball, atom in zip(balls[1:], list(peptide.topology.atoms)[1:], strict=True):
        colours.setdefault(atom.element.symbol, set()).add(to_hex(ball.get_color()))
    assert {len(seen) for seen in colours.values()} == {1} and len({min(seen) for seen in colours.values()}) == 4


def test_what_is_in_front_is_drawn_later(peptide, figures):
    (panel,) = panels(peptide, 1)
    draw_conformations(peptide.topology, [panel], "")
    balls = [line for line in figures[0].axes[0].lines if line.get_marker() == "o"]
    assert np.argsort([ball.get_zorder() for ball in balls]).tolist() == np.argsort(panel.central[:, 2]).tolist()


def test_the_files_are_pictures_wide_and_narrow(peptide, tmp_path):
    shown = panels(peptide, 6)
    for narrow in (False, True):
        draw_conformations(peptide.topology, shown, tmp_path / f"{narrow}.png", narrow=narrow)
    wide, narrow = (imread(tmp_path / f"{narrow}.png") for narrow in (False, True))
    assert wide.shape[1] > 1000 > narrow.shape[1] and narrow.shape[0] > narrow.shape[1]  # 2 x 3 and 3 x 2
    assert wide[..., :3].std() > 0.02 and narrow[..., :3].std() > 0.02
