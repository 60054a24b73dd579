"""The map of known densities, and basins of known mixtures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import i0

from molsampler.analysis.observables.ramachandran import (
    _climb,
    common_basins,
    common_wells,
    find_basins,
    free_energy,
    smoothed,
)
from molsampler.analysis.statistics.cells import histogram
from molsampler.basis.units import thermal_energy


def test_free_energy_of_a_von_mises_density() -> None:
    rng = np.random.default_rng(0)
    kappa, temperature, n = 2.0, 310.0, 400_000
    angles = np.stack([rng.vonmises(0.8, kappa, n), rng.uniform(-np.pi, np.pi, n)], -1)
    surface = free_energy(angles, None, temperature, grid=24)
    centre = (np.arange(24) + 0.5) * 2 * np.pi / 24 - np.pi
    truth = -thermal_energy(temperature) * kappa * np.cos(centre - 0.8)  # (24,), along phi, the same for every psi
    gap = surface - truth[:, None]
    gap -= gap.mean()
    assert np.nanmin(surface) == 0.0
    # cells hold at least 60 counts: 13 % and less of each, 0.33 kJ/mol; the curvature within a cell adds up to 0.1
    assert np.abs(gap).max() < 4.5 * 0.33
    assert np.abs(gap.mean(1)).max() < 0.25


def test_free_energy_by_weights_is_that_of_the_weighted_density() -> None:
    rng = np.random.default_rng(1)
    kappa, n = 1.0, 300_000
    angles = rng.uniform(-np.pi, np.pi, (n, 2))
    weights = np.exp(kappa * np.cos(angles[:, 1]))
    surface = free_energy(angles, weights / weights.sum(), 300.0, grid=12)
    middle = (np.arange(4800) + 0.5) * 2 * np.pi / 4800 - np.pi
    cell = (np.exp(kappa * np.cos(middle)) / (2 * np.pi * i0(kappa))).reshape(12, 400).sum(1)
    truth = -thermal_energy(300.0) * np.log(cell / cell.max())
    assert np.abs(surface.mean(0) - truth - (surface.mean(0) - truth).mean()).max() < 0.1


def test_cells_without_a_frame_are_nan_and_phi_is_the_first_axis() -> None:
    angles = np.deg2rad([[-179.0, 1.0], [-179.0, 1.0], [1.0, 179.0], [181.0, 361.0]])  # the last one wraps to the first
    surface = free_energy(angles, None, 300.0, grid=4)
    assert surface[0, 2] == 0.0
    assert surface[2, 3] == pytest.approx(thermal_energy(300.0) * np.log(3.0))
    assert np.isnan(surface).sum() == 14


def test_smoothing_is_periodic_and_keeps_the_sum() -> None:
    p = np.zeros((36, 36))
    p[0, 35] = 1.0
    q = smoothed(p, np.deg2rad(15.0))
    assert q.sum() == pytest.approx(1.0)
    assert (q > 0).all()
    assert np.allclose(np.roll(q, (3, -2), (0, 1)), smoothed(np.roll(p, (3, -2), (0, 1)), np.deg2rad(15.0)))
    assert q[1, 35] / q[0, 35] == pytest.approx(np.exp(-0.5 * (10 / 15) ** 2), rel=1e-6)
    assert q[35, 0] == pytest.approx(q[1, 34])


def test_basins_of_a_mixture_are_found_named_and_assigned(mixture) -> None:
    rng = np.random.default_rng(2)
    angles, mode = mixture(rng, 10_000, [0.5, 0.3, 0.19, 0.01])
    basins = find_basins(angles)
    assert set(basins.names) == {"C7eq", "C5", "alphaR", "alphaL"}
    order = [basins.names.index(name) for name in ("C7eq", "C5", "alphaR", "alphaL")]
    gap = (basins.centres[order] - mixture.modes + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(np.rad2deg(gap)).max() < 12.0
    assert (basins.assign(angles) == np.array(order)[mode]).mean() > 0.995
    assert basins.names[0] == "C7eq"  # by population


def test_a_basin_across_the_border_is_one(mixture) -> None:
    rng = np.random.default_rng(3)
    angles = (np.pi + 0.3 * rng.normal(size=(4000, 2)) + np.pi) % (2 * np.pi) - np.pi
    basins = find_basins(angles)
    assert len(basins.names) == 1


def test_shallow_saddles_and_handfuls_of_frames_make_no_basin() -> None:
    rng = np.random.default_rng(4)
    near = np.concatenate([rng.normal([-1.9, 0.0], 0.3, (20_000, 2)), rng.normal([-1.0, 0.0], 0.3, (20_000, 2))])
    few = rng.normal([1.5, 1.5], 0.05, (6, 2))
    angles = np.concatenate([near, few])
    assert len(find_basins(angles).names) == 1  # ln(peak / saddle) of the pair is about 0.2
    assert len(find_basins(angles, barrier=0.05).names) == 2
    assert len(find_basins(angles, min_frames=3).names) == 2


def test_three_peaks_that_meet_in_one_cell_become_one_basin() -> None:
    height = np.full((8, 8), -10.0) - 1e-4 * np.arange(64).reshape(8, 8)
    height[2, 2], height[2, 4], height[4, 3], height[3, 3] = 1.0, 2.0, 3.0, 0.9
    merged = _climb(height, np.ones((8, 8)), barrier=5.0, min_frames=0.0)
    assert len(np.unique(merged)) == 1 and merged[0, 0] == 4 * 8 + 3
    apart = _climb(height, np.ones((8, 8)), barrier=0.05, min_frames=0.0)
    assert sorted(np.unique(apart)) == [2 * 8 + 2, 2 * 8 + 4, 4 * 8 + 3]


def test_weights_decide_what_is_a_basin(mixture) -> None:
    rng = np.random.default_rng(5)
    angles, mode = mixture(rng, 8_000, [0.25, 0.25, 0.25, 0.25])
    weights = np.where(mode == 3, 1e-9, 1.0)
    names = find_basins(angles, weights / weights.sum()).names
    assert set(names) == {"C7eq", "C5", "alphaR"}


def test_peaks_far_from_the_textbook_are_named_by_their_place() -> None:
    rng = np.random.default_rng(6)
    basins = find_basins(np.deg2rad(rng.normal([120.0, -150.0], 15.0, (3000, 2))))
    phi, psi = (float(x) for x in basins.names[0].strip("()").split(","))
    assert abs(phi - 120) < 8 and abs(psi + 150) < 8


def test_histogram_wraps_and_sums_to_one() -> None:
    angles = np.array([[np.pi, -np.pi], [-np.pi, np.pi], [3 * np.pi, 0.0]])
    p = histogram(angles, None, 6)
    assert p.sum() == pytest.approx(1.0)
    assert p[0, 0] == pytest.approx(2 / 3) and p[0, 3] == pytest.approx(1 / 3)


def test_a_shallow_well_that_one_ensemble_misses_is_kept() -> None:
    """A rotor whose barriers are 0.7 RT, and the same without its well at 180 degrees: in the pool that well is no
    peak any more; the complete ensemble has it."""
    rng = np.random.default_rng(3)
    angles = rng.uniform(-np.pi, np.pi, 60_000)
    whole = angles[rng.random(60_000) < np.exp(-0.35 * (1.0 + np.cos(3.0 * angles)))][:, None]
    cut = whole[np.abs(whole[:, 0]) < 2.0 * np.pi / 3.0]
    weights = [np.full(len(a), 1.0 / len(a)) for a in (cut, whole)]
    assert len(common_basins([cut, whole], weights).names) == 2
    wells = common_wells([cut, whole], weights)
    assert len(wells.names) == 3 and np.abs(np.rad2deg(wells.centres)).max() > 170.0
    assert len(common_wells([cut], weights[:1]).names) == 2
