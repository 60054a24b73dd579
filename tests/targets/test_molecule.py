from __future__ import annotations

import numpy as np
import pytest
import torch

from molsampler.basis.counter import EvaluationCounter
from molsampler.basis.units import thermal_energy
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.stand_in import stand_in
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.targets.molecule import MoleculeTarget
from tests.molecules.coordinates import chart_cases
from tests.molecules.energy import energy_cases
from tests.targets.test_conformance import alanine_dipeptide


class ByReference(Energy):
    """OpenMM's Reference platform, in double: the route of an energy that is not torch's."""

    def _evaluate(self, positions, forces):
        energy, force = energy_cases.reference(energy_cases.molecule("aldp"), positions)
        bad = positions.new_zeros(len(positions))
        bad[:1] = torch.nan if self.broken else 0.0
        return torch.as_tensor(energy) + bad, torch.as_tensor(force) if forces else None

    broken = False


@pytest.fixture()
def target() -> MoleculeTarget:
    shared = alanine_dipeptide()
    shared.energy.counter = EvaluationCounter()
    return MoleculeTarget(shared.molecule, shared.coordinates, shared.energy, compile=False)


@pytest.fixture()
def points(target) -> torch.Tensor:
    return target.coordinates.to_standard(chart_cases.langevin_frames()[::20])  # (10, 60)


def test_log_prob_is_minus_beta_u_plus_log_det(target, points):
    positions, log_det = target.coordinates.to_natural(points)
    energies, _ = energy_cases.reference(target.molecule, positions)
    expected = -torch.as_tensor(energies) / thermal_energy(300.0) + log_det
    torch.testing.assert_close(target.log_prob(points), expected, rtol=0.0, atol=1e-6)
    assert float(expected.std()) > 1.0
    torch.testing.assert_close(target.positions(points), positions)


def test_the_bridge_gives_the_same_target(target, points):
    bridge = MoleculeTarget(target.molecule, target.coordinates, ByReference(22), compile=False)
    both = [t.log_prob_and_score(points) for t in (target, bridge)]
    torch.testing.assert_close(both[1][0], both[0][0], rtol=0.0, atol=1e-6)
    torch.testing.assert_close(both[1][1], both[0][1], rtol=1e-6, atol=1e-5)
    assert bridge.counter.total == 10


def test_an_energy_that_is_not_a_number_has_zero_density(target, points):
    energy = ByReference(22)
    energy.broken = True
    log_r, score = MoleculeTarget(target.molecule, target.coordinates, energy).log_prob_and_score(points)
    assert bool(torch.isneginf(log_r[0])) and bool((score[0] == 0.0).all())
    assert bool(torch.isfinite(log_r[1:]).all()) and energy.counter.non_finite == 1


def test_mirror_images_are_off_the_support(target, points):
    frames = chart_cases.langevin_frames()[:5]
    mirrored = target.coordinates.to_standard(-frames)
    log_r, score = target.log_prob_and_score(mirrored)
    assert bool(torch.isneginf(log_r).all()) and bool((score == 0.0).all())
    # a mirror image has the same energy, but for the digits of pi in the force field: the support tells them apart
    positions, _ = target.coordinates.to_natural(mirrored)
    energies = [energy_cases.reference(target.molecule, x)[0] for x in (positions, frames)]
    np.testing.assert_allclose(energies[0], energies[1], atol=1e-3)


def test_far_out_states_are_harmless(target, points):
    wild = torch.cat([points[:3], 1e3 * torch.ones(1, 60).double(), torch.full((1, 60), 1e200, dtype=torch.float64)])
    log_r, score = target.log_prob_and_score(wild)
    assert bool(torch.isneginf(log_r[3:]).all()) and bool((score[3:] == 0.0).all())
    torch.testing.assert_close(log_r[:3], target.log_prob(points[:3]))


def test_compiled_kernels_of_the_chart_give_the_same(target, points):
    """In float32, against the eager kernels in double: U has an error of 1e-6 of its terms, of some 1,000 RT."""
    chart = Chart(target.molecule).fit(chart_cases.langevin_frames())
    energy = TorchEnergy(target.molecule, compile=False)
    said: list[str] = []
    compiled = MoleculeTarget(target.molecule, chart, energy, compile=True, say=said.append)
    log_r, score = compiled.log_prob_and_score(points.float())
    expected, expected_score = target.log_prob_and_score(points)
    assert said == [] and not compiled._place.failed and not compiled._finish.failed
    assert log_r.dtype == score.dtype == torch.float32
    torch.testing.assert_close(log_r.double(), expected, rtol=0.0, atol=2e-3)
    assert float((score - expected_score).abs().max()) < 1e-4 * float(expected_score.abs().max())


