"""The pictures of synthetic targets: samples over the density, arms against each other, where SMC resampled.

Colours are those of `figures`: raw samples grey, reweighted samples blue, the truth orange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from molsampler.analysis.pictures.figures import COLOURS, STYLE, save
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import check_weights

MASSES = (0.5, 0.9, 0.99)
"""Shares of the density inside the contours; a histogram of samples is too rough for the last one."""
POINTS = 2000
_CELLS = 400  # a side, of an exact density; a mode of one hundredth of the picture's width is four cells wide
_LARGEST_DOT = 300.0  # points squared
_ARMS = ("#1f6fb4", "#d9730d", "#3a8f4d", "#8a56b0", "#b04a4a", "#6b6b6b", "#c2a11f", "#2aa0a8")
_DASHES = ("-", "--", ":", "-.")


class Mark(NamedTuple):
    """What a figure is held against: the truth, or a floor with its standard deviation."""

    label: str
    value: float
    std: float = 0.0


class ArmMetric(NamedTuple):
    """One panel of `draw_arms`: name among the metrics of an arm, label with its unit, logarithmic axis or not."""

    name: str
    label: str
    mark: Mark | None = None
    log: bool = False


def draw_samples(
    path: str | Path,
    samples: np.ndarray,
    weights: np.ndarray | None,
    truth: np.ndarray,
    *,
    limits: tuple[float, float],
    axes: tuple[int, int] = (0, 1),
    log_density: Callable[[np.ndarray], np.ndarray] | None = None,
    modes: np.ndarray | None = None,
    mode_radius: float | None = None,
    title: str = "",
) -> None:
    """Exact samples, the model's as they come and, with weights, reweighted, side by side in two coordinates.

    samples : (n, D); weights : (n,) normalised, or None; truth : (m, D), in the target's unit
    limits : the range of both axes; axes : the two coordinates
    log_density : (M, 2) -> (M,), unnormalised, of these two coordinates, where it is known: its contours hold 50, 90
        and 99 % of what lies inside the limits. Without it they are those of a smoothed histogram of `truth`, of which
        more than 2,000 points then help
    modes : (M, D) centres; one without a sample within `mode_radius` (in all D coordinates) is ringed
    Each panel shows at most 2,000 points; the area of a reweighted one is proportional to its weight.
    """
    grid, level = _levels(truth[:, list(axes)], limits, log_density)
    panels = [("exact samples", "reference", truth, None), ("raw samples", "raw", samples, None)]
    if weights is not None:
        panels.append(("reweighted samples", "reweighted", samples, check_weights(weights, len(samples))))
    with rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(3.9 * len(panels) + 0.4, 4.6 + 0.35 * bool(title)), layout="constrained")
        for axis, (name, kind, x, w) in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
        ):
            axis.contour(grid, grid, level[0].T, level[1], colors="0.3", linewidths=0.5, zorder=3)
            draw_dots(axis, x, w, COLOURS[kind], axes, (limits, limits), name)
            if modes is not None and mode_radius is not None and kind == "raw":
                _ring_missed(axis, x, modes, mode_radius, axes)
            axis.set(xlim=limits, ylim=limits, aspect="equal", xlabel=f"$x_{{{axes[0] + 1}}}$")
        figure.axes[0].set_ylabel(f"$x_{{{axes[1] + 1}}}$")
        shares = ", ".join(f"{100 * mass:g}" for mass in (MASSES if log_density is not None else MASSES[:2]))
        source = "the density" if log_density is not None else "the exact samples (smoothed)"
        figure.supxlabel(f"contours hold {shares} % of {source}", fontsize=9, color="0.3", y=0.0)
        if title:
            figure.suptitle(title, y=0.99)
        save(figure, path)


def _levels(
    truth: np.ndarray, limits: tuple[float, float], log_density: Callable[[np.ndarray], np.ndarray] | None
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Grid (g,) of both coordinates, density (g, g) there up to a factor, and its increasing contour levels."""
    if log_density is not None:
        grid = np.linspace(*limits, _CELLS)
        points = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
        log_p = np.asarray(log_density(points), dtype=np.float64).reshape(_CELLS, _CELLS)
        density, masses = np.exp(log_p - log_p.max()), MASSES
    else:
        cells = int(np.clip(3.0 * len(truth) ** (1 / 3), 30, 100))
        edges = np.linspace(*limits, cells + 1)
        grid = (edges[1:] + edges[:-1]) / 2
        density = gaussian_filter(np.histogram2d(*truth.T, bins=[edges, edges])[0], 1.0, mode="constant")
        masses = MASSES[:2]
    if not density.sum() > 0:
        raise InputError(f"no density and no exact sample lies within the limits {limits}; give wider ones")
    descending = np.sort(density.ravel())[::-1]
    inside = np.cumsum(descending) / descending.sum()
    return grid, (density, np.unique(descending[np.searchsorted(inside, masses)]))


