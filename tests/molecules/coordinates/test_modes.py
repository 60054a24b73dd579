"""Modes on the circle: which they are, the map there and back, and what is kept."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.space import Circle, Label, Line
from molsampler.molecules.coordinates.atlas import Atlas
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.modes import REACH, WIDER, ModeChart, ModesConfig, with_modes
from molsampler.molecules.coordinates.pieces import torsions_of
from molsampler.molecules.coordinates.stored import atlas_of, coordinates_from
from molsampler.molecules.coordinates.whitening import modes_last
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.targets.molecule import MoleculeTarget
from tests.molecules.coordinates import chart_cases
from tests.molecules.coordinates.test_atlas import assert_those_of_quadrature, atlas, two_wells
from tests.stochastic import seeded

MODES = 4


def target_of(coordinates) -> MoleculeTarget:
    molecule = chart_cases.alanine_dipeptide()
    return MoleculeTarget(molecule, coordinates, TorchEnergy(molecule, torch.float64, compile=False), compile=False)


@pytest.fixture(scope="module")
def chart() -> Chart:
    """Refined, so that it knows its modes."""
    chart, frames = Chart(chart_cases.alanine_dipeptide(), dtype=torch.float64), chart_cases.langevin_frames()
    z = chart.fit(frames).to_standard(frames)
    return chart.refine(z, target_of(chart).log_prob_and_score(z)[1])


@pytest.fixture(scope="module")
def made(chart) -> ModeChart:
    state = chart.state_dict()
    made = ModeChart(Chart(chart_cases.alanine_dipeptide(), dtype=torch.float64), MODES)
    made.inner.information = chart.information
    made.inner.load_state_dict(state | {"spreads": torch.ones(0)})
    return ModeChart(made.inner, MODES)


def test_the_last_axes_are_the_largest_eigenvectors_and_the_others_stay_put():
    """Of E[s s^T] = I + 3 a a^T + b b^T with a along axis 1, and b half along axis 3 and half along axis 4."""
    d = 6
    a, b = torch.zeros(2, d, dtype=torch.float64)
    a[1], b[3], b[4] = 1.0, 0.8, 0.6
    rotation, spreads = modes_last(torch.eye(d).double() + 3.0 * torch.outer(a, a) + torch.outer(b, b), 2)
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(d).double())
    torch.testing.assert_close(spreads, torch.tensor([2.0, math.sqrt(2.0)]).double())
    torch.testing.assert_close((rotation[:, -2:].T @ torch.stack([a, b], 1)).abs(), torch.eye(2).double())
    expected = torch.zeros(d, 4, dtype=torch.float64)
    expected[0, 0] = expected[2, 1] = expected[5, 3] = 1.0
    expected[3, 2], expected[4, 2] = -0.6, 0.8  # axis 4, less what mode b takes
    torch.testing.assert_close(rotation[:, :4], expected)


def test_there_and_back(made):
    frames = chart_cases.langevin_frames()[::20]
    z = made.to_standard(frames)
    positions, log_det = made.to_natural(z)
    torch.testing.assert_close(torch.cdist(positions, positions), torch.cdist(frames, frames))
    torch.testing.assert_close(made.to_standard(positions), z, rtol=0.0, atol=1e-9)
    assert bool(made.inside(z).all()) and not bool(made.inside(made.to_standard(-frames)).any())
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: made.plain(one[None])[0]))(z)
    torch.testing.assert_close(log_det, made.inner.to_natural(made.plain(z))[1] + jacobian.det().abs().log())


def test_a_uniform_angle_is_a_normal_mode(made):
    """The quantiles of N(0, scale^2) at evenly spaced angles."""
    levels = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    z = torch.zeros(99, made.dim, dtype=torch.float64)
    last = slice(made.dim - MODES, None)
    z[:, last] = (2.0 * math.pi * (levels - 0.5))[:, None]
    mode = made.plain(z)[:, made.n_stiff - MODES : made.n_stiff]
    expected = torch.distributions.Normal(0.0, made.scale).icdf(levels[:, None])
    torch.testing.assert_close(mode, expected)
    torch.testing.assert_close(made.scale, WIDER * made.inner.spreads)


def test_the_seam_is_off_the_support_and_harms_nobody(made):
    target = target_of(made)
    z = made.to_standard(chart_cases.langevin_frames()[:3])
    z[1, -1], z[2, -1] = math.pi, math.pi * math.erf((REACH + 0.1) / math.sqrt(2.0))
    log_r, score = target.log_prob_and_score(z)
    assert math.isfinite(log_r[0]) and bool(torch.isneginf(log_r[1:]).all())
    assert bool(torch.isfinite(score).all()) and bool((score[1:] == 0.0).all())


def test_a_score_of_the_chart_is_the_same_score(made):
    """log R differs by the map's Jacobian alone, and so do their gradients."""
    z = made.to_standard(chart_cases.langevin_frames()[::20])
    log_r, score = target_of(made).log_prob_and_score(z)
    plain, own = made._plain_score(z, score)
    expected_log_r, expected = target_of(made.inner).log_prob_and_score(plain)
    torch.testing.assert_close(own, expected)
    mode = plain[:, made.n_stiff - MODES : made.n_stiff]
    slope = made.scale.log() + 0.5 * (mode / made.scale).square() - 0.5 * math.log(2.0 * math.pi)
    torch.testing.assert_close(log_r, expected_log_r + slope.sum(1))


