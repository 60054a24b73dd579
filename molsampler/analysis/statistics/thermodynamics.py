"""Averages at one temperature, and whether those of several belong to one molecule.

Everything follows from four numbers of the weighted samples, log Z, mean, variance and third central moment of the
potential energy, and their covariance by the delta method, for all four come from the same weights and rise and fall
together. Entropies and the check below are linear in the four.

The check: d log Z / d beta = -<U>, so that the change of log Z between two temperatures, which the mean weights give,
is also an integral of mean energies. A state that is missed at one of the temperatures moves its log Z, and not by as
much as its mean energy; one that is missed at both of them does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from molsampler.analysis.statistics.estimates import Estimate, ess_fraction
from molsampler.basis.log_weights import scaled
from molsampler.basis.units import GAS_CONSTANT, thermal_energy

FEWEST = 10.0  # effective samples; variances of fewer have errors that no expansion gives


@dataclass(frozen=True)
class Thermodynamics:
    """What weighted samples at one temperature say, without the kinetic energy's share.

    temperature : K;  samples : how many, those off the support counted;  ess : effective ones, as a fraction
    moments : (4,) log Z, mean (kJ/mol), variance and third central moment of the potential energy
    covariance : (4, 4) of their errors; NaN below FEWEST effective samples
    """

    temperature: float
    samples: int
    ess: Estimate
    moments: np.ndarray = field(compare=False)
    covariance: np.ndarray = field(compare=False, repr=False)

    @classmethod
    def of(cls, temperature: float, log_weights: np.ndarray, energies: np.ndarray) -> Thermodynamics:
        """Of independent samples.

        log_weights : (n,), -inf off the support; their mean weight estimates the integral of exp(-U / RT) over
            coordinates that are the same at every temperature
        energies : (n,) kJ/mol; those of weight zero may be anything
        Moments are NaN where all weights are zero, and those of the energy where one with a weight is not finite.
        """
        log_weights, energies = np.asarray(log_weights, np.float64), np.asarray(energies, np.float64)
        if not (np.isfinite(temperature) and temperature > 0):
            raise ValueError(f"the temperature is {temperature}; expected a positive number of kelvins")
        if log_weights.ndim != 1 or not len(log_weights) or energies.shape != log_weights.shape:
            raise ValueError(
                f"log-weights have shape {log_weights.shape} and energies {energies.shape}; expected (n,) both, with n "
                "of at least 1"
            )
        found = _moments(log_weights, energies)
        return cls(float(temperature), len(log_weights), ess_fraction(log_weights), *found)

    @property
    def beta(self) -> float:
        """mol/kJ"""
        return 1.0 / thermal_energy(self.temperature)

    @property
    def log_z(self) -> Estimate:
        """As `estimates.log_z_estimate`. It holds the logarithm of a unit of volume, which changes leave out."""
        return self._combined(1.0)

    @property
    def mean_energy(self) -> Estimate:
        """kJ/mol"""
        return self._combined(0.0, 1.0)

    @property
    def heat_capacity(self) -> Estimate:
        """d<U>/dT in kJ/mol/K: the variance of U over RT^2."""
        return self._combined(0.0, 0.0, GAS_CONSTANT * self.beta**2)

    @property
    def free_energy(self) -> Estimate:
        """-RT log Z in kJ/mol, with RT times the constant of log Z: between temperatures compare entropies instead."""
        return self._combined(-thermal_energy(self.temperature))

    @property
    def entropy(self) -> Estimate:
        """(<U> - A) / T in kJ/mol/K, up to a constant that is the same at all temperatures."""
        return self._combined(GAS_CONSTANT, 1.0 / self.temperature)

    def entropy_change(self, reference: Thermodynamics) -> Estimate:
        """From another temperature, whose samples are others, to this one, in kJ/mol/K."""
        if reference is self:
            return Estimate(0.0, 0.0)
        here, there = self.entropy, reference.entropy
        return Estimate(here.value - there.value, float(np.hypot(here.stderr, there.stderr)))

    def _combined(self, *factors: float) -> Estimate:
        value, variance = self.linear(np.array(factors))
        return Estimate(value, float(np.sqrt(variance)))

    def linear(self, factors: np.ndarray) -> tuple[float, float]:
        """The first moments times as many factors, summed, and the variance of that."""
        used = np.flatnonzero(factors)  # a NaN of a moment that has no part in the sum is none of the sum's
        factors = factors[used]
        variance = float(factors @ self.covariance[np.ix_(used, used)] @ factors)
        return float(factors @ self.moments[used]), max(variance, 0.0) if variance == variance else variance


def _moments(log_weights: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`moments` (4,) and `covariance` (4, 4) of `Thermodynamics`.

    Errors of one weight more like the largest are added, as `estimates.log_z_estimate` does and for its reason.
    """
    moments, covariance = np.full(4, np.nan), np.full((4, 4), np.nan)
    w = scaled(log_weights)
    n, total = len(w), w.sum()
    if total == 0.0:
        return moments, covariance
    moments[0] = np.log(total / n) + log_weights.max()
    share = w / total
    left = 1.0 - float(np.square(share).sum())
    energies = np.where(w > 0, energies, 0.0)
    if not np.isfinite(energies).all():
        energies = np.full(n, np.nan)
    mean = share @ energies
    moments[1] = mean
    if not left > 1e-12:  # one sample has all weight
        return moments, covariance
    c = np.where(w > 0, energies - mean, 0.0)
    square, cube = share @ c**2, share @ c**3
    moments[2:] = square / left, cube  # as ddof=1 does for equal weights
    if 1.0 / (1.0 - left) < FEWEST:
        return moments, covariance
    x = n * share
    direction = np.stack([np.ones(n), c, c**2 - square, c**3 - cube - 3 * square * c])  # (4, n), times a weight
    largest = (x.max() - 1) / n * direction[:, int(x.argmax())]
    covariance = np.cov(x * direction) / n + np.outer(largest, largest)
    return moments, covariance