def draw_dots(
    axis: Axes,
    x: np.ndarray,
    weights: np.ndarray | None,
    colour: str,
    axes: tuple[int, int],
    limits: Sequence[tuple[float, float]],
    name: str,
) -> None:
    """At most POINTS of x (n, D), evenly spaced in their order, and a title that says how many lie outside.

    axes : the two coordinates shown; limits : the range of each
    """
    shown = np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int)
    plane = x[shown][:, list(axes)]
    area = np.full(len(shown), 5.0)
    if weights is not None:
        share = weights[shown] / max(weights[shown].sum(), 1e-300)
        area = np.minimum(area * len(shown) * share, _LARGEST_DOT)
    axis.scatter(*plane.T, s=area, color=colour, alpha=0.6, linewidths=0, zorder=2, rasterized=True)
    low, high = np.transpose(limits)
    outside = int((~((plane >= low) & (plane <= high)).all(1)).sum())
    count = f"{len(shown):,} of {len(x):,}" if len(shown) < len(x) else f"{len(x):,}"
    size = ", area by weight" if weights is not None else ""
    beyond = f"; {outside:,} outside" if outside else ""
    axis.set_title(f"{name}\n({count}{size}{beyond})")


def _ring_missed(axis: Axes, x: np.ndarray, modes: np.ndarray, radius: float, axes: tuple[int, int]) -> None:
    missed = modes[cdist(modes, x).min(1) > radius][:, list(axes)]
    if len(missed):
        label = f"{len(missed)} of {len(modes)} modes without a sample"
        axis.scatter(*missed.T, s=90, facecolors="none", edgecolors="#b01030", linewidths=1.3, zorder=3, label=label)
        axis.legend(loc="upper right", fontsize=8, frameon=True, framealpha=0.9)


def draw_resampling(path: str | Path, rows: list[dict[str, str]], n_steps: int, chunk: int = 1) -> None:
    """Share of SMC runs that resampled at step n of N, against the update, and over the whole training beside it.

    rows : metrics.csv as text by column (`RunDirectory.read_metrics_rows`): "update", "smc_runs" and
        "smc_resampled_at", where "6:3 12:1" says that three runs since the row before resampled at step 6, one at 12
    n_steps : N; chunk : L, steps between two looks at the weights
    """
    updates, runs, counts = _resampling_counts(rows, n_steps, chunk)
    steps = np.arange(chunk, n_steps, chunk)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.9), layout="constrained")
        if not runs.sum() or not len(steps):
            what = "no run of SMC in metrics.csv" if len(steps) else "SMC never looks at its weights: one chunk"
            figure.text(0.5, 0.5, what, ha="center", va="center")
            save(figure, path)
            return
        map_axis, total_axis = figure.subplots(1, 2, sharey=True, width_ratios=[5, 1])
        share = np.full(counts.shape, np.nan)
        share[runs > 0] = 100 * counts[runs > 0] / runs[runs > 0, None]
        for start, end in zip(updates[:-1][runs == 0], updates[1:][runs == 0], strict=True):
            map_axis.axvspan(start, end, color="0.9", linewidth=0, zorder=0)
        edges = np.append(steps - chunk / 2, steps[-1] + chunk / 2)
        mesh = map_axis.pcolormesh(updates, edges, share.T, vmin=0, vmax=100, cmap="Blues", rasterized=True)
        gaps = " (grey: no run)" if (runs == 0).any() else ""
        map_axis.set(xlabel="update", ylabel="step n of the trajectory", ylim=(0, n_steps))
        map_axis.set_title(f"where SMC resampled{gaps}")
        total_axis.barh(steps, 100 * counts.sum(0) / runs.sum(), height=0.8 * chunk, color=COLOURS["reweighted"])
        total_axis.set(xlabel="all runs (%)", xlim=(0, None))
        bar = figure.colorbar(mesh, ax=total_axis, fraction=0.12, pad=0.05)
        bar.set_label("runs since the row before (%)")
        save(figure, path)


