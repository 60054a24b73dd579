"""The pictures of a run. Each `draw_*` takes arrays and a path, and writes one PNG there, whole or not at all.

An ensemble is drawn in one colour everywhere: raw samples grey, reweighted samples blue, the reference orange.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from molsampler.analysis.divergences import torsion_histogram
from molsampler.analysis.energies import energy_edges, energy_histogram
from molsampler.analysis.ramachandran import Basins, free_energy
from molsampler.files import atomic_path

COLOURS = {"raw": "#8c8c8c", "reweighted": "#1f6fb4", "reference": "#d9730d"}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
_HALO = [patheffects.withStroke(linewidth=2.5, foreground="white")]
_DEGREES = np.arange(-180, 181, 90)


class Ensemble(NamedTuple):
    """One ensemble in a picture: its kind ("raw", "reweighted" or "reference"), values (n, ...), weights (n,) or
    None.
    """

    kind: str
    values: np.ndarray
    weights: np.ndarray | None = None


def basin_text(name: str) -> str:
    """A basin's name with its Greek letter and subscript, for matplotlib."""
    pretty = {"C7eq": "C7$_{eq}$", "C7ax": "C7$_{ax}$", "PII": "P$_{II}$", "alphaR": "α$_R$", "alphaL": "α$_L$"}
    return pretty.get(name, name)


def draw_ramachandran(
    ensembles: list[Ensemble],
    basins: Basins | None,
    temperature: float,
    path: str | Path,
    residue: str = "",
    grid: int | None = None,
) -> None:
    """Free energy maps side by side on one colour scale; values are (n, 2) radians, phi and psi; temperature in K.

    Cells without a frame are blank. The scale ends where all but 1 % of the cells of every map do, rounded up to
    5 kJ/mol.
    """
    grid = grid or (60 if min(len(e.values) for e in ensembles) >= 4000 else 36)  # cells of 6 or 10 degrees
    surfaces = [free_energy(e.values, e.weights, temperature, grid) for e in ensembles]
    top = max(float(np.nanpercentile(surface, 99)) for surface in surfaces)
    scale = Normalize(0.0, float(np.clip(np.ceil(top / 5) * 5, 10, 40)))
    beyond = any(np.nanmax(surface) > scale.vmax for surface in surfaces)
    edges = np.linspace(-180, 180, grid + 1)
    with rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(3.7 * len(ensembles) + 1.1, 4.1), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12)
        axes = figure.subplots(1, len(ensembles), sharey=True, squeeze=False)[0]
        for axis, ensemble, surface in zip(axes, ensembles, surfaces, strict=True):
            mesh = axis.pcolormesh(edges, edges, surface.T, norm=scale, cmap="viridis", rasterized=True)
            axis.set(
                xlim=(-180, 180), ylim=(-180, 180), aspect="equal", xlabel=f"φ {residue} (degrees)".replace("  ", " ")
            )
            axis.set(xticks=_DEGREES, yticks=_DEGREES)
            axis.set_title(f"{ensemble.kind} ({len(ensemble.values):,} frames)".replace("raw", "raw samples"))
            axis.axvline(0, color="0.75", linewidth=0.6, zorder=0)
            axis.axhline(0, color="0.75", linewidth=0.6, zorder=0)
            if basins is not None:
                _label_basins(axis, basins)
        axes[0].set_ylabel(f"ψ {residue} (degrees)".replace("  ", " "))
        bar = figure.colorbar(
            mesh, ax=axes, fraction=0.05, pad=0.02, shrink=0.85, extend="max" if beyond else "neither"
        )
        bar.set_label(f"free energy at {temperature:g} K (kJ/mol)")
        save(figure, path)


def _label_basins(axis: Axes, basins: Basins) -> None:
    for name, (phi, psi) in zip(basins.names, np.rad2deg(basins.centres), strict=True):
        axis.plot(phi, psi, "+", color="black", markersize=6, path_effects=_HALO)
        text = name if name.startswith("(") else basin_text(name)
        left = phi > 120  # text beside the mark stays inside the map
        axis.annotate(
            text,
            (phi, psi),
            xytext=(-5 if left else 5, -3 if psi > 150 else 3),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top" if psi > 150 else "bottom",
            fontsize=10,
            path_effects=_HALO,
        )


