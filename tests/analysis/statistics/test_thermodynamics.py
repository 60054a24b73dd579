"""Figures of one temperature against the closed forms of oscillators, their errors against repeated estimates, and the
check of log Z against mean energies."""

from __future__ import annotations

import numpy as np
import pytest

from molsampler.analysis.statistics.estimates import Estimate, ess_fraction, log_z_estimate
from molsampler.analysis.statistics.thermodynamics import FEWEST, Thermodynamics, consistencies, consistency
from molsampler.basis.units import GAS_CONSTANT, thermal_energy
from tests import oscillators
from tests.stochastic import BOUND

ONE_SIGMA = 0.6827
REPEATS = 400
MARGIN = BOUND * np.sqrt(ONE_SIGMA * (1 - ONE_SIGMA) / REPEATS)
"""0.105, binomial: of all 12 coverages that differ, a right one is beyond it in 8e-5 of cases."""


def found(row: Thermodynamics, reference: Thermodynamics) -> dict[str, Estimate]:
    names = ("log_z", "mean_energy", "heat_capacity", "free_energy")
    return {name: getattr(row, name) for name in names} | {"entropy_change": row.entropy_change(reference)}


def test_oscillators_have_their_closed_forms() -> None:
    """Samples off the support, a tenth, lower Z by as much and nothing else."""
    rng = np.random.default_rng(1)
    cold, warm = (Thermodynamics.of(t, *oscillators.draws(rng, t, 40_000, 6, outside=0.1)) for t in (300.0, 450.0))
    truth = oscillators.closed_forms(450.0, 300.0, 6)
    truth["log_z"] += np.log(0.9)
    truth["free_energy"] -= thermal_energy(450.0) * np.log(0.9)
    for name, estimate in found(warm, cold).items():
        assert abs(estimate.value - truth[name]) < BOUND * estimate.stderr, name
        assert 0 < estimate.stderr < 0.03 * abs(truth[name]), name
    # of a normal of variance 1 by one of variance a: E[w]^2 / E[w^2] = sqrt(2 a - 1) / a, to the power of the dimension
    a = 1.2**2
    assert abs(warm.ess.value - 0.9 * (np.sqrt(2 * a - 1) / a) ** 6) < BOUND * warm.ess.stderr
    assert warm.samples == 40_000 and cold.entropy_change(cold) == (0.0, 0.0)
    assert warm.entropy.value == pytest.approx((warm.mean_energy.value - warm.free_energy.value) / 450.0)


@pytest.mark.parametrize(("n", "d", "width"), [(500, 6, 1.2), (300, 20, 1.15), (60, 6, 1.2)])
def test_errors_hold_the_truth_as_often_as_they_should(n: int, d: int, width: float) -> None:
    """373, 163 and 45 effective samples; within the binomial margin, and 0.04 of a heat capacity for its skewness."""
    rng = np.random.default_rng(2)
    truth = oscillators.closed_forms(400.0, 300.0, d)
    held = dict.fromkeys(truth, 0.0)
    for _ in range(REPEATS):
        cold, warm = (oscillators.row(rng, t, n, d, width) for t in (300.0, 400.0))
        for name, estimate in found(warm, cold).items():
            held[name] += (abs(estimate.value - truth[name]) < estimate.stderr) / REPEATS
    for name, share in held.items():
        assert abs(share - ONE_SIGMA) < MARGIN + 0.04 * (name == "heat_capacity"), held


def test_the_covariance_is_that_of_repeated_moments() -> None:
    """800 repeats know a standard deviation to 2.5 % and more, of skew estimates to 5, and a correlation to 0.035."""
    rng = np.random.default_rng(13)
    rows = [oscillators.row(rng, 300.0, 1000, 6, 1.1) for _ in range(800)]
    spread, stated = np.cov([row.moments for row in rows], rowvar=False), np.mean([row.covariance for row in rows], 0)
    assert np.sqrt(np.diag(stated) / np.diag(spread)) == pytest.approx(np.ones(4), abs=0.2)
    correlated = [c / np.sqrt(np.outer(np.diag(c), np.diag(c))) for c in (spread, stated)]
    assert correlated[1] == pytest.approx(correlated[0], abs=0.16)
    assert np.abs(correlated[0])[np.triu_indices(4, 1)].max() > 0.5  # which leaving them out would not be


