"""The Ramachandran maps of a run beside the reference, and their difference."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import BinaryIO, NamedTuple

import numpy as np
from matplotlib import colormaps, patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from molsampler.analysis.observables.ramachandran import Basins, free_energy
from molsampler.analysis.pictures.figures import NARROW, STYLE, Ensemble, save
from molsampler.analysis.statistics.cells import histogram
from molsampler.basis.units import thermal_energy

FEWEST = 5.0  # effective frames that a cell needs on both sides for a difference
_HALO = [patheffects.withStroke(linewidth=2.5, foreground="white")]
_DEGREES = np.arange(-180, 181, 90)


class Map(NamedTuple):
    """What is shown of one residue: ensembles of phi and psi, (n, 2) radians, and basins to mark."""

    residue: str
    ensembles: list[Ensemble]
    basins: Basins | None


class _Panel(NamedTuple):
    title: str
    surface: np.ndarray
    difference: bool
    map: Map


def basin_text(name: str) -> str:
    """A basin's name with its Greek letter and subscript, for matplotlib."""
    pretty = {"C7eq": "C7$_{eq}$", "C7ax": "C7$_{ax}$", "PII": "P$_{II}$", "alphaR": "α$_R$", "alphaL": "α$_L$"}
    return pretty.get(name, name)


def difference(first: Ensemble, second: Ensemble, temperature: float, grid: int) -> np.ndarray:
    """(grid, grid) kJ/mol: free energy of the first ensemble above that of the second, both of normalised densities.

    NaN where either has fewer than FEWEST effective frames in a cell.
    """
    surfaces = []
    for ensemble in (first, second):
        probability = histogram(ensemble.values, ensemble.weights, grid)
        weights = ensemble.weights
        frames = len(ensemble.values) if weights is None else 1.0 / np.square(weights).sum()
        free = free_energy(ensemble.values, weights, temperature, grid)
        lowest = -thermal_energy(temperature) * np.log(probability.max())
        surfaces.append(np.where(probability * frames >= FEWEST, free + lowest, np.nan))
    return surfaces[0] - surfaces[1]


