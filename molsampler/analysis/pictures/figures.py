"""The pictures of a run. Each `draw_*` takes arrays and a path (or an open binary file), and writes one PNG there,
whole or not at all; `narrow` gives a picture of one column, for a telephone.

An ensemble is drawn in one colour everywhere: raw samples grey, reweighted samples blue, the reference orange.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molsampler.analysis.observables.energies import energy_edges, energy_histogram
from molsampler.analysis.statistics.cells import histogram
from molsampler.store.atomic import atomic_path

COLOURS = {"raw": "#8c8c8c", "reweighted": "#1f6fb4", "reference": "#d9730d"}
SIDE_BY_SIDE = ("#d9730d", "#1f6fb4", "#2f8f4e", "#8e44ad", "#b3392f", "#3a3f47", "#a08000", "#0f8f8f")
"""Of ensembles that are compared with each other, in their order."""
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
NARROW = 4.4  # inches, the width of a picture of one column
_TORSION_BINS = 72  # 5 degrees
_DEGREES = np.arange(-180, 181, 90)


class Ensemble(NamedTuple):
    """One ensemble in a picture: its kind ("raw", "reweighted", "reference" or, of several side by side, "compared"),
    values (n, ...), weights (n,) or None; of a compared one its name and colour too.
    """

    kind: str
    values: np.ndarray
    weights: np.ndarray | None = None
    name: str = ""
    colour: str = ""


def greek(name: str) -> str:
    first, _, rest = name.partition(" ")
    return f"{ {'phi': 'φ', 'psi': 'ψ', 'omega': 'ω'}.get(first, first) } {rest}".strip()


def draw_torsions(
    ensembles: list[Ensemble], names: list[str], path: str | Path | BinaryIO, narrow: bool = False
) -> None:
    """Marginal densities (per degree) of k torsions; values are (n, k) radians; one panel a torsion."""
    columns = 1 if narrow else min(len(names), 3)
    rows = -(-len(names) // columns)
    with rc_context(STYLE):
        width = NARROW if narrow else 3.6 * columns + 0.4
        figure = Figure(figsize=(width, 2.5 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in panels[len(names) :]:
            axis.set_axis_off()
        for k, (axis, name) in enumerate(zip(panels, names, strict=False)):
            for ensemble in ensembles:
                density = histogram(ensemble.values[:, [k]], ensemble.weights, _TORSION_BINS)
                _stairs(axis, density / (360 / len(density)), np.linspace(-180, 180, len(density) + 1), ensemble)
            axis.set(xlim=(-180, 180), xticks=_DEGREES, title=greek(name), xlabel="degrees")
            axis.set_ylim(bottom=0)
            if k % columns == 0:
                axis.set_ylabel("density (1/degree)")
        _legend_above(figure)
        save(figure, path)


def draw_energy(ensembles: list[Ensemble], path: str | Path | BinaryIO, narrow: bool = False) -> None:
    """Histograms of the potential energy by weight; values are (n,) kJ/mol and may hold infinities.

    The range is that of the ensembles whose weights are right (reweighted and reference); raw samples beyond it are
    counted in the legend.
    """
    trusted = [(e.values, e.weights) for e in ensembles if e.kind != "raw"] or [
        (e.values, e.weights) for e in ensembles
    ]
    edges = energy_edges(trusted)
    with rc_context(STYLE):
        figure = Figure(figsize=(NARROW, 3.8) if narrow else (7.2, 4.2), layout="constrained")
        axis = figure.subplots()
        for ensemble in ensembles:
            beyond = int((~((ensemble.values >= edges[0]) & (ensemble.values <= edges[-1]))).sum())
            note = f" ({beyond:,} beyond the axis)" if ensemble.kind == "raw" and beyond else ""
            _stairs(axis, energy_histogram(ensemble.values, ensemble.weights, edges), edges, ensemble, note)
        axis.set(xlim=(edges[0], edges[-1]), xlabel="potential energy (kJ/mol)", ylabel="density (mol/kJ)")
        axis.set_ylim(bottom=0)
        _legend_above(figure)
        save(figure, path)


def draw_rmsd(
    to_input: list[Ensemble], to_minima: list[Ensemble], path: str | Path | BinaryIO, narrow: bool = False
) -> None:
    """Histograms of RMSD to the input structure and, where given, to the nearest basin minimum; values are (n,) nm."""
    panels = [("RMSD to the input structure (nm)", to_input), ("RMSD to the nearest basin minimum (nm)", to_minima)]
    panels = [panel for panel in panels if panel[1]]
    with rc_context(STYLE):
        rows, columns = (len(panels), 1) if narrow else (1, len(panels))
        size = (NARROW, 3.0 * rows + 0.6) if narrow else (5.0 * columns, 3.8)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (label, ensembles) in zip(axes, panels, strict=True):
            edges = np.linspace(0.0, 1.05 * max(e.values.max() for e in ensembles) or 1.0, 71)
            for ensemble in ensembles:
                _stairs(axis, energy_histogram(ensemble.values, ensemble.weights, edges), edges, ensemble)
            axis.set(xlim=(0, edges[-1]), xlabel=label)
            axis.set_ylim(bottom=0)
            axis.set_ylabel("density (1/nm)")
        _legend_above(figure)
        save(figure, path)


def _stairs(axis: Axes, density: np.ndarray, edges: np.ndarray, ensemble: Ensemble, note: str = "") -> None:
    kind = ensemble.kind
    if kind == "compared":
        first = ensemble.colour == SIDE_BY_SIDE[0]  # below the others, and broad, so that both are seen
        style = {"linewidth": 2.6, "alpha": 0.75} if first else {"linewidth": 1.4, "zorder": 3}
        axis.stairs(density, edges, color=ensemble.colour, label=ensemble.name + note, **style)
        return
    label = {"raw": "raw samples", "reweighted": "reweighted samples"}.get(kind, kind) + note
    if kind == "raw":
        axis.stairs(density, edges, fill=True, color=COLOURS[kind], alpha=0.4, label=label)
    elif kind == "reference":
        axis.stairs(density, edges, color=COLOURS[kind], linewidth=2.6, alpha=0.75, label=label)
    else:
        axis.stairs(density, edges, color=COLOURS[kind], linewidth=1.4, label=label, zorder=3)


def draw_weights(log_weights: np.ndarray, path: str | Path | BinaryIO, narrow: bool = False) -> None:
    """Log-weights (n,), -inf for weight 0: how they scatter about the estimate of log Z, and how much of all weight the
    heaviest samples carry.

    In both panels perfect samples would show as the dashed line: all weights equal.
    """
    finite = np.sort(log_weights[np.isfinite(log_weights)])[::-1]
    weights = np.exp(finite - finite[0])
    share = np.cumsum(weights) / weights.sum()
    centre = finite[0] + np.log(weights.sum() / len(log_weights))
    gap = finite - centre
    low = max(float(np.quantile(gap, 0.001)), -30.0)  # a long left tail is of no weight
    with rc_context(STYLE):
        size, shape = ((NARROW, 6.4), (2, 1)) if narrow else ((10.0, 3.8), (1, 2))
        figure = Figure(figsize=size, layout="constrained")
        left, right = figure.subplots(*shape)
        left.hist(gap, bins=np.linspace(low, max(gap[0], low + 1e-6) + 0.05, 80), color=COLOURS["reweighted"])
        left.axvline(0.0, color="0.3", linestyle="--", linewidth=1.2)
        left.set_yscale("log")
        left.set(xlabel="ln w − ln Z (0: the weight of a perfect sample)", ylabel="samples")
        fraction = np.arange(1, len(finite) + 1) / len(log_weights)
        right.plot(fraction, share, color=COLOURS["reweighted"], linewidth=1.8)
        right.plot([0, 1], [0, 1], color="0.3", linestyle="--", linewidth=1.2)
        right.set(
            xlim=(0, 1), ylim=(0, 1.02), xlabel="heaviest samples (fraction of all)", ylabel="share of all weight"
        )
        save(figure, path)


def _legend_above(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = len(labels) if figure.get_figwidth() > 6 else 1
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.2)


def save(figure: Figure, path: str | Path | BinaryIO) -> None:
    """Writes a PNG at 150 dpi, whole or not at all."""
    if not isinstance(path, str | Path):
        figure.savefig(path, dpi=150, format="png")
        return
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