def test_log_z_and_ess_are_those_of_all_other_figures() -> None:
    log_weights, energies = oscillators.draws(np.random.default_rng(3), 300.0, 400, 6)
    row = Thermodynamics.of(300.0, log_weights, energies)
    assert row.log_z == pytest.approx(log_z_estimate(log_weights), rel=1e-9)
    assert row.ess == ess_fraction(log_weights)
    equal = Thermodynamics.of(300.0, np.zeros(400), energies)
    assert equal.heat_capacity.value == pytest.approx(energies.var(ddof=1) / GAS_CONSTANT / 300.0**2)
    assert equal.mean_energy == pytest.approx((energies.mean(), energies.std(ddof=1) / 20.0))
    assert equal.log_z == pytest.approx((0.0, 0.0), abs=1e-12)


def test_a_constant_in_the_energy_moves_what_it_should() -> None:
    """-1e6 kJ/mol, with which a molecule's energy may come, costs no digits that matter."""
    log_weights, energies = oscillators.draws(np.random.default_rng(4), 300.0, 400, 6)
    shift, rt = -1e6, thermal_energy(300.0)
    a, b = (Thermodynamics.of(300.0, log_weights - e / rt, energies + e) for e in (0.0, shift))
    assert b.mean_energy.value - a.mean_energy.value == pytest.approx(shift)
    assert b.free_energy.value - a.free_energy.value == pytest.approx(shift)
    assert b.heat_capacity == pytest.approx(a.heat_capacity, rel=1e-6)
    assert b.entropy == pytest.approx(a.entropy, rel=1e-6)


def test_the_change_of_log_z_agrees_with_mean_energies() -> None:
    """All pairs of a range that is wide for one step: their z scatter as normal numbers do. The standard deviation of
    200 is known to 5 %, their mean to 0.07."""
    rng = np.random.default_rng(5)
    z = []
    for _ in range(100):
        pairs = consistencies([oscillators.row(rng, t, 500, 12) for t in (300.0, 380.0, 480.0)])
        assert [(pair.low, pair.high) for pair in pairs] == [(300.0, 380.0), (380.0, 480.0)]
        z += [pair.z for pair in pairs]
    assert 0.8 < np.std(z) < 1.2 and abs(np.mean(z)) < 0.28
    truth = oscillators.log_z(480.0, 12) - oscillators.log_z(380.0, 12)
    for way in (pairs[1].by_weights, pairs[1].by_energies):
        assert abs(way.value - truth) < BOUND * way.stderr
    back = consistency(*(oscillators.row(np.random.default_rng(6), t, 500, 12) for t in (380.0, 300.0)))
    assert abs(back.z) < BOUND and back.by_weights.value < 0 < pairs[0].by_weights.value


@pytest.mark.parametrize("error", [-0.5, 0.5])
def test_a_wrong_log_z_is_found_out(error: float) -> None:
    rng = np.random.default_rng(7)
    cold, warm = (oscillators.row(rng, t, 2000, 12) for t in (300.0, 350.0))
    right, spoilt = consistency(cold, warm), consistency(cold, oscillators.wrong(warm, error))
    assert abs(right.z) < BOUND < 6 < abs(spoilt.z) and spoilt.z * error > 0
    assert spoilt.by_energies == right.by_energies
    assert spoilt.gap.value == pytest.approx(spoilt.by_weights.value - spoilt.by_energies.value)


def test_weights_of_another_temperature_are_found_out() -> None:
    """As if the density had been taken at 350 K while the samples were said to be at 300."""
    rng = np.random.default_rng(8)
    cold = Thermodynamics.of(300.0, *oscillators.draws(rng, 350.0, 2000, 12))
    assert abs(consistency(cold, oscillators.row(rng, 400.0, 2000, 12)).z) > 6


