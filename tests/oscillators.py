"""Harmonic oscillators at any temperature, sampled by a normal of another width: every figure has a closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from molsampler.analysis.statistics.thermodynamics import Thermodynamics
from molsampler.basis.units import GAS_CONSTANT, thermal_energy

STIFFNESS = 1000.0  # kJ/mol/nm^2


def draws(
    rng: np.random.Generator, temperature: float, n: int, d: int, width: float = 1.2, outside: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Log-weights (n,) and energies (n,) kJ/mol of d oscillators, drawn with `width` times the right standard
    deviation; a share `outside` of the samples is off the support, with energies that are none."""
    rt = thermal_energy(temperature)
    sigma = width * np.sqrt(rt / STIFFNESS)
    square = (sigma * rng.normal(size=(n, d))) ** 2
    energies = 0.5 * STIFFNESS * square.sum(1)
    log_weights = -energies / rt + 0.5 * (square / sigma**2).sum(1) + d * np.log(sigma * np.sqrt(2 * np.pi))
    lost = rng.random(n) < outside
    return np.where(lost, -np.inf, log_weights), np.where(lost, np.nan, energies)


def row(rng: np.random.Generator, temperature: float, n: int, d: int, width: float = 1.2) -> Thermodynamics:
    return Thermodynamics.of(temperature, *draws(rng, temperature, n, d, width))


def rows(seed: int = 0, n: int = 1000, d: int = 12) -> list[Thermodynamics]:
    """At four temperatures, healthy ones."""
    rng = np.random.default_rng(seed)
    return [row(rng, temperature, n, d) for temperature in (300.0, 350.0, 410.0, 480.0)]


def wrong(row: Thermodynamics, log_z: float) -> Thermodynamics:
    """The same with as much too large a log Z."""
    return replace(row, moments=row.moments + [log_z, 0.0, 0.0, 0.0])


def log_z(temperature: float, d: int) -> float:
    return d / 2 * np.log(2 * np.pi * thermal_energy(temperature) / STIFFNESS)


def closed_forms(temperature: float, reference: float, d: int) -> dict[str, float]:
    """By name of a property of `Thermodynamics`; the change of entropy against `reference` K."""
    return {
        "log_z": log_z(temperature, d),
        "mean_energy": d / 2 * thermal_energy(temperature),
        "heat_capacity": d / 2 * GAS_CONSTANT,
        "free_energy": -thermal_energy(temperature) * log_z(temperature, d),
        "entropy_change": d / 2 * GAS_CONSTANT * np.log(temperature / reference),
    }
