"""The training curves of a run, from the columns of metrics.csv."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molsampler.analysis.pictures.figures import NARROW, STYLE, save
from molsampler.basis.counter import PURPOSES

_LINES = ("#1f6fb4", "#d9730d", "#3a8f4d", "#8a56b0", "#b04a4a", "#6b6b6b", "#c2a11f", "#2aa0a8")


class Panel(NamedTuple):
    """One set of axes: which columns of metrics.csv, in which unit."""

    title: str
    columns: tuple[str, ...]
    factor: float = 1.0
    log: bool = False


PANELS = (
    Panel("loss", ("loss", "twist_loss", "denoising_loss"), log=True),
    Panel("ELBO and log Z", ("elbo", "log_z", "log_z_estimate", "log_z_running", "eubo")),
    Panel("effective sample size (%)", ("ess",), factor=100.0),
    Panel(
        "energy evaluations (millions)",
        ("energy_evaluations", *(f"evaluations_{word}" for word in PURPOSES)),
        factor=1e-6,
    ),
    Panel("tempering λ", ("replay_lambda", "smc_lambda")),
    Panel("resampling steps of a run of SMC", ("resampling_steps",)),
    Panel("distinct ancestors", ("distinct_ancestors",)),
)


def draw_training(columns: dict[str, np.ndarray], path: str | Path | BinaryIO, narrow: bool = False) -> None:
    """Training curves against wall time (minutes), or updates where there is no column "seconds".

    columns : metrics.csv by column, (rows,) float64 each, NaN where a cell is empty; columns that are missing or
    empty are skipped, and with nothing to draw the picture says so. ESS columns are fractions.
    """
    if np.isfinite(columns.get("seconds", np.array([]))).any():
        x, x_label = columns["seconds"] / 60.0, "training time (minutes)"
    else:
        x, x_label = columns.get("update", np.array([])), "update"
    drawn = [(panel, names) for panel in PANELS if (names := _present(panel, columns))]
    with rc_context(STYLE):
        if not drawn:
            figure = Figure(figsize=(5, 2), layout="constrained")
            figure.text(0.5, 0.5, "metrics.csv has no rows to draw", ha="center", va="center")
            save(figure, path)
            return
        across = 1 if narrow else min(len(drawn), 2)
        down = -(-len(drawn) // across)
        figure = Figure(figsize=(NARROW if narrow else 4.8 * across, 2.7 * down), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, (panel, names) in zip(axes, drawn, strict=False):
            _curves(axis, panel, names, columns, x)
            axis.set_xlabel(x_label)
        for axis in axes[len(drawn) :]:
            axis.set_axis_off()
        save(figure, path)


def _present(panel: Panel, columns: dict[str, np.ndarray]) -> list[str]:
    """The panel's columns that hold a number."""
    return [name for name in panel.columns if name in columns and np.isfinite(columns[name]).any()]


def _label(column: str) -> str:
    words = {"elbo": "ELBO", "eubo": "EUBO", "ess": "ESS", "smc": "SMC", "md": "MD", "z": "Z", "lambda": "λ"}
    return " ".join(words.get(word, word) for word in column.split("_"))


def _curves(axis: Axes, panel: Panel, names: list[str], columns: dict[str, np.ndarray], x: np.ndarray) -> None:
    values = [panel.factor * columns[name] for name in names]
    for name, value, colour in zip(names, values, _LINES * 3, strict=False):
        seen = np.isfinite(value) & np.isfinite(x)
        marker = "o" if seen.sum() < 40 else None
        axis.plot(x[seen], value[seen], color=colour, label=_label(name), linewidth=1.3, marker=marker, markersize=3)
    finite = np.concatenate([value[np.isfinite(value)] for value in values])
    if panel.log and (finite > 0).all():
        axis.set_yscale("log")
    elif panel.title.startswith("ELBO") and len(finite) > 8:
        # The first evaluations of an untrained policy lie far below all that follows: show the last three quarters.
        late = np.concatenate([value[len(value) // 4 :] for value in values])
        late = late[np.isfinite(late)]
        if len(late) and late.max() > late.min():
            margin = 0.08 * (late.max() - late.min())
            axis.set_ylim(late.min() - margin, late.max() + margin)
    else:
        axis.set_ylim(bottom=0)
    axis.set_title(panel.title)
    if len(names) > 1:
        axis.legend(fontsize=8)
