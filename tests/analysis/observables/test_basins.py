"""Populations and free energies of basins against the truth, and their errors against the spread of repetitions."""

from __future__ import annotations

import numpy as np
import pytest

from molsampler.analysis.observables.basins import (
    POSITIVE_PHI,
    counted_basins,
    free_energies,
    indicators,
    weighted_basins,
)
from molsampler.analysis.observables.ramachandran import find_basins
from molsampler.analysis.statistics.bootstrap import Weighting
from molsampler.basis.units import thermal_energy

RT = thermal_energy(300.0)
ORDER = ("C7eq", "C5", "alphaR", "alphaL")
TRUTH, PROPOSAL = np.array([0.6, 0.3, 0.09, 0.01]), np.full(4, 0.25)


def test_weighted_populations_and_free_energies_have_the_errors_of_repetitions(mixture) -> None:
    rng = np.random.default_rng(7)
    basins = find_basins(mixture(rng, 20_000, list(PROPOSAL))[0])
    repeats = []
    for _ in range(200):
        angles, mode = mixture(rng, 400, list(PROPOSAL))
        weights = (TRUTH / PROPOSAL)[mode]
        weighting = Weighting.of("", weights / weights.sum(), 400, rng, replicates=60)
        found = weighted_basins("ALA2", basins, angles, weighting, 300.0, "C7eq")
        repeats.append([found.populations[name] for name in ORDER] + [found.free_energies[name] for name in ORDER])
    array = np.array(repeats)  # (200, 8, 2)
    expected = np.concatenate([TRUTH, -RT * np.log(TRUTH / TRUTH[0])])
    spread = array[:, :, 0].std(0)
    # 0.5 % of the frames lie beyond the border of their basin; that is what the second term allows for
    assert (
        np.abs(array[:, :, 0].mean(0) - expected) < 4.5 * spread / np.sqrt(200) + np.array([0.003] * 4 + [0.2] * 4)
    ).all()
    moving = [0, 1, 2, 3, 5, 6, 7]  # the free energy of C7eq is 0 by definition
    stated = np.sqrt(np.square(array[:, :, 1]).mean(0))
    assert (array[:, 4] == 0.0).all()
    assert np.abs(stated[moving] / spread[moving] - 1).max() < 0.25  # the spread is known to 5 %, each error to 9 %


def test_populations_sum_to_one_and_phi_is_counted_apart(mixture) -> None:
    angles, _ = mixture(np.random.default_rng(8), 3000, [0.4, 0.3, 0.2, 0.1])
    found = counted_basins("ALA2", angles, np.arange(3000) // 100, 300.0)
    assert sum(found.populations[name].value for name in ORDER) == pytest.approx(1.0)
    assert found.populations[POSITIVE_PHI].value == pytest.approx((angles[:, 0] > 0).mean())
    assert set(found.free_energies) == set(ORDER)
    assert indicators(found.basins, angles)[:, :-1].sum(1).tolist() == [1] * 3000


def test_errors_over_ladders_are_those_between_their_means(mixture) -> None:
    rng = np.random.default_rng(9)
    one, _ = mixture(rng, 400, [0.4, 0.3, 0.2, 0.1])
    angles, ladder = np.repeat(one, 25, 0), np.repeat(np.arange(400), 25)  # every frame 25 times
    found = counted_basins("ALA2", angles, ladder, 300.0)
    p = found.populations["C5"].value
    assert found.populations["C5"].stderr == pytest.approx(np.sqrt(p * (1 - p) / 399), rel=1e-6)
    q = found.populations["C7eq"].value
    # multinomial: var ln(p / q) = 1 / (400 p) + 1 / (400 q)
    assert found.free_energies["C5"].stderr == pytest.approx(RT * np.sqrt((1 / p + 1 / q) / 399), rel=1e-6)
    assert np.isnan(counted_basins("ALA2", angles[:1], ladder[:1], 300.0).populations[POSITIVE_PHI].stderr)


def test_a_basin_without_a_frame_has_no_free_energy() -> None:
    found = free_energies(("a", "b"), np.array([1.0, 0.0]), np.zeros((2, 2)), 300.0, 0)
    assert found["a"] == (0.0, 0.0) and found["b"].value == np.inf and np.isnan(found["b"].stderr)
