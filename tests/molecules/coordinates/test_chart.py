from __future__ import annotations

import io
import math

import mdtraj as md
import numpy as np
import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.internal import wrap
from molsampler.molecules.coordinates.stereo import Stereochemistry
from tests.molecules.coordinates import chart_cases as cases


@pytest.fixture(scope="module")
def chart() -> Chart:
    return Chart(cases.alanine_dipeptide(), dtype=torch.float64).fit(cases.langevin_frames())


def points(chart: Chart, n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    line = torch.randn(n, chart.n_stiff, generator=generator, dtype=torch.float64)
    circle = torch.pi * (1 - 2 * torch.rand(n, chart.n_soft, generator=generator, dtype=torch.float64))
    return torch.cat([line, circle], dim=1)


def test_layout_of_alanine_dipeptide(chart):
    assert (chart.n_stiff, chart.n_soft, chart.dim) == (55, 5, 60)
    assert len(chart.names) == 60 and len(set(chart.names)) == 60
    assert [n.split()[0] for n in chart.names].count("bond") == 21
    assert "torsion ACE1-C ALA2-N ALA2-CA ALA2-C" in chart.names[55:]
    assert [4, 6, 8, 14] in chart.soft_atoms.tolist() and [6, 8, 14, 16] in chart.soft_atoms.tolist()


def test_round_trip_both_ways(chart):
    x = cases.langevin_frames()
    z = chart.to_standard(x)
    assert cases.aligned_error(chart.to_natural(z)[0], x) < 1e-10
    z = points(chart, 300)
    z[0, chart.n_stiff :] = torch.pi
    z[1, chart.n_stiff :] = -torch.pi + 1e-7
    difference = chart.to_standard(chart.to_natural(z)[0]) - z
    assert float(difference[:, : chart.n_stiff].abs().max()) < 1e-9
    assert float(wrap(difference[:, chart.n_stiff :]).abs().max()) < 1e-10


@pytest.mark.parametrize("make", [cases.toluene, cases.with_proline, cases.with_phenylalanine])
def test_round_trip_of_rings(make):
    molecule = make()
    chart = Chart(molecule, dtype=torch.float64).fit(cases.perturbed(molecule, 1000))
    x = cases.perturbed(molecule, 50, seed=1)
    z = chart.to_standard(x)
    y, _ = chart.to_natural(z)
    assert cases.aligned_error(y, x) < 1e-10
    assert bool(chart.inside(z, y).all())
    assert not bool(chart.inside(chart.to_standard(-x)).any())


def test_standardisation_gives_zero_mean_and_identity_covariance(chart):
    line = chart.to_standard(cases.langevin_frames())[:, : chart.n_stiff]
    covariance = torch.cov(line.T, correction=0)
    assert float(line.mean(0).abs().max()) < 1e-9
    assert float((covariance - torch.eye(chart.n_stiff)).abs().max()) < 1e-8
    assert 1.0 < chart.condition_number < 1e4


def test_weights_count_as_repeated_frames():
    x = cases.langevin_frames()
    counts = torch.arange(len(x)) % 3
    weighted = Chart(cases.alanine_dipeptide()).fit(x, counts)
    repeated = Chart(cases.alanine_dipeptide()).fit(x.repeat_interleave(counts, dim=0))
    assert torch.allclose(weighted.mean, repeated.mean, rtol=0, atol=1e-12)
    assert torch.allclose(weighted.covariance, repeated.covariance, rtol=1e-9, atol=1e-14)


def test_stiff_torsions_are_unwrapped_across_180_degrees(chart):
    """Both omegas stand near 180 degrees, so their raw values jump; standardised they must not."""
    omega = [i for i, n in enumerate(chart.names[:55]) if n.startswith("torsion")]
    assert len(omega) == 2
    raw = chart._raw(cases.langevin_frames())[:, omega]
    assert bool((raw > 3.0).any()) and bool((raw < -3.0).any())
    z = chart.to_standard(cases.langevin_frames())[:, omega]
    assert float(z.abs().max()) < 6.0
    assert bool((chart.covariance.diagonal()[omega].sqrt() < 0.4).all())


def test_phi_and_psi_are_those_of_mdtraj_with_omega_anywhere(chart):
    molecule = cases.alanine_dipeptide()
    bonds, angles, torsions = chart.internal.to_internal(cases.langevin_frames())
    generator = torch.Generator().manual_seed(2)
    free = torch.as_tensor(chart.zmatrix.free)
    turned = torch.pi * (2 * torch.rand(len(bonds), int(free.sum()), generator=generator, dtype=torch.float64) - 1)
    torsions[:, free] = turned
    x = chart.internal.to_cartesian(bonds, angles, torsions).float()
    trajectory = md.Trajectory(x.numpy(), md.Topology.from_openmm(molecule.topology))
    omega = md.compute_dihedrals(trajectory, np.array([[1, 4, 6, 8], [8, 14, 16, 18]]), periodic=False)
    assert (np.abs(omega) < 2.0).mean() > 0.5
    z = chart.to_standard(x.double())
    for compute in (md.compute_phi, md.compute_psi):
        atoms, expected = compute(trajectory, periodic=False)
        column = chart.n_stiff + chart.soft_atoms.tolist().index(atoms[0].tolist())
        error = wrap(z[:, column] - torch.as_tensor(expected[:, 0], dtype=torch.float64))
        assert float(error.abs().max()) < 1e-5  # mdtraj works in single precision


def test_rigid_motions_change_nothing_and_a_reflection_is_outside(chart):
    x = cases.langevin_frames()
    rotation, shift = cases.random_motion(len(x))
    z = chart.to_standard(x)
    moved = chart.to_standard(x @ rotation.transpose(1, 2) + shift)
    assert float((moved - z)[:, : chart.n_stiff].abs().max()) < 1e-9
    assert float(wrap((moved - z)[:, chart.n_stiff :]).abs().max()) < 1e-10
    assert torch.allclose(chart.to_natural(moved)[1], chart.to_natural(z)[1], rtol=0, atol=1e-8)
    assert bool(chart.inside(z).all()) and bool(chart.inside(moved).all())
    mirrored = chart.to_standard(x * torch.tensor([1.0, 1.0, -1.0]))
    assert float((mirrored - z).abs().max()) > 1.0
    assert not bool(chart.inside(mirrored).any())


def test_log_det_against_autograd(chart):
    """(translation, rotation, z) -> R^{3N}, the standardisation included."""
    z = points(chart, 1)[0]

    def positions(p):
        x = chart.to_natural(p[6:][None])[0][0]
        return (x + torch.linalg.cross(p[3:6].expand_as(x), x) + p[:3]).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(positions, torch.cat([torch.zeros(6, dtype=torch.float64), z]))
    expected = torch.linalg.slogdet(jacobian)[1]
    assert float(chart.to_natural(z[None])[1]) == pytest.approx(float(expected), abs=1e-8)


def test_gradcheck(chart):
    z = points(chart, 2).requires_grad_()
    assert torch.autograd.gradcheck(chart.to_natural, z, fast_mode=True)
    far = (6.0 * points(chart, 2, seed=4)).requires_grad_()
    assert torch.autograd.gradcheck(chart.to_natural, far, fast_mode=True)


def test_finite_with_finite_gradients_far_outside_the_support(chart):
    z = (300.0 * points(chart, 64)).requires_grad_()
    x, log_det = chart.to_natural(z)
    assert not bool(chart.inside(z, x).any())
    gradient = torch.autograd.grad(x.sum() + log_det.sum(), z)[0]
    assert bool(torch.isfinite(x).all() and torch.isfinite(log_det).all() and torch.isfinite(gradient).all())


def test_float32_accuracy(chart):
    """One float32 pass places atoms to 2e-6 nm and gives log |dx/dz| to 2e-4."""
    z = points(chart, 500)
    exact, log_det = chart.to_natural(z)
    single = Chart(cases.alanine_dipeptide())
    single.load_state_dict(chart.state_dict())
    x, log_det_32 = single.to_natural(z.float())
    assert x.dtype == log_det_32.dtype == torch.float32
    assert float((x - exact).abs().max()) < 2e-6
    assert float((log_det_32 - log_det).abs().max()) < 2e-4


def test_bonds_and_angles_are_bounded():
    """Water has no stereochemistry that could answer for the bounds: one raw coordinate at a time is set near one."""
    water = Chart(cases.water(), dtype=torch.float64).fit(cases.perturbed(cases.water(), 100))
    raw = water.mean.repeat(6, 1)
    raw[0, 0], raw[1, 0], raw[2, 1] = 0.01, -0.01, -0.01
    raw[3, 2], raw[4, 2], raw[5, 2] = -0.01, math.pi - 0.01, math.pi + 0.01
    z = (raw - water.mean) @ torch.linalg.inv(water._scale).T
    assert water.inside(z).tolist() == [True, False, False, False, True, False]


def test_stiff_torsions_are_bounded_and_amides_keep_their_side(chart):
    omega = chart.names.index(next(n for n in chart.names if n.startswith("torsion")))
    assert bool(chart.inside(point_with(chart, omega, 0.0)))
    # Beyond pi from the mean omega comes round to where it was: every position is legal, the point of the chart is not.
    assert not bool(chart.inside(point_with(chart, omega, 2 * math.pi)))
    assert bool(chart.stereo.matches(chart.to_natural(point_with(chart, omega, 2 * math.pi))[0]))
    # A cis omega is within pi of the mean, but on the other side than the input.
    assert bool(chart.inside(point_with(chart, omega, math.radians(80.0))))
    assert not bool(chart.inside(point_with(chart, omega, math.radians(110.0))))


def point_with(chart: Chart, i: int, deviation: float) -> torch.Tensor:
    """The mean, soft torsions as in the input structure, with raw stiff coordinate i moved by `deviation`."""
    z = chart.to_standard(torch.as_tensor(cases.alanine_dipeptide().positions)[None])
    raw = torch.zeros(chart.n_stiff, dtype=torch.float64)
    raw[i] = deviation
    z[:, : chart.n_stiff] = torch.linalg.solve(chart._scale, raw)
    return z


def test_labelled_hydrogens_and_alpha_carbon_keep_their_handedness(chart):
    molecule = cases.alanine_dipeptide()
    stereo = Stereochemistry.from_molecule(molecule)
    assert len(stereo.centres) == 4 and molecule.graph.amides == ((1, 4, 6, 8), (8, 14, 16, 18))
    x = torch.as_tensor(molecule.positions)[None]
    assert bool(stereo.matches(x))
    for i, j in ((0, 2), (11, 13), (20, 21), (9, 10)):  # hydrogens of three methyls, then HA and CB
        order = list(range(molecule.n_atoms))
        order[i], order[j] = j, i
        assert not bool(stereo.matches(x[:, order])), (i, j)
    rotated = list(range(molecule.n_atoms))
    rotated[11], rotated[12], rotated[13] = 12, 13, 11  # a turn of the methyl group is no exchange
    assert bool(stereo.matches(x[:, rotated]))
    assert not bool(stereo.matches(torch.full_like(x, math.nan)))


def test_state_goes_through_a_weights_only_file(chart):
    file = io.BytesIO()
    torch.save(chart.state_dict(), file)
    file.seek(0)
    other = Chart(cases.alanine_dipeptide(), dtype=torch.float64)
    other.load_state_dict(torch.load(file, weights_only=True))
    z = points(chart, 5)
    assert torch.equal(other.to_natural(z)[0], chart.to_natural(z)[0])
    assert torch.equal(other.to_natural(z)[1], chart.to_natural(z)[1])
    with pytest.raises(InputError, match="other coordinates"):
        Chart(cases.toluene()).load_state_dict(chart.state_dict())
    with pytest.raises(InputError, match="other coordinates"):
        Chart(cases.alanine_dipeptide(), soft=[(6, 8)]).load_state_dict(chart.state_dict())
    peroxide = cases.hydrogen_peroxide()
    stiff = Chart(peroxide, soft=[]).fit(cases.perturbed(peroxide, 100))
    with pytest.raises(InputError, match="other coordinates"):  # the same names in the same order
        Chart(peroxide, soft=[(1, 2)]).load_state_dict(stiff.state_dict())


def test_override_of_the_soft_torsions_moves_coordinates():
    chart = Chart(cases.alanine_dipeptide(), soft=[(4, 6), (6, 8)], dtype=torch.float64)
    assert (chart.n_stiff, chart.n_soft) == (58, 2)
    chart.fit(cases.langevin_frames())
    x = cases.langevin_frames()
    assert cases.aligned_error(chart.to_natural(chart.to_standard(x))[0], x) < 1e-10


def test_bad_frames_are_refused(chart):
    fresh = Chart(cases.alanine_dipeptide())
    x = cases.langevin_frames()
    with pytest.raises(RuntimeError, match="fit"):
        fresh.to_natural(torch.zeros(1, 60))
    with pytest.raises(InputError, match="shape"):
        fresh.fit(x[:, :5])
    with pytest.raises(InputError, match="55 frames"):
        fresh.fit(x[:55])
    with pytest.raises(InputError, match="not positive definite"):
        fresh.fit(x[:50].repeat(3, 1, 1))
    with pytest.raises(InputError, match="does not vary"):
        fresh.fit(x[:1].repeat(60, 1, 1))
    with pytest.raises(InputError, match="non-finite"):
        fresh.fit(torch.where(torch.arange(len(x))[:, None, None] == 3, torch.nan, x))
    with pytest.raises(InputError, match="weights"):
        fresh.fit(x, -torch.ones(len(x)))
    assert fresh.mean is None
