"""The picture of a policy for a range of temperatures: figures over T, and log Z in two ways."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from molsampler.analysis.pictures.figures import COLOURS, NARROW, STYLE, save
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.analysis.statistics.thermodynamics import Consistency, Thermodynamics, consistencies


def draw_temperatures(rows: Sequence[Thermodynamics], path: str | Path | BinaryIO, narrow: bool = False) -> None:
    """Effective sample size, mean energy and heat capacity over temperature, of at least one row in order; of several,
    by how much the change of log Z between neighbours by weights exceeds the one by mean energies.

    Bars are one standard error, left out where it is not known; points that are not known are left out.
    """
    compared = consistencies(rows)
    with rc_context(STYLE):
        size, shape = ((NARROW, 10.4), (4, 1)) if narrow else ((9.6, 6.2), (2, 2))
        figure = Figure(figsize=size, layout="constrained")
        ess, energy, capacity, gap = figure.subplots(*shape).ravel()
        _over_temperature(ess, rows, [Estimate(*(100 * part for part in row.ess)) for row in rows])
        ess.set(title="effective sample size (%)")
        ess.set_ylim(bottom=0)
        _over_temperature(energy, rows, [row.mean_energy for row in rows])
        energy.set(title="mean potential energy (kJ/mol)")
        _over_temperature(capacity, rows, [row.heat_capacity for row in rows])
        capacity.set(title="configurational heat capacity (kJ/mol/K)")
        if compared:
            _gaps(gap, compared)
            gap.set_xlim(ess.get_xlim())
        else:
            gap.set_axis_off()
        save(figure, path)


def _over_temperature(axis: Axes, rows: Sequence[Thermodynamics], values: list[Estimate]) -> None:
    found, error = np.array(values).T
    axis.errorbar(
        [row.temperature for row in rows],
        found,
        np.where(np.isfinite(found), error, np.nan),
        color=COLOURS["reweighted"],
        linewidth=1.3,
        marker="o",
        markersize=4,
        capsize=3,
    )
    axis.set_xlabel("temperature (K)")


def _gaps(axis: Axes, compared: list[Consistency]) -> None:
    """Points between two temperatures; horizontal bars reach from one to the other."""
    low, high = np.array([[pair.low, pair.high] for pair in compared]).T
    found, error = np.array([pair.gap for pair in compared]).T
    axis.axhline(0.0, color="0.3", linestyle="--", linewidth=1.2)
    axis.errorbar(
        (low + high) / 2,
        found,
        error,
        abs(high - low) / 2,
        color=COLOURS["reweighted"],
        linestyle="none",
        linewidth=1.3,
        marker="o",
        markersize=4,
        capsize=3,
    )
    axis.yaxis.set_major_locator(MaxNLocator(6))
    axis.set(title="change of ln Z: by weights − by mean energies", xlabel="temperature (K)")
