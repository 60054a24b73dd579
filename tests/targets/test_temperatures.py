"""A molecule at several temperatures as one target: at each of them it is the target at that temperature."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from molsampler.basis.counter import EvaluationCounter
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from molsampler.targets.molecule import MoleculeTarget
from molsampler.targets.temperatures import TemperatureTarget
from tests.molecules.coordinates import chart_cases
from tests.stochastic import seeded
from tests.targets.test_conformance import alanine_dipeptide
from tests.targets.test_molecule import ByReference

TEMPERATURES = (300.0, 410.0, 600.0)


@pytest.fixture()
def target() -> TemperatureTarget:
    shared = alanine_dipeptide()
    shared.energy.counter = EvaluationCounter()
    single = MoleculeTarget(shared.molecule, shared.coordinates, shared.energy, compile=False)
    chart = TemperatureChart(shared.coordinates, 300.0, 300.0, 600.0)
    chart.fit_guess(torch.tensor(TEMPERATURES), torch.tensor([0.0, -6.0, -14.0]))
    return TemperatureTarget(single, chart, compile=False)


def states(target: TemperatureTarget, temperature: float) -> torch.Tensor:
    return target.coordinates.to_standard(chart_cases.langevin_frames()[::20], temperature)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_it_is_the_target_of_the_molecule_at_that_temperature(target, temperature):
    """Up to the stretch, whose determinant is known, and the guess."""
    x = states(target, temperature)
    molecule = dataclasses.replace(target.molecule, temperature=temperature)
    chart = target.coordinates.chart
    there = MoleculeTarget(molecule, chart, target.energy, compile=False)
    log_r, score = there.log_prob_and_score(target.coordinates.plain(x))
    stretch = (temperature / 300.0) ** 0.5
    expected = log_r + chart.n_stiff * math.log(stretch) - target.coordinates.log_z_guess(x[:, -1])
    found, by_found = target.log_prob_and_score(x)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-8)
    torch.testing.assert_close(target.log_prob(x), expected, rtol=0.0, atol=1e-8)
    torch.testing.assert_close(by_found[:, : chart.n_stiff], stretch * score[:, : chart.n_stiff])
    torch.testing.assert_close(by_found[:, chart.n_stiff : -1], score[:, chart.n_stiff :])
    assert bool((by_found[:, -1] == 0.0).all())
    if temperature == 300.0:
        assert torch.equal(target.from_single(target.coordinates.plain(x)), x)
        torch.testing.assert_close(found, target.single.log_prob(x[:, :-1]))


def test_the_score_is_the_derivative_and_the_bridge_gives_the_same(target):
    x = torch.cat([states(target, t)[:3] for t in TEMPERATURES])
    z = x.clone().requires_grad_()
    log_r = target.log_prob(z)
    (by_hand,) = torch.autograd.grad(log_r.sum(), z)
    found, score = target.log_prob_and_score(x)
    torch.testing.assert_close(score, by_hand)
    bridge = TemperatureTarget(
        MoleculeTarget(target.molecule, target.coordinates.chart, ByReference(22), compile=False),
        target.coordinates,
        compile=False,
    )
    there, by_there = bridge.log_prob_and_score(x)
    torch.testing.assert_close(there, found, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(by_there, score, rtol=1e-6, atol=1e-5)


def test_guide_and_support_are_those_of_each_temperature(target):
    x = torch.cat([states(target, t)[:3] for t in TEMPERATURES])
    z = x.clone().requires_grad_()
    stand_in = target._stand_in
    positions, log_det = target.coordinates.to_natural(z)
    beta = target.molecule.beta * 300.0 / x[:, -1]
    log_r = -beta * stand_in(positions) + log_det
    (by_hand,) = torch.autograd.grad(log_r.sum(), z)
    torch.testing.assert_close(target.guide()(x)[:, :-1], by_hand[:, :-1])
    mirrored = target.coordinates.to_standard(-chart_cases.langevin_frames()[:3], 400.0)
    log_r, score = target.log_prob_and_score(mirrored)
    assert bool((log_r == -torch.inf).all()) and bool((score == 0.0).all())


def test_like_atoms_turned_leave_the_density(target):
    x = torch.cat([states(target, t)[:3] for t in TEMPERATURES])
    log_r, score = target.log_prob_and_score(x)
    turned, _, by_turned = target.symmetrised(x, torch.zeros(len(x)), score, seeded(0))
    assert not torch.equal(turned, x)
    again, by_again = target.log_prob_and_score(turned)
    torch.testing.assert_close(again, log_r, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(by_again, by_turned, rtol=1e-6, atol=1e-6)


def test_dynamics_of_one_temperature_is_refused(target):
    with pytest.raises(TypeError, match="one temperature"):
        target.local_moves(states(target, 300.0), 1, seeded(0))
