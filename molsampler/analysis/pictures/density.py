"""The picture of samples of a density on R^D: two coordinates as points, and marginals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from molsampler.analysis.pictures.figures import COLOURS, STYLE, save
from molsampler.analysis.pictures.synthetic import draw_dots

MOST_MARGINALS = 9
_BINS = 60
_TAIL = 0.002  # of the weight, left out of the picture at either end


def draw_density_samples(path: str | Path, x: np.ndarray, weights: np.ndarray | None) -> None:
    """Raw and reweighted samples side by side in the first two coordinates, and the marginals of the first nine.

    x : (n, D), in the target's unit; weights : (n,) normalised, or None where no sample has weight
    """
    dim = x.shape[1]
    shown = min(dim, MOST_MARGINALS)
    rows = -(-shown // 3)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.3 * rows + (4.3 if dim > 1 else 0.3)), layout="constrained")
        above, below = (None, figure) if dim < 2 else figure.subfigures(2, 1, height_ratios=(4.0, 2.3 * rows))
        if above is not None:
            _points(above, x, weights)
        axes = below.subplots(rows, min(shown, 3), squeeze=False).ravel()
        for k, axis in enumerate(axes):
            if k >= shown:
                axis.set_axis_off()
                continue
            edges = np.linspace(*_range(x[:, k], weights), _BINS + 1)
            axis.hist(x[:, k], edges, density=True, histtype="step", color=COLOURS["raw"], label="raw")
            if weights is not None:
                axis.hist(
                    x[:, k],
                    edges,
                    density=True,
                    weights=weights,
                    color=COLOURS["reweighted"],
                    alpha=0.5,
                    label="reweighted",
                )
            axis.set(xlabel=f"$x_{{{k + 1}}}$", yticks=[])
        axes[0].legend(fontsize=8, frameon=False)
        save(figure, path)


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
