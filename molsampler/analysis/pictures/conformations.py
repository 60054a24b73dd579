"""The picture of conformations: each panel a state, its central frame as balls and sticks, the others as thin lines
behind it. It stands where no interactive view can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import mdtraj as md
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from molsampler.analysis.observables.rmsd import heavy_atoms
from molsampler.analysis.pictures.figures import NARROW, STYLE, save

ELEMENTS = {
    "H": "#b4bcc6",
    "N": "#2f55d4",
    "O": "#d42f2f",
    "S": "#c9a227",
    "P": "#e07b1a",
    "F": "#3aa655",
    "Cl": "#2e9e4f",
}
"""All others, carbon among them, have the colour of their state."""
_STICK, _BALL, _HYDROGEN = 0.026, 0.04, 0.026  # nm, width of a bond and radii
_INCHES = 2.6  # of a panel
_ACROSS = 4  # panels in a row


class Panel(NamedTuple):
    """One state: its title, its central frame (N, 3) nm, other frames (m, N, 3) nm with a colour each, its colour."""

    title: str
    central: np.ndarray
    others: np.ndarray
    colours: Sequence[str]
    colour: str


def draw_conformations(
    topology: md.Topology, panels: list[Panel], path: str | Path | BinaryIO, narrow: bool = False
) -> None:
    """Panels on one scale, seen along -z; frames are superposed already."""
    rows = -(-len(panels) // (2 if narrow else _ACROSS))
    columns = -(-len(panels) // rows)  # as even as they come: six panels in two rows of three
    low, high = _window(panels)
    across = NARROW / columns if narrow else _INCHES
    down = across * (high - low)[1] / (high - low)[0] + 0.3
    with rc_context(STYLE):
        figure = Figure(figsize=(across * columns, down * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, panel in zip(axes, panels, strict=False):
            axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
            axis.set_title(panel.title)
            points = 72 * across / (high - low)[0]  # a nanometre
            _draw_others(axis, topology, panel)
            _draw_central(axis, topology, panel, points)
        save(figure, path)


def _window(panels: list[Panel]) -> tuple[np.ndarray, np.ndarray]:
    """(2,) lower and upper corner, nm, of what all panels show."""
    shown = np.concatenate([np.concatenate([p.central[None], p.others]).reshape(-1, 3)[:, :2] for p in panels])
    return shown.min(0) - 0.06, shown.max(0) + 0.06


def _draw_others(axis: Axes, topology: md.Topology, panel: Panel) -> None:
    """Bonds between heavy atoms, half as strong as their colour."""
    heavy = set(heavy_atoms(topology).tolist())
    bonds = np.array([(a.index, b.index) for a, b in topology.bonds if {a.index, b.index} <= heavy], dtype=np.int64)
    if not len(bonds) or not len(panel.others):
        return
    segments = panel.others[:, bonds.reshape(-1, 2), :2].reshape(-1, 2, 2)
    axis.add_collection(
        LineCollection(segments, colors=np.repeat(panel.colours, len(bonds)), linewidths=0.7, alpha=0.4)
    )


def _draw_central(axis: Axes, topology: md.Topology, panel: Panel, points: float) -> None:
    """Balls and sticks from the back to the front, with white rims, paler the farther back; `points` are a nm."""
    atoms = list(topology.atoms)
    x = panel.central
    depth = (x[:, 2] - x[:, 2].min()) / max(float(np.ptp(x[:, 2])), 1e-6)
    symbols = ["" if atom.element is None else atom.element.symbol for atom in atoms]
    colours = [_pale(ELEMENTS.get(s, panel.colour), 0.45 * (1 - d)) for s, d in zip(symbols, depth, strict=True)]
    for k, (here, colour) in enumerate(zip(x, colours, strict=True)):
        radius = _HYDROGEN if symbols[k] == "H" else _BALL
        size = 2 * radius * points
        axis.plot(
            *here[:2],
            "o",
            markersize=size,
            color=colour,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=3 + here[2],
        )
    for a, b in topology.bonds:
        ends, middle = x[[a.index, b.index]], x[[a.index, b.index]].mean(0)
        order = 3 + float(ends[:, 2].min()) - 0.001  # behind the nearer of its balls, before all that is farther back
        axis.plot(*ends[:, :2].T, color="white", linewidth=_STICK * points + 1.2, zorder=order - 0.0005)
        for end, atom in zip(ends, (a, b), strict=True):
            half = np.stack([end, middle])[:, :2].T
            axis.plot(*half, color=colours[atom.index], linewidth=_STICK * points, solid_capstyle="butt", zorder=order)


def _pale(colour: str, share: float) -> tuple[float, float, float]:
    """A colour with a share of white."""
    return tuple((1 - share) * c + share for c in to_rgb(colour))