def _resampling_counts(
    rows: list[dict[str, str]], n_steps: int, chunk: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of the rows' intervals (R + 1,) in updates, SMC runs (R,) and resamplings (R, N/L - 1) in each."""
    n_inner = -(-n_steps // chunk) - 1
    updates, runs, counts = [0.0], [], []
    for row in rows:
        count = np.zeros(n_inner)
        for word in row.get("smc_resampled_at", "").split():
            step, times = (int(part) for part in word.split(":"))
            if step % chunk or not 0 < step < n_steps:
                raise InputError(
                    f"metrics.csv says that SMC resampled at step {step}, which is no multiple of {chunk} below "
                    f"{n_steps}; give the run's own numbers of steps"
                )
            count[step // chunk - 1] = times
        update = float(row["update"])
        if update <= updates[-1]:
            continue  # an evaluation before the first update
        updates.append(update)
        runs.append(float(row.get("smc_runs") or 0))
        counts.append(count)
    return np.array(updates), np.array(runs), np.array(counts).reshape(len(runs), n_inner)


def draw_arms(path: str | Path, arms: dict[str, dict[str, tuple[float, float]]], metrics: list[ArmMetric]) -> None:
    """Arms, one a line in the order given, by mean and standard deviation over seeds of each metric, one a panel.

    arms : name -> metric -> (mean, std); a std of NaN (one seed) draws no bar, a mean that is missing, NaN or off a
        logarithmic axis is told in words
    """
    y = np.arange(len(arms))
    with rc_context(STYLE):
        width = 0.09 * max(map(len, arms), default=0) + 2.5 * len(metrics)
        figure = Figure(figsize=(width, 1.4 + 0.27 * len(arms)), layout="constrained")
        for axis, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True):
            for row in y[::2]:
                axis.axhspan(row - 0.5, row + 0.5, color="0.955", linewidth=0, zorder=0)
            values = np.array([arm.get(metric.name, (np.nan, np.nan)) for arm in arms.values()], dtype=np.float64)
            _arm_dots(axis, metric, values.reshape(-1, 2), y)
            axis.set(ylim=(len(arms) - 0.5, -0.5), xlabel=metric.label)
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
        figure.axes[0].set_yticks(y, list(arms))
        save(figure, path)


def _arm_dots(axis: Axes, metric: ArmMetric, values: np.ndarray, y: np.ndarray) -> None:
    """Dots and bars of values (arms, 2), mean and std, at heights y; the mark as a line with a band."""
    mean, std = values.T
    drawn = np.isfinite(mean) & ((mean > 0) | (not metric.log))
    if metric.log and drawn.any():
        axis.set_xscale("log")
    mark = metric.mark
    if mark is not None and (mark.value > 0 or not metric.log):
        axis.axvline(
            mark.value, color=COLOURS["reference"], linewidth=1.2, zorder=1, label=f"{mark.label} {mark.value:.3g}"
        )
        if mark.std > 0:
            low = mark.value - mark.std
            low = max(low, 0.1 * mark.value) if metric.log else low
            axis.axvspan(low, mark.value + mark.std, color=COLOURS["reference"], alpha=0.2, linewidth=0, zorder=0.5)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, borderaxespad=0.1)
    bar = np.where(np.isfinite(std), std, 0.0)
    left = np.minimum(bar, 0.9 * mean) if metric.log else bar  # a bar that reaches 0 has no end on a logarithmic axis
    axis.errorbar(
        mean[drawn],
        y[drawn],
        xerr=np.stack([left, bar])[:, drawn],
        fmt="o",
        markersize=4.5,
        color=COLOURS["reweighted"],
        elinewidth=1.2,
        zorder=3,
    )
    if metric.log and drawn.any():
        low, high = axis.get_xlim()
        few = high < 100 * low
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=5))
        axis.xaxis.set_minor_formatter(NullFormatter())
        if few:
            axis.xaxis.set_major_formatter("{x:g}")
    for row, value in zip(y[~drawn], mean[~drawn], strict=True):
        text = "not measured" if np.isnan(value) else f"{value:.2g}".replace("inf", "∞")
        axis.text(
            0.5, row, text, transform=axis.get_yaxis_transform(), fontsize=7, color="0.5", ha="center", va="center"
        )