class Consistency(NamedTuple):
    """The change of log Z from one temperature to another, in two ways.

    low, high : K;  by_weights : difference of log Z;  by_energies : minus the integral of <U> over beta
    gap : the first minus the second; its error knows that they come from the same samples, and what the rule of
        integration leaves out;  z : the gap in standard errors, None where none is known
    """

    low: float
    high: float
    by_weights: Estimate
    by_energies: Estimate
    gap: Estimate
    z: float | None


def consistency(a: Thermodynamics, b: Thermodynamics) -> Consistency:
    """From a to b, of independent samples.

    The integral is that of the quintic which has at both ends <U> and its derivatives by beta, -var U and the third
    central moment. How far the cubic that does without the latter is from it stands for what the quintic leaves out.
    """
    h = b.beta - a.beta
    weights = np.array([[-1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    quintic = np.array([[0.0, -h / 2, h**2 / 10, -(h**3) / 120], [0.0, -h / 2, -(h**2) / 10, -(h**3) / 120]])
    cubic = np.array([[0.0, -h / 2, h**2 / 12, 0.0], [0.0, -h / 2, -(h**2) / 12, 0.0]])

    def estimate(factors: np.ndarray, more: float = 0.0) -> Estimate:
        (left, left_variance), (right, right_variance) = a.linear(factors[0]), b.linear(factors[1])
        return Estimate(left + right, float(np.sqrt(left_variance + right_variance + more**2)))

    left_out = estimate(quintic - cubic).value
    gap = estimate(weights - quintic, left_out)
    z = gap.value / gap.stderr if np.isfinite(gap.value) and gap.stderr > 0 else None
    return Consistency(a.temperature, b.temperature, estimate(weights), estimate(quintic, left_out), gap, z)


def consistencies(rows: Sequence[Thermodynamics]) -> list[Consistency]:
    """Of each temperature with the next, in the order of `rows`."""
    return [consistency(a, b) for a, b in zip(rows, rows[1:], strict=False)]
