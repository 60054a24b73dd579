"""The picture of samples of a density on R^D: two coordinates as points, and marginals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from molsampler.analysis.pictures.figures import COLOURS, STYLE, save
from molsampler.analysis.pictures.synthetic import draw_dots

MOST_MARGINALS = 9
_ACROSS = 3  # marginals in a row
_BINS = 40
_TAIL = 0.002  # of the weight, left out of the picture at either end


def draw_density_samples(path: str | Path, x: np.ndarray, weights: np.ndarray | None) -> None:
    """Raw and reweighted samples side by side in the first two coordinates, and the marginals of the first nine.

    x : (n, D), in the target's unit; weights : (n,) normalised, or None where no sample has weight
    """
    dim = x.shape[1]
    shown = min(dim, MOST_MARGINALS)
    rows = -(-shown // _ACROSS)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 1.9 * rows + 0.5 + (4.6 if dim > 1 else 0.0)), layout="constrained")
        above, below = (None, figure) if dim < 2 else figure.subfigures(2, 1, height_ratios=(4.6, 1.9 * rows + 0.5))
        if above is not None:
            _points(above, x, weights)
        axes = below.subplots(rows, min(shown, _ACROSS), squeeze=False).ravel()
        for k, axis in enumerate(axes):
            if k < shown:
                _marginal(axis, x[:, k], weights, f"$x_{{{k + 1}}}$")
            else:
                axis.set_axis_off()
        rest = f" (the first {shown} of {dim} coordinates)" if shown < dim else ""
        below.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, title=f"marginals{rest}"
        )
        save(figure, path)


def _marginal(axis: Axes, x: np.ndarray, weights: np.ndarray | None, name: str) -> None:
    """Histograms of one coordinate, of equal area."""
    edges = np.linspace(*_range(x, weights), _BINS + 1)
    if weights is not None:
        density, _ = np.histogram(x, edges, density=True, weights=weights)
        axis.stairs(density, edges, fill=True, color=COLOURS["reweighted"], alpha=0.5, label="reweighted")
    axis.stairs(np.histogram(x, edges, density=True)[0], edges, color=COLOURS["raw"], linewidth=1.2, label="raw")
    axis.set(xlabel=name, yticks=[], xlim=(edges[0], edges[-1]))
    axis.set_ylim(bottom=0.0)
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def _points(figure: Figure, x: np.ndarray, weights: np.ndarray | None) -> None:
    panels = [("raw samples", "raw", None)]
    if weights is not None:
        panels.append(("reweighted samples", "reweighted", weights))
    limits = [_range(x[:, k], weights) for k in (0, 1)]
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, kind, w) in zip(axes, panels, strict=True):
        draw_dots(axis, x, w, COLOURS[kind], (0, 1), limits, name)
        axis.set(xlim=limits[0], ylim=limits[1], xlabel="$x_1$")
    figure.axes[0].set_ylabel("$x_2$")


def _range(x: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """Where all but the tails of the raw and of the reweighted samples lie, with a margin."""
    order = np.argsort(x)
    ends = [np.quantile(x, (_TAIL, 1.0 - _TAIL))]
    if weights is not None:
        ends.append(np.interp((_TAIL, 1.0 - _TAIL), np.cumsum(weights[order]), x[order]))
    low, high = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