def draw_curves(
    path: str | Path,
    arms: dict[str, list[dict[str, np.ndarray]]],
    column: str,
    *,
    label: str | None = None,
    log: bool = False,
) -> None:
    """One column of metrics.csv over energy evaluations, a colour an arm: every seed thin, their median thick with a
    band from the lowest to the highest seed as far as all of them go.

    arms : name -> metrics.csv of each seed by column, (rows,) float64 (`RunDirectory.metrics_columns`)
    label : of the y axis
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        axis = figure.subplots()
        late = []
        for k, (name, seeds) in enumerate(arms.items()):
            style = {"color": _ARMS[k % len(_ARMS)], "linestyle": _DASHES[k // len(_ARMS) % len(_DASHES)]}
            curves = [_curve(columns, column, log) for columns in seeds]
            curves = [curve for curve in curves if len(curve[0])]
            _seed_curves(axis, name, curves, len(seeds), style)
            late += [value[3 * len(value) // 4 :] for _, value in curves]
        axis.set(xlabel="energy evaluations (millions)", ylabel=label or column.replace("_", " "))
        if log:
            axis.set_yscale("log")
        elif late:
            # the first evaluations of an untrained policy lie far below all that follows
            low, high = min(value.min() for value in late), max(value.max() for value in late)
            axis.set_ylim(low - 0.5 * (high - low or 1.0), high + 0.06 * (high - low or 1.0))
        several = any(len(seeds) > 1 for seeds in arms.values())
        title = "median and range of the seeds" if several else None
        figure.legend(loc="outside right upper", fontsize=9, title=title, title_fontsize=9, alignment="left")
        save(figure, path)


def _curve(columns: dict[str, np.ndarray], column: str, log: bool) -> tuple[np.ndarray, np.ndarray]:
    """Millions of energy evaluations and the column of one seed, where both are numbers (positive ones, if `log`)."""
    nothing = np.full(len(columns.get("update", ())), np.nan)
    at, value = 1e-6 * columns.get("energy_evaluations", nothing), columns.get(column, nothing)
    seen = np.isfinite(at) & np.isfinite(value) & ((value > 0) | (not log))
    return at[seen], value[seen]


def _seed_curves(
    axis: Axes, name: str, curves: list[tuple[np.ndarray, np.ndarray]], n_seeds: int, style: dict[str, str]
) -> None:
    """The curves of those of n_seeds that have values, their median where all of them go, and the band."""
    for at, value in curves:
        axis.plot(at, value, linewidth=0.6, alpha=0.5 if len(curves) > 1 else 0.0, **style)
    start, end = max((at[0] for at, _ in curves), default=1.0), min((at[-1] for at, _ in curves), default=0.0)
    inside = [at[(at >= start) & (at <= end)] for at, _ in curves]
    grid = np.unique(np.concatenate([[start, end], *inside])) if end >= start else np.array([])
    values = np.stack([np.interp(grid, at, value) for at, value in curves]) if curves else np.empty((1, 0))
    if len(curves) < n_seeds:
        count = f" ({len(curves)} of {n_seeds} seeds)"
    else:
        count = f" ({n_seeds} seeds)" if n_seeds > 1 else ""
    axis.plot(grid, np.median(values, 0), linewidth=1.8, label=name + count, **style)
    if len(curves) > 1:
        axis.fill_between(grid, values.min(0), values.max(0), color=style["color"], alpha=0.15, linewidth=0)