def draw_ramachandran(maps: list[Map], temperature: float, path: str | Path | BinaryIO, narrow: bool = False) -> None:
    """Free energy maps at `temperature` (K) on one colour scale, one row a residue; where there is a reference, the
    difference to it as well.

    Cells without a frame are blank. The scale ends where all but 1 % of the cells of every map do, rounded up to
    5 kJ/mol.
    """
    grid = _grid(maps)
    panels = [panel for m in maps for panel in _panels(m, temperature, grid)]
    _draw_panels(panels, 1 if narrow else len(panels) // len(maps), temperature, path, narrow)


def draw_maps_compared(maps: list[Map], temperature: float, path: str | Path | BinaryIO, narrow: bool = False) -> None:
    """Free energy maps of ensembles side by side on one colour scale, two rows a residue: each ensemble's, and below it
    its difference to the first."""
    grid = _grid(maps)
    panels: list[_Panel | None] = []
    for m in maps:
        names = [f"{m.residue} {e.name} ({len(e.values):,})" for e in m.ensembles]
        free = [free_energy(e.values, e.weights, temperature, grid) for e in m.ensembles]
        panels += [_Panel(_wrapped(name), surface, False, m) for name, surface in zip(names, free, strict=True)]
        first = m.ensembles[0]
        gaps = [difference(e, first, temperature, grid // 2) for e in m.ensembles[1:]]
        titles = [_wrapped(f"{m.residue} {e.name} − {first.name}") for e in m.ensembles[1:]]
        panels += [None, *(_Panel(title, gap, True, m) for title, gap in zip(titles, gaps, strict=True))]
    if narrow:
        panels = [panel for panel in panels if panel is not None]
    _draw_panels(panels, 1 if narrow else len(maps[0].ensembles), temperature, path, narrow)


def _wrapped(title: str) -> str:
    return "\n".join(wrap(title, 34))


def _grid(maps: list[Map]) -> int:
    fewest = min(len(e.values) for m in maps for e in m.ensembles)
    return 60 if fewest >= 4000 else 36  # cells of 6 or 10 degrees


def _draw_panels(
    panels: list[_Panel | None], columns: int, temperature: float, path: str | Path | BinaryIO, narrow: bool
) -> None:
    """Panels row by row, None for an empty place, with their colour bars."""
    rows = len(panels) // columns
    there = [panel for panel in panels if panel is not None]
    surfaces = [panel.surface for panel in there if not panel.difference]
    top = max(float(np.nanpercentile(surface, 99)) for surface in surfaces)
    scale = Normalize(0.0, float(np.clip(np.ceil(top / 5) * 5, 10, 40)))
    gaps = Normalize(-4.0, 4.0)
    with rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        size = (NARROW, 4.0 * rows + 1.8) if narrow else (3.1 * columns + 0.6, 3.4 * rows + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(rect=(0.0, 0.015, 1.0, 0.985))  # room for the label of the lowest bar
        axes = figure.subplots(rows, columns, squeeze=False, sharex=not narrow, sharey=not narrow)
        for axis, panel in zip(axes.ravel(), panels, strict=True):
            if panel is None:
                axis.set_axis_off()
            else:
                _draw(axis, panel, gaps if panel.difference else scale)
        for k, row in enumerate(axes):
            at = next(j for j in range(columns) if panels[k * columns + j] is not None)
            row[at].set_ylabel("ψ (degrees)")
            row[at].tick_params(labelleft=True)
        for axis in axes.ravel() if narrow else axes[-1]:
            axis.set_xlabel("φ (degrees)")
        beyond = any(np.nanmax(surface) > scale.vmax for surface in surfaces)
        split = not any(panel is None for panel in panels)  # a column of differences has its own bar
        gaps = gaps if any(p.difference for p in there) else None
        _bars(figure, axes, scale, gaps, beyond, temperature, split)
        save(figure, path)


def _panels(m: Map, temperature: float, grid: int) -> list[_Panel]:
    """Raw, reweighted, reference, and the difference of the last two on cells of twice the size: those there are."""
    by_kind = {ensemble.kind: ensemble for ensemble in m.ensembles}
    panels = []
    best = by_kind.get("reweighted", by_kind["raw"])
    for kind in ("raw", "reweighted", "reference"):
        if kind in by_kind:
            ensemble = by_kind[kind]
            title = f"{m.residue} {kind}".replace("raw", "raw samples") + f" ({len(ensemble.values):,})"
            panels.append(_Panel(title, free_energy(ensemble.values, ensemble.weights, temperature, grid), False, m))
    if "reference" in by_kind:
        gap = difference(best, by_kind["reference"], temperature, grid // 2)
        panels.append(_Panel(f"{m.residue} {best.kind} − reference", gap, True, m))
    return panels


def _draw(axis: Axes, panel: _Panel, scale: Normalize) -> None:
    edges = np.linspace(-180, 180, len(panel.surface) + 1)
    axis.pcolormesh(edges, edges, panel.surface.T, norm=scale, cmap=_colours(panel.difference), rasterized=True)
    axis.set(xlim=(-180, 180), ylim=(-180, 180), aspect="equal", xticks=_DEGREES, yticks=_DEGREES)
    axis.set_title(panel.title, fontsize=10)
    axis.axvline(0, color="0.75", linewidth=0.6, zorder=0)
    axis.axhline(0, color="0.75", linewidth=0.6, zorder=0)
    if panel.map.basins is not None and not panel.difference:
        _label_basins(axis, panel.map.basins)


def _colours(difference: bool):
    return colormaps["RdBu_r" if difference else "viridis"]


def _bars(
    figure: Figure,
    axes: np.ndarray,
    scale: Normalize,
    gaps: Normalize | None,
    beyond: bool,
    temperature: float,
    split: bool,
) -> None:
    """Colour bars below all panels: of the free energy, and of the difference where there is one."""
    free = f"free energy at {temperature:g} K (kJ/mol)"
    parts = [(axes, scale, False, free, beyond)]
    if gaps is not None and (axes.shape[1] == 1 or not split):  # the first bar is the lowest
        parts.insert(0, (axes, gaps, True, "difference (kJ/mol)", True))
    elif gaps is not None:
        parts = [(axes[:, :-1], *parts[0][1:]), (axes[:, -1:], gaps, True, "difference (kJ/mol)", True)]
    for place, norm, is_difference, label, open_ended in parts:
        extend = ("both" if is_difference else "max") if open_ended else "neither"
        bar = figure.colorbar(
            ScalarMappable(norm, _colours(is_difference)),
            ax=place.ravel().tolist(),
            extend=extend,
            location="bottom",
            aspect=12 if place.size == 1 else 30,
            pad=0.02,
        )
        bar.set_label(label)


def _label_basins(axis: Axes, basins: Basins) -> None:
    for name, (phi, psi) in zip(basins.names, np.rad2deg(basins.centres), strict=True):
        axis.plot(phi, psi, "+", color="black", markersize=6, path_effects=_HALO)
        left = phi > 90  # text beside the mark stays inside the map
        axis.annotate(
            name if name.startswith("(") else basin_text(name),
            (phi, psi),
            xytext=(-5 if left else 5, -3 if psi > 150 else 3),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top" if psi > 150 else "bottom",
            fontsize=9,
            path_effects=_HALO,
        )
