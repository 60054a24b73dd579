"""The standardisation nearest to a standard normal at fixed angles, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.whitening import geometric_mean, nearest_normal
from molsampler.targets.molecule import MoleculeTarget
from tests.molecules.coordinates import chart_cases
from tests.stochastic import seeded
from tests.targets.test_conformance import alanine_dipeptide

D, STATES = 4, 40_000


def positive(seed: int) -> torch.Tensor:
    a = torch.randn(D, 2 * D, generator=seeded(seed), dtype=torch.float64)
    return a @ a.T / (2 * D)


def states(covariances: torch.Tensor, n: int = STATES) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Line (n, D), angles (n, 2) and score of normals whose mean follows the angles; covariances (n or 1, D, D)."""
    generator = seeded(3)
    angles = (torch.rand(n, 2, generator=generator, dtype=torch.float64) * 2.0 - 1.0) * math.pi
    a, b = angles.unbind(1)
    mean = torch.stack([a.sin(), (3.0 * b).cos(), a.sin() * b.cos(), 0.5 + 0.0 * a], dim=1)
    noise = torch.randn(n, D, 1, generator=generator, dtype=torch.float64)
    deviation = (torch.linalg.cholesky(covariances) @ noise)[..., 0]
    score = -torch.linalg.solve(covariances.expand(n, D, D), deviation[..., None])[..., 0]
    zero = 0.0 * a
    by_a = torch.stack([a.cos(), zero, a.cos() * b.cos(), zero], dim=1)
    by_b = torch.stack([zero, -3.0 * (3.0 * b).sin(), -a.sin() * b.sin(), zero], dim=1)
    torque = -torch.stack([(by_a * score).sum(1), (by_b * score).sum(1)], dim=1)
    return mean + deviation, angles, torch.cat([score, torque], dim=1)


def test_geometric_mean_solves_its_equation():
    a, b = positive(0), positive(1)
    mean = geometric_mean(a, b)
    torch.testing.assert_close(mean @ torch.linalg.inv(a) @ mean, b)
    torch.testing.assert_close(mean, geometric_mean(b, a))
    torch.testing.assert_close(geometric_mean(a.diagonal().diag(), b.diagonal().diag()).diagonal(),
                               (a.diagonal() * b.diagonal()).sqrt())  # fmt: skip
    assert float(torch.linalg.eigvalsh(mean)[0]) > 0.0


def test_a_normal_whose_mean_follows_the_angles_gives_its_covariance():
    """Entries of a covariance from 40,000 states have standard errors of at most sqrt(2) / 200 of the spreads, those
    from scores the same; leaving out the worst per cent of the states shifts them by one more."""
    covariance = positive(0)
    mean, found, shear, information = nearest_normal(*states(covariance))
    spread = torch.linalg.inv(covariance).diagonal().sqrt()
    off = (information - torch.linalg.inv(covariance)) / (spread[:, None] * spread)
    assert float(off.abs().max()) < 0.07  # the worst per cent of the scores, left out, has some 4 % of their squares
    spread = covariance.diagonal().sqrt()
    relative = (found - covariance) / (spread[:, None] * spread)
    assert float(relative.abs().max()) < 0.045
    plain = torch.cov(states(covariance)[0].T)
    assert float(((plain - covariance) / (spread[:, None] * spread)).abs().max()) > 0.3  # what it would have been
    assert float((mean - torch.tensor([0.0, 0.0, 0.0, 0.5])).abs().max()) < 0.05
    assert float(shear.abs().max()) < 0.05  # the mean's motion round the circle averages out