def test_the_integral_is_right_where_samples_are_without_number() -> None:
    """Cumulants of d oscillators exactly, without errors: from 300 to 600 K in one step, what the rule leaves out is
    less than what it admits."""
    d = 60
    rows = []
    for t in (300.0, 600.0):
        rt = thermal_energy(t)
        moments = np.array([oscillators.log_z(t, d), d * rt / 2, d * rt**2 / 2, d * rt**3])
        rows.append(Thermodynamics(t, 1, Estimate(1.0, 0.0), moments, np.zeros((4, 4))))
    pair = consistency(*rows)
    assert pair.by_weights == pytest.approx((30 * np.log(2.0), 0.0))
    assert pair.by_energies.value == pytest.approx(30 * np.log(2.0), abs=0.02)  # a trapezium is off by 1.7
    assert abs(pair.gap.value) < pair.gap.stderr < 0.3 and abs(pair.z) < 1


def test_what_a_state_missed_at_one_temperature_does() -> None:
    """A second well as wide as the first and 2 kJ/mol above it, seen at 400 K and missed at 300: U is that of both."""
    rng = np.random.default_rng(9)
    wells = []
    for t in (300.0, 400.0):
        log_weights, energies = oscillators.draws(rng, t, 4000, 6)
        upper = rng.random(4000) < 0.5
        wells.append((t, log_weights + np.log(2) - 2.0 * upper / thermal_energy(t), energies + 2.0 * upper, upper))
    cold, warm = (Thermodynamics.of(t, log_w, u) for t, log_w, u, _ in wells)
    assert abs(consistency(cold, warm).z) < BOUND
    t, log_w, u, upper = wells[0]
    blind = Thermodynamics.of(t, log_w[~upper] - np.log(2), u[~upper])
    assert consistency(blind, warm).z > 6


@pytest.mark.filterwarnings("error")
def test_a_single_sample_has_values_and_no_errors() -> None:
    row = Thermodynamics.of(300.0, np.array([-3.0]), np.array([7.0]))
    assert row.log_z.value == -3.0 and row.mean_energy.value == 7.0
    assert np.isnan([row.log_z.stderr, row.mean_energy.stderr, *row.heat_capacity, row.entropy.stderr]).all()
    other = oscillators.row(np.random.default_rng(10), 350.0, 100, 1)
    pair = consistency(row, other)
    assert pair.z is None and pair.by_weights.value == pytest.approx(other.log_z.value + 3.0)


def test_few_effective_samples_have_no_errors() -> None:
    energies = np.random.default_rng(11).normal(size=1000)
    for equal, known in ((int(FEWEST) - 1, False), (int(FEWEST) + 1, True)):
        log_weights = np.where(np.arange(1000) < equal, 0.0, -60.0)
        row = Thermodynamics.of(300.0, log_weights, energies)
        assert row.mean_energy.value == pytest.approx(energies[:equal].mean())
        errors = [row.log_z.stderr, row.mean_energy.stderr, row.heat_capacity.stderr]
        assert np.isfinite(errors).all() if known else np.isnan(errors).all()


@pytest.mark.filterwarnings("error")
def test_nothing_on_the_support_is_said_by_nan() -> None:
    row = Thermodynamics.of(300.0, np.full(5, -np.inf), np.full(5, np.inf))
    assert row.ess.value == 0.0 and np.isnan([*row.log_z, *row.mean_energy, *row.heat_capacity]).all()
    assert consistency(row, row).z is None


def test_an_energy_that_is_none_spoils_energies_alone() -> None:
    log_weights, energies = oscillators.draws(np.random.default_rng(12), 300.0, 200, 3)
    energies[7] = np.inf
    row = Thermodynamics.of(300.0, log_weights, energies)
    assert row.log_z == pytest.approx(log_z_estimate(log_weights))
    assert np.isnan([*row.mean_energy, *row.heat_capacity, *row.entropy]).all()
    log_weights[7] = -np.inf
    assert np.isfinite(Thermodynamics.of(300.0, log_weights, energies).heat_capacity).all()


@pytest.mark.parametrize(
    ("temperature", "n", "m", "said"),
    [
        (0.0, 3, 3, "temperature is 0.0"),
        (np.nan, 3, 3, "temperature is nan"),
        (300.0, 3, 2, r"\(3,\) and energies \(2,\)"),
    ]
    + [(300.0, 0, 0, "at least 1")],
)
def test_what_has_no_meaning_is_refused(temperature: float, n: int, m: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Thermodynamics.of(temperature, np.zeros(n), np.zeros(m))
