"""Populations of the basins of a Ramachandran map, or of a molecule's pieces, and their free energies, with errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from molsampler.analysis.observables.pieces import Pieces
from molsampler.analysis.observables.ramachandran import Basins, find_basins
from molsampler.analysis.statistics.bootstrap import Weighting
from molsampler.analysis.statistics.estimates import Estimate, independent_blocks
from molsampler.analysis.statistics.few import FEW, Counted, counted, ratio_interval, share_interval
from molsampler.analysis.statistics.multistate import jackknife_covariance
from molsampler.basis.units import thermal_energy

POSITIVE_PHI = "phi > 0"


@dataclass(frozen=True)
class ResidueBasins:
    """The basins of one residue's map in one ensemble, or the molecule's pieces.

    residue : its label, such as "ALA2"
    populations : fractions by basin name, and of "phi > 0"
    free_energies : kJ/mol by basin name, against the most populated basin
    spans, free_spans : one-sigma intervals of either, where effective counts are too few for an error that goes both
        ways alike; the error is then half of it
    """

    residue: str
    basins: Basins | Pieces
    populations: dict[str, Estimate]
    free_energies: dict[str, Estimate]
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    free_spans: dict[str, tuple[float, float]] = field(default_factory=dict)

    def span(self, name: str) -> tuple[float, float]:
        """The one-sigma interval of a population."""
        value, stderr = self.populations[name]
        return self.spans.get(name, (value - stderr, value + stderr))


def deviation(value: float, span: tuple[float, float], other: float, other_span: tuple[float, float]) -> float | None:
    """value - other in standard errors, each of them the part of its one-sigma interval on the side of the other;
    None where no error is known."""
    gap = value - other
    mine, theirs = (value - span[0], other_span[1] - other) if gap > 0 else (span[1] - value, other - other_span[0])
    error = math.hypot(mine, theirs)
    return gap / error if math.isfinite(error) and error > 0 else None


def indicators(basins: Basins | Pieces, angles: np.ndarray) -> np.ndarray:
    """(..., k + 1) bool: whether angles (..., 2), radians, lie in each of the k basins, and whether phi > 0; (..., k)
    for wells of one torsion, angles (..., 1), and for pieces, angles (..., T)."""
    flat = np.asarray(angles).reshape(-1, basins.dimension)
    label = basins.assign(flat)
    columns = [label == k for k in range(len(basins.names))]
    inside = np.stack([*columns, flat[:, 0] > 0] if basins.maps_phi else columns, -1)
    return inside.reshape(*np.shape(angles)[:-1], -1)


def state_names(basins: Basins | Pieces) -> tuple[str, ...]:
    """What the columns of `indicators` are."""
    return (*basins.names, POSITIVE_PHI) if basins.maps_phi else basins.names


def residue_basins(
    residue: str,
    basins: Basins | Pieces,
    means: np.ndarray,
    covariance: np.ndarray,
    temperature: float,
    against: str | None = None,
) -> ResidueBasins:
    """From means (k + 1,) of the indicators and their covariance (k + 1, k + 1); `against` names the basin of free
    energy zero, by default the most populated one."""
    errors = np.sqrt(np.diag(np.atleast_2d(covariance)))
    names, count = state_names(basins), len(basins.names)
    zero = int(np.argmax(means[:count])) if against is None else basins.names.index(against)
    return ResidueBasins(
        residue,
        basins,
        {name: Estimate(float(p), float(e)) for name, p, e in zip(names, means, errors, strict=True)},
        free_energies(basins.names, means[:count], np.atleast_2d(covariance)[:count, :count], temperature, zero),
    )


def free_energies(
    names: tuple[str, ...], populations: np.ndarray, covariance: np.ndarray, temperature: float, zero: int
) -> dict[str, Estimate]:
    """-RT ln(p / p_zero) in kJ/mol by basin, errors from the covariance (k, k) of populations (k,) by the delta method.

    A basin without a frame has free energy +inf and no error.
    """
    rt = thermal_energy(temperature)
    found = {}
    for k, name in enumerate(names):
        if populations[k] == 0 or populations[zero] == 0:
            found[name] = Estimate(float("inf"), float("nan"))
            continue
        gradient = np.zeros(len(names))
        gradient[k] += 1.0 / populations[k]
        gradient[zero] -= 1.0 / populations[zero]
        variance = max(float(gradient @ covariance @ gradient), 0.0)
        found[name] = Estimate(float(rt * np.log(populations[zero] / populations[k])), float(rt * np.sqrt(variance)))
    return found


def weighted_basins(
    residue: str,
    basins: Basins | Pieces,
    angles: np.ndarray,
    weighting: Weighting,
    temperature: float,
    against: str | None = None,
) -> ResidueBasins:
    """Of weighted samples at angles (n, d) radians; errors from their bootstrap, or where fewer than FEW effective
    samples lie in a state, or outside of it, from `few`."""
    flags = indicators(basins, angles)
    inside = flags.astype(np.float64)
    covariance = np.cov(weighting.replicates @ inside, rowvar=False)
    found = residue_basins(residue, basins, weighting.weights @ inside, covariance, temperature, against)
    weights, groups = weighting.weights, weighting.groups
    there = [counted(weights, column, groups, weighting.effective) for column in flags.T]
    for k, name in enumerate(state_names(basins)):
        rest = counted(weights, ~flags[:, k], groups, weighting.effective)
        if min(there[k].count, rest.count) < FEW:
            found.spans[name] = low, high = share_interval(there[k], rest)
            found.populations[name] = Estimate(found.populations[name].value, (high - low) / 2)
    zero = int(np.argmax((weights @ inside)[: len(basins.names)])) if against is None else basins.names.index(against)
    _few_free_energies(found, there, zero, temperature)
    return found


def _few_free_energies(found: ResidueBasins, there: list[Counted], zero: int, temperature: float) -> None:
    """Intervals of free energies, in place, where a state or the one of free energy zero has few counts."""
    rt = thermal_energy(temperature)
    for k, name in enumerate(found.basins.names):
        if k == zero or min(there[k].count, there[zero].count) >= FEW:
            continue
        low, high = ratio_interval(there[k], there[zero])
        with np.errstate(divide="ignore"):
            found.free_spans[name] = span = float(-rt * np.log(high)), float(-rt * np.log(low))
        value = found.free_energies[name].value
        if np.isfinite(value) and np.isfinite(span).all():
            found.free_energies[name] = Estimate(value, (span[1] - span[0]) / 2)


def counted_basins(
    residue: str, angles: np.ndarray, ladder: np.ndarray, temperature: float, basins: Basins | Pieces | None = None
) -> ResidueBasins:
    """Of equally weighted frames at angles (n, d) radians, correlated but for their `ladder` (n,) int; jackknife errors
    over the ladders, basins as the frames have them unless they are given."""
    basins = basins or find_basins(angles)
    inside = indicators(basins, angles).astype(np.float64)
    blocks = independent_blocks(ladder)
    sizes = np.bincount(blocks)
    sums = np.stack([np.bincount(blocks, weights=column) for column in inside.T], -1)  # (blocks, k + 1)
    means = inside.mean(0)
    covariance = np.full((len(means), len(means)), np.nan)
    if len(sizes) > 1:
        covariance = jackknife_covariance((sums.sum(0) - sums) / (sizes.sum() - sizes)[:, None])
    return residue_basins(residue, basins, means, covariance, temperature)