@pytest.mark.parametrize("n", [1, 4, 5, 8, 19])
def test_padding_and_pieces_change_nothing(monkeypatch, target, points, n):
    x = points.repeat(2, 1)[:n]
    whole = target.log_prob_and_score(x)
    monkeypatch.setattr(target.energy, "small_piece", 4)
    monkeypatch.setattr(target.energy, "piece", 8)
    before = target.counter.total
    pieces = target.log_prob_and_score(x)
    assert pieces[0].shape == (n,) and pieces[1].shape == (n, 60)
    torch.testing.assert_close(pieces, whole)
    assert target.counter.total - before == n  # padding is not booked


def test_every_evaluation_is_booked_by_purpose(target, points):
    with target.counter.purpose("rollout"):
        target.log_prob(points)
        with target.counter.purpose("smc"):
            target.log_prob_and_score(points[:3])
        target.log_prob(points[:2].clone().requires_grad_())
    target.log_prob(points[:1])
    assert dict(target.counter.by_purpose) == {"rollout": 12, "smc": 3, "analysis": 1}
    assert target.counter.total == 16 and target.counter is target.energy.counter
    again = EvaluationCounter()
    again.load_state_dict(target.counter.state_dict())
    assert again.by_purpose == target.counter.by_purpose and again.non_finite == target.counter.non_finite


def test_purpose_ends_with_an_exception():
    counter = EvaluationCounter()
    with pytest.raises(KeyError), counter.purpose("md"):
        raise KeyError
    counter.add(2, 1)
    assert dict(counter.by_purpose) == {"analysis": 2} and counter.non_finite == 1


def test_a_molecule_cannot_be_sampled_directly(target):
    with pytest.raises(TypeError, match="MoleculeTarget cannot be sampled directly"):
        target.sample(torch.Generator(), 3)


def test_local_moves_are_thermal_dynamics_booked_by_step(target, points):
    counter = target.energy.counter
    with counter.purpose("md"):
        moved = target.local_moves(points, 30, torch.Generator().manual_seed(0))
    assert counter.by_purpose["md"] == len(points) * 31
    assert moved.shape == points.shape and bool(torch.isfinite(target.log_prob(moved)).all())
    step = (moved - points).double().norm(dim=1)
    assert bool((step > 0.1).all()) and bool((step < 30.0).all())
    before, after = target.log_prob(points), target.log_prob(moved)
    assert float((after - before).abs().mean()) < 25.0  # 30 fs of heat bath, not an explosion


def test_the_guide_is_the_score_of_the_stand_in_and_no_evaluation(target, points):
    """Against autograd through the chart, with OpenMM's forces of the stand-in; counted apart, and in training only."""
    cheap = ByReference(22)
    cheap._evaluate = lambda positions, forces: tuple(
        torch.as_tensor(part) for part in energy_cases.reference(stand_in(target.molecule), positions)
    )
    by_cheap = MoleculeTarget(target.molecule, target.coordinates, cheap, compile=False)
    log_r, expected = by_cheap.log_prob_and_score(points)
    torch.testing.assert_close(target.stand_in()(points), log_r, rtol=1e-6, atol=1e-5)
    before = target.counter.total
    guide = target.guide()
    torch.testing.assert_close(guide(points), expected, rtol=1e-6, atol=1e-5)
    assert (target.counter.total, target.counter.guide) == (before, 0)
    with target.counter.purpose("rollout"):
        guide(points[:3])
    assert (target.counter.total, target.counter.guide) == (before, 3)
    assert float((target.log_prob_and_score(points)[1] - expected).abs().max()) > 1e-3
    outside = target.coordinates.to_standard(-chart_cases.langevin_frames()[:2])
    assert bool((guide(outside) != 0.0).any()) and guide(points[:0]).shape == (0, 60)


def test_the_openmm_bridge_has_the_same_guide(target, points):
    bridge = MoleculeTarget(target.molecule, target.coordinates, ByReference(22), compile=False)
    torch.testing.assert_close(bridge.guide()(points), target.guide()(points))
