"""Populations of the basins of a Ramachandran map, and their free energies, with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molsampler.analysis.observables.ramachandran import Basins, find_basins
from molsampler.analysis.statistics.bootstrap import Weighting
from molsampler.analysis.statistics.estimates import Estimate, independent_blocks
from molsampler.analysis.statistics.multistate import jackknife_covariance
from molsampler.basis.units import thermal_energy

POSITIVE_PHI = "phi > 0"


@dataclass(frozen=True)
class ResidueBasins:
    """The basins of one residue's map in one ensemble.

    residue : its label, such as "ALA2"
    populations : fractions by basin name, and of "phi > 0"
    free_energies : kJ/mol by basin name, against the most populated basin
    """

    residue: str
    basins: Basins
    populations: dict[str, Estimate]
    free_energies: dict[str, Estimate]


def indicators(basins: Basins, angles: np.ndarray) -> np.ndarray:
    """(..., k + 1) bool: whether angles (..., 2), radians, lie in each of the k basins, and whether phi > 0."""
    flat = np.asarray(angles).reshape(-1, 2)
    label = basins.assign(flat)
    inside = np.stack([*(label == k for k in range(len(basins.names))), flat[:, 0] > 0], -1)
    return inside.reshape(*np.shape(angles)[:-1], -1)


def residue_basins(
    residue: str,
    basins: Basins,
    means: np.ndarray,
    covariance: np.ndarray,
    temperature: float,
    against: str | None = None,
) -> ResidueBasins:
    """From means (k + 1,) of the indicators and their covariance (k + 1, k + 1); `against` names the basin of free
    energy zero, by default the most populated one."""
    errors = np.sqrt(np.diag(covariance))
    names = (*basins.names, POSITIVE_PHI)
    zero = int(np.argmax(means[:-1])) if against is None else basins.names.index(against)
    return ResidueBasins(
        residue,
        basins,
        {name: Estimate(float(p), float(e)) for name, p, e in zip(names, means, errors, strict=True)},
        free_energies(basins.names, means[:-1], covariance[:-1, :-1], temperature, zero),
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
    basins: Basins,
    angles: np.ndarray,
    weighting: Weighting,
    temperature: float,
    against: str | None = None,
) -> ResidueBasins:
    """Of weighted samples at angles (n, 2) radians; errors from their bootstrap."""
    inside = indicators(basins, angles).astype(np.float64)
    covariance = np.cov(weighting.replicates @ inside, rowvar=False)
    return residue_basins(residue, basins, weighting.weights @ inside, covariance, temperature, against)


def counted_basins(residue: str, angles: np.ndarray, ladder: np.ndarray, temperature: float) -> ResidueBasins:
    """Of equally weighted frames at angles (n, 2) radians, correlated but for their `ladder` (n,) int; jackknife errors
    over the ladders, basins as the frames have them."""
    basins = find_basins(angles)
    inside = indicators(basins, angles).astype(np.float64)
    blocks = independent_blocks(ladder)
    sizes = np.bincount(blocks)
    sums = np.stack([np.bincount(blocks, weights=column) for column in inside.T], -1)  # (blocks, k + 1)
    means = inside.mean(0)
    covariance = np.full((len(means), len(means)), np.nan)
    if len(sizes) > 1:
        covariance = jackknife_covariance((sums.sum(0) - sums) / (sizes.sum() - sizes)[:, None])
    return residue_basins(residue, basins, means, covariance, temperature)
