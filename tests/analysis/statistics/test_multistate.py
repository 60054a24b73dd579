"""MBAR against closed forms for harmonic ensembles and against pymbar.

Bounds are 4.5 standard errors: a false alarm once in 150,000 comparisons.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammainc, gammaincinv

from molsampler.analysis.statistics.multistate import coldest_means, coldest_weights, solve_mbar
from molsampler.basis.units import thermal_energy

DIMENSIONS = 12
TEMPERATURES = np.array([300.0, 400.0, 530.0])


def harmonic_energies(rng: np.random.Generator, shape: tuple[int, ...], temperature: float) -> np.ndarray:
    """Potential energies of DIMENSIONS harmonic degrees of freedom: gamma distributed."""
    return thermal_energy(temperature) * rng.gamma(DIMENSIONS / 2, size=shape)


def ensemble(seed: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    energies = np.concatenate([harmonic_energies(rng, (n,), t) for n, t in zip(counts, TEMPERATURES, strict=True)])
    return energies, energies[:, None] / thermal_energy(TEMPERATURES)


def test_free_energies_are_those_of_harmonic_oscillators_and_of_pymbar() -> None:
    counts = (20_000, 10_000, 5_000)
    _, reduced = ensemble(1, counts)
    free = solve_mbar(reduced, np.array(counts))
    exact = -0.5 * DIMENSIONS * np.log(TEMPERATURES / TEMPERATURES[0])  # f = -ln Z, Z ~ T^(d/2)
    pymbar = pytest.importorskip("pymbar")
    theirs = pymbar.MBAR(reduced.T, np.array(counts)).compute_free_energy_differences()
    assert np.allclose(free, theirs["Delta_f"][0], atol=1e-6)
    assert (np.abs(free - exact)[1:] < 4.5 * theirs["dDelta_f"][0][1:]).all()
    assert (theirs["dDelta_f"][0][1:] < 0.05).all()


def test_populations_are_those_of_pymbar() -> None:
    counts = np.array([800, 600, 400])
    energies, reduced = ensemble(5, tuple(counts))
    pymbar = pytest.importorskip("pymbar")
    inside = energies > 22.0  # kJ/mol: a tenth at 300 K
    found = coldest_weights(reduced, counts, solve_mbar(reduced, counts)) @ inside
    theirs = pymbar.MBAR(reduced.T, counts).compute_expectations(inside.astype(np.float64))
    assert found == pytest.approx(theirs["mu"][0], abs=1e-7) and 0.05 < found < 0.3


def test_weights_give_the_coldest_ensemble() -> None:
    counts = np.array([500, 20_000, 5_000])
    energies, reduced = ensemble(2, tuple(counts))
    weights = coldest_weights(reduced, counts, solve_mbar(reduced, counts))
    assert weights.sum() == pytest.approx(1.0)
    mean = weights @ energies
    error = np.sqrt(np.square(weights * (energies - mean)).sum())
    exact = 0.5 * DIMENSIONS * thermal_energy(TEMPERATURES[0])
    assert abs(mean - exact) < 4.5 * error and error < 0.01 * exact


def test_jackknife_error_is_the_spread_of_repetitions_and_beats_counting() -> None:
    """A tail of probability 0.002 at 300 K is common at 530 K. 60 repetitions of 16 ladders of 50 rounds."""
    threshold = thermal_energy(300.0) * gammaincinv(DIMENSIONS / 2, 0.998)
    exact = 1.0 - gammainc(DIMENSIONS / 2, threshold / thermal_energy(300.0))
    rng = np.random.default_rng(3)
    found = []
    for _ in range(60):
        energies = np.stack([harmonic_energies(rng, (50, 16), t) for t in TEMPERATURES], -1)
        inside = np.ones(energies.shape, dtype=bool)
        mean, covariance = coldest_means(energies[..., None] > threshold, energies, inside, TEMPERATURES)
        found.append((mean[0], np.sqrt(covariance[0, 0])))
    values, errors = np.array(found).T
    assert abs(values.mean() - exact) < 4.5 * values.std(ddof=1) / np.sqrt(60)
    spread = values.std(ddof=1)  # known to 1 / sqrt(2 * 59) = 9 %
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(spread, rel=0.42)
    assert spread < 0.4 * np.sqrt(exact / 800)  # 800 states were drawn at 300 K


def test_states_outside_the_support_count_nowhere() -> None:
    rng = np.random.default_rng(4)
    energies = np.stack([harmonic_energies(rng, (200, 4), t) for t in TEMPERATURES], -1)
    values = (energies > 20.0)[..., None]
    inside = np.ones(energies.shape, dtype=bool)
    inside[::2] = False
    spoilt, flags = energies.copy(), values.copy()
    spoilt[::2], flags[::2] = 1e6, True
    ours = coldest_means(flags, spoilt, inside, TEMPERATURES)
    plain = coldest_means(values[1::2], energies[1::2], inside[1::2], TEMPERATURES)
    assert all(np.allclose(a, b) for a, b in zip(ours, plain, strict=True))


def test_ensembles_that_do_not_overlap_and_single_ladders_are_refused() -> None:
    energies = np.array([1.0, 2.0, 3000.0, 3001.0])
    with pytest.raises((ArithmeticError, np.linalg.LinAlgError)):
        solve_mbar(energies[:, None] / thermal_energy(np.array([1.0, 1000.0])), np.array([2, 2]))
    with pytest.raises(ValueError, match="two independent ladders"):
        coldest_means(np.zeros((3, 1, 3, 1)), np.zeros((3, 1, 3)), np.ones((3, 1, 3), dtype=bool), TEMPERATURES)