def test_turned_methyls_have_the_density_and_the_score_of_where_they_are(made):
    target = target_of(made)
    z = made.to_standard(chart_cases.langevin_frames()[::20])
    log_r, score = target.log_prob_and_score(z)
    turned, log_r_turned, by_turned = target.symmetrised(z, log_r, score, seeded(0))
    assert float((turned - z).abs().amax()) > 0.1 and float((log_r_turned - log_r).abs().max()) > 0.01
    expected_log_r, expected = target.log_prob_and_score(turned)
    torch.testing.assert_close(log_r_turned, expected_log_r, rtol=0.0, atol=1e-6)
    assert float((by_turned - expected).abs().max()) < 1e-8 * float(expected.abs().max())


def test_modes_are_as_many_as_are_far_from_normal(chart):
    values = torch.linalg.eigvalsh(chart.information)
    least = float(values[-3] - 1.0) * 0.999
    assert with_modes(chart, ModesConfig()) is chart
    assert with_modes(chart, ModesConfig(most=12, least=float(values[-1]))) is chart
    unrefined = Chart(chart_cases.alanine_dipeptide()).fit(chart_cases.langevin_frames())
    assert with_modes(unrefined, ModesConfig(most=12)) is unrefined
    before = chart.state_dict()
    for config, expected in ((ModesConfig(most=12, least=least), 3), (ModesConfig(most=2, least=least), 2)):
        found = with_modes(chart, config)
        assert isinstance(found, ModeChart) and found.n_modes == expected
        assert found.space.count(Line) == chart.n_stiff - expected
        assert found.space.count(Circle) == chart.n_soft + expected
        chart.load_state_dict(before)


def test_the_modes_are_what_is_least_normal_after_another_refinement(made):
    """E[s^2] of every coordinate left on the line is less than that of every mode; by other states than those that the
    modes were found on it is larger than 1 for these."""
    frames = chart_cases.langevin_frames()
    z = made.to_standard(frames)
    scale = made.scale.clone()
    made.refine(z, target_of(made).log_prob_and_score(z)[1])
    assert not torch.equal(made.scale, scale)
    z = made.to_standard(frames)
    plain, own = made._plain_score(z, target_of(made).log_prob_and_score(z)[1])
    size = own[:, : made.n_stiff].square().mean(0)
    assert float(size[-MODES:].min()) > float(size[:-MODES].max()) > 0.5


def test_what_is_kept_makes_the_same_coordinates(made):
    molecule, z = chart_cases.alanine_dipeptide(), made.to_standard(chart_cases.langevin_frames()[::20])
    again = coordinates_from(molecule, made.state_dict(), dtype=torch.float64)
    assert isinstance(again, ModeChart) and atlas_of(again) is None
    assert all(torch.equal(*pair) for pair in zip(again.to_natural(z), made.to_natural(z), strict=True))
    with pytest.raises(InputError, match="no 3 modes"):
        ModeChart(Chart(molecule, dtype=torch.float64), 3).load_state_dict(made.state_dict())
    with pytest.raises(InputError, match="other coordinates"):
        coordinates_from(chart_cases.toluene(), made.state_dict())


def test_an_atlas_has_modes_in_every_piece():
    """Each piece by its own chart, with a label behind them; the same density as on the atlas."""
    molecule, frames = chart_cases.alanine_dipeptide(), chart_cases.langevin_frames()
    phi = torch.tensor([[4, 6, 8, 14]])
    middle = torsions_of(frames, phi).median() + 1e-4
    pieces = Atlas(Chart(molecule, dtype=torch.float64), phi, torch.stack([middle - 0.5, middle + 0.5])[:, None])
    made = ModeChart(pieces.fit(frames), MODES)
    z = made.to_standard(frames)
    assert made.space.count(Label) == 1 and set(z[:, -1].tolist()) == {0.0, 1.0} and atlas_of(made) is pieces
    log_r, score = target_of(made).log_prob_and_score(z)
    plain, own = made._plain_score(z, score)
    torch.testing.assert_close(plain, pieces.to_standard(frames), rtol=0.0, atol=1e-9)
    torch.testing.assert_close(own, target_of(pieces).log_prob_and_score(plain)[1])
    again = coordinates_from(molecule, made.state_dict(), dtype=torch.float64)
    assert atlas_of(again) is not None
    torch.testing.assert_close(again.to_natural(z)[1], made.to_natural(z)[1], rtol=0.0, atol=0.0)


def test_log_z_and_the_shares_of_two_pieces_are_those_of_quadrature():
    """As in test_atlas, from a prior that is wider along the modes."""
    molecule, own = two_wells(), atlas()
    pieces = Atlas(Chart(molecule, soft=[]), own.torsions, own.centres)
    pieces.load_state_dict(own.state_dict())
    assert_those_of_quadrature(ModeChart(pieces, 2))