def _greek(name: str) -> str:
    first, _, rest = name.partition(" ")
    return f"{ {'phi': 'φ', 'psi': 'ψ', 'omega': 'ω'}.get(first, first) } {rest}".strip()


def draw_torsions(ensembles: list[Ensemble], names: list[str], path: str | Path) -> None:
    """Marginal densities (per degree) of k torsions; values are (n, k) radians; one panel a torsion."""
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns + 0.4, 2.5 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in panels[len(names) :]:
            axis.set_axis_off()
        for k, (axis, name) in enumerate(zip(panels, names, strict=False)):
            for ensemble in ensembles:
                density = torsion_histogram(ensemble.values[:, k], ensemble.weights)
                _stairs(axis, density / (360 / len(density)), np.linspace(-180, 180, len(density) + 1), ensemble.kind)
            axis.set(xlim=(-180, 180), xticks=_DEGREES, title=_greek(name), xlabel="degrees")
            axis.set_ylim(bottom=0)
            if k % columns == 0:
                axis.set_ylabel("density (1/degree)")
        _legend_above(figure)
        save(figure, path)


def draw_energy(ensembles: list[Ensemble], path: str | Path) -> None:
    """Histograms of the potential energy by weight; values are (n,) kJ/mol and may hold infinities.

    The range is that of the ensembles whose weights are right (reweighted and reference); raw samples beyond it are
    counted in the legend.
    """
    trusted = [(e.values, e.weights) for e in ensembles if e.kind != "raw"] or [
        (e.values, e.weights) for e in ensembles
    ]
    edges = energy_edges(trusted)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axis = figure.subplots()
        for ensemble in ensembles:
            beyond = int((~((ensemble.values >= edges[0]) & (ensemble.values <= edges[-1]))).sum())
            note = f" ({beyond:,} beyond the axis)" if ensemble.kind == "raw" and beyond else ""
            _stairs(axis, energy_histogram(ensemble.values, ensemble.weights, edges), edges, ensemble.kind, note)
        axis.set(xlim=(edges[0], edges[-1]), xlabel="potential energy (kJ/mol)", ylabel="density (mol/kJ)")
        axis.set_ylim(bottom=0)
        _legend_above(figure)
        save(figure, path)


def draw_rmsd(to_input: list[Ensemble], to_minima: list[Ensemble], path: str | Path) -> None:
    """Histograms of RMSD to the input structure and, where given, to the nearest basin minimum; values are (n,) nm."""
    panels = [("RMSD to the input structure (nm)", to_input), ("RMSD to the nearest basin minimum (nm)", to_minima)]
    panels = [panel for panel in panels if panel[1]]
    with rc_context(STYLE):
        figure = Figure(figsize=(5.0 * len(panels), 3.8), layout="constrained")
        for axis, (label, ensembles) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            edges = np.linspace(0.0, 1.05 * max(e.values.max() for e in ensembles) or 1.0, 71)
            for ensemble in ensembles:
                _stairs(axis, energy_histogram(ensemble.values, ensemble.weights, edges), edges, ensemble.kind)
            axis.set(xlim=(0, edges[-1]), xlabel=label)
            axis.set_ylim(bottom=0)
        figure.axes[0].set_ylabel("density (1/nm)")
        _legend_above(figure)
        save(figure, path)


def _stairs(axis: Axes, density: np.ndarray, edges: np.ndarray, kind: str, note: str = "") -> None:
    label = {"raw": "raw samples", "reweighted": "reweighted samples"}.get(kind, kind) + note
    if kind == "raw":
        axis.stairs(density, edges, fill=True, color=COLOURS[kind], alpha=0.4, label=label)
    elif kind == "reference":
        axis.stairs(density, edges, color=COLOURS[kind], linewidth=2.6, alpha=0.75, label=label)
    else:
        axis.stairs(density, edges, color=COLOURS[kind], linewidth=1.4, label=label, zorder=3)


def _legend_above(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), columnspacing=1.2)


def save(figure: Figure, path: str | Path) -> None:
    """Writes a PNG at 150 dpi, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