def test_torsions_that_give_way_are_found():
    """Angles t = t' + A y of t' in a cosine's well and y normal, independent of t': A and the covariance of y."""
    covariance, generator = positive(0), seeded(1)
    shear = 0.3 * torch.randn(2, D, generator=generator, dtype=torch.float64)
    y = torch.randn(STATES, D, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    grid = torch.linspace(-math.pi, math.pi, 1001, dtype=torch.float64)
    t = grid[torch.multinomial((4.0 * grid.cos()).exp(), 2 * STATES, True, generator=generator)].view(-1, 2)
    torque = -4.0 * t.sin()
    score = torch.cat([-torch.linalg.solve(covariance, y.T).T - torque @ shear, torque], dim=1)
    _, found, found_shear, _ = nearest_normal(y, t + y @ shear.T, score)
    # errors of the regression: spread of the scores over that of the torques, 1.7, and over sqrt(40,000)
    spread = torch.linalg.inv(covariance).diagonal().sqrt() / 1.7 / 200.0
    assert float(((found_shear - shear).abs() / spread).max()) < 4.5
    assert float((found_shear - shear).abs().max()) < 0.05 < float(shear.abs().max())
    root = covariance.diagonal().sqrt()
    assert float(((found - covariance) / (root[:, None] * root)).abs().max()) < 0.045


def test_few_states_are_not_fitted_by_the_regression():
    """Of 200 states, too few for twenty a feature, none is regressed on: the mean's motion is part of the spread."""
    covariance = 0.1 * torch.eye(D, dtype=torch.float64)
    line, angles, score = states(covariance, 200)
    found = nearest_normal(line, angles, score).covariance
    assert 0.15 < float(found[0, 0]) < 0.35  # sqrt(0.1 (0.1 + 0.5)) = 0.245, standard error 0.02


def test_widths_that_differ_from_place_to_place_give_the_least_divergence():
    """Half the states three times as wide: neither the covariance nor the inverse information is the best scale, and
    what is found is, as the divergence on the states themselves says."""
    wide = torch.where(torch.arange(STATES) % 2 == 0, 9.0, 1.0).double()
    line, angles, score = states(wide[:, None, None] * 0.1 * torch.eye(D, dtype=torch.float64))
    mean = torch.stack([angles[:, 0].sin(), (3.0 * angles[:, 1]).cos(),
                        angles[:, 0].sin() * angles[:, 1].cos(), 0.5 + 0.0 * angles[:, 0]], dim=1)  # fmt: skip
    found = nearest_normal(line, angles, score).covariance
    # second moments 5 x 0.1, information 0.5 (1 + 1 / 9) / 0.1: sqrt(0.5 x 0.18) = 0.3
    torch.testing.assert_close(found.diagonal(), torch.full((D,), 0.3).double(), rtol=0.06, atol=0.0)

    score = score[:, :D]

    def divergence(m: torch.Tensor) -> float:
        values, vectors = torch.linalg.eigh(m)
        root = vectors * values.sqrt() @ vectors.T
        return float((score @ root + (line - mean) @ torch.linalg.inv(root)).square().sum(1).mean())

    best = divergence(found)
    for other in (0.5, 0.18, 0.9, 0.1):
        assert best < 0.9 * divergence(other * torch.eye(D, dtype=torch.float64))


@pytest.fixture(scope="module")
def molecule_target() -> MoleculeTarget:
    shared = alanine_dipeptide()
    chart = Chart(shared.molecule, dtype=torch.float64).fit(chart_cases.langevin_frames())
    return MoleculeTarget(shared.molecule, chart, shared.energy, compile=False)


def test_a_refined_chart_holds_the_same_density_nearer_to_the_prior(molecule_target):
    """log R of the same positions changes by the log-determinant alone, a constant, and f = score + y is smaller."""
    target, chart = molecule_target, molecule_target.coordinates
    positions = chart_cases.langevin_frames()
    z = chart.to_standard(positions)
    log_r, score = target.log_prob_and_score(z)
    n, before = chart.n_stiff, float(torch.linalg.slogdet(chart.covariance)[1])

    def size(z: torch.Tensor, score: torch.Tensor) -> float:
        return float((score + z)[:, :n].square().mean())

    first = size(z, score)
    assert chart.refine(z, score) is chart and chart.refines
    refined = chart.to_standard(positions)
    new_log_r, new_score = target.log_prob_and_score(refined)
    shift = 0.5 * (float(torch.linalg.slogdet(chart.covariance)[1]) - before)
    torch.testing.assert_close(new_log_r, log_r + shift, rtol=0.0, atol=1e-6)
    assert float(chart.shear.abs().max()) > 0.0
    distances = [torch.cdist(x, x) for x in (positions.double(), chart.to_natural(refined)[0])]
    torch.testing.assert_close(*distances, rtol=0.0, atol=1e-9)
    again = Chart(target.molecule, dtype=torch.float64)
    again.load_state_dict(chart.state_dict())
    torch.testing.assert_close(again.to_standard(positions), refined, rtol=0.0, atol=0.0)
    assert size(refined, new_score) < 0.9 * first


@pytest.mark.parametrize("states", [20, 60])
def test_states_too_few_for_a_refinement_leave_the_chart_as_it_is(molecule_target, states):
    """20 states of 57 stiff coordinates give singular matrices, 60 matrices of noise."""
    chart = molecule_target.coordinates
    z = chart.to_standard(chart_cases.langevin_frames()[:states])
    before = chart.covariance
    chart.refine(z, molecule_target.log_prob_and_score(z)[1])
    assert chart.covariance is before


def test_states_all_alike_leave_the_chart_as_it_is(molecule_target):
    chart = molecule_target.coordinates
    z = chart.to_standard(chart_cases.langevin_frames())
    before = chart.covariance
    chart.refine(z[:1].expand_as(z), torch.zeros_like(z))
    assert chart.covariance is before
