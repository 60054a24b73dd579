from __future__ import annotations

import mdtraj as md
import numpy as np
import pytest
import torch

from molsampler.molecules.coordinates.internal import InternalCoordinates, angle_between, dihedral, log_abs_det, wrap
from molsampler.molecules.coordinates.zmatrix import build_zmatrix
from molsampler.molecules.energy.forces import geometry
from tests.molecules.coordinates import chart_cases as cases

MAKERS = [cases.alanine_dipeptide, cases.toluene, cases.with_proline, cases.with_phenylalanine]


def methane():
    corners = 0.063 * np.array([[0, 0, 0], [1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]])
    return cases.hand_made("CHHHH", [(0, k) for k in range(1, 5)], corners.tolist())


def cyclopropane_skeleton():
    """A triangle, where every spanning tree leaves out a bond next to the root."""
    return cases.hand_made("CCC", [(0, 1), (1, 2), (0, 2)], [[0, 0, 0], [0.15, 0, 0], [0.075, 0.13, 0]])


@pytest.mark.parametrize("make", [*MAKERS, methane, cases.water, cyclopropane_skeleton])
def test_round_trip_to_a_rigid_motion(make):
    molecule = make()
    internal = InternalCoordinates(build_zmatrix(molecule))
    x = cases.perturbed(molecule, 50, sigma=0.006)
    n = molecule.n_atoms
    bonds, angles, torsions = internal.to_internal(x)
    assert bonds.shape == (50, n - 1) and angles.shape == (50, n - 2) and torsions.shape == (50, n - 3)
    assert cases.aligned_error(internal.to_cartesian(bonds, angles, torsions), x) < 1e-10


def test_round_trip_of_langevin_frames():
    internal = InternalCoordinates(build_zmatrix(cases.alanine_dipeptide()))
    x = cases.langevin_frames()
    assert cases.aligned_error(internal.to_cartesian(*internal.to_internal(x)), x) < 1e-10


def test_round_trip_in_float32():
    """Positions good to 5e-6 nm, some thirty units in the last place of a coordinate of 1 nm, torsions to 1e-4."""
    internal = InternalCoordinates(build_zmatrix(cases.with_phenylalanine()))
    x = cases.perturbed(cases.with_phenylalanine(), 50)
    exact = internal.to_internal(x)
    y = internal.to_cartesian(*(q.float() for q in exact))
    assert y.dtype == torch.float32
    assert cases.aligned_error(y.double(), x) < 5e-6
    back = internal.to_internal(y)
    assert float(wrap(back[2].double() - exact[2]).abs().max()) < 1e-4


def test_round_trip_from_random_internal_coordinates_covers_the_circle():
    internal = InternalCoordinates(build_zmatrix(cases.with_proline()))
    generator = torch.Generator().manual_seed(0)
    n = internal.n_atoms
    bonds = 0.1 + 0.05 * torch.rand(100, n - 1, generator=generator, dtype=torch.float64)
    angles = 0.4 + 2.2 * torch.rand(100, n - 2, generator=generator, dtype=torch.float64)
    torsions = torch.pi * (2 * torch.rand(100, n - 3, generator=generator, dtype=torch.float64) - 1)
    torsions[:, 0], torsions[:, 1] = torch.pi, -torch.pi + 1e-9
    back = internal.to_internal(internal.to_cartesian(bonds, angles, torsions))
    for a, b in zip(back[:2], (bonds, angles), strict=True):
        assert float((a - b).abs().max()) < 1e-11
    assert float(wrap(back[2] - torsions).abs().max()) < 1e-10


def test_wrap_goes_to_the_half_open_circle():
    x = torch.tensor([0.0, torch.pi, -torch.pi, 3 * torch.pi, 1.0 + 4 * torch.pi, -4.0], dtype=torch.float64)
    expected = torch.tensor([0.0, torch.pi, torch.pi, torch.pi, 1.0, 2 * torch.pi - 4.0], dtype=torch.float64)
    assert torch.allclose(wrap(x), expected, atol=1e-14)


def test_dihedral_agrees_with_mdtraj():
    x = cases.perturbed(cases.alanine_dipeptide(), 200, sigma=0.1)
    quadruples = np.array([[4, 6, 8, 14], [0, 5, 9, 21], [1, 4, 6, 8]])
    trajectory = md.Trajectory(x.numpy(), md.Topology.from_openmm(cases.alanine_dipeptide().topology))
    expected = md.compute_dihedrals(trajectory, quadruples, periodic=False)
    ours = dihedral(*(x[:, quadruples[:, k]] for k in range(4)))
    assert float(wrap(ours - torch.as_tensor(expected, dtype=torch.float64)).abs().max()) < 1e-4


def test_angles_and_dihedrals_are_those_of_the_energys_kernels():
    """Written twice for two layouts: the numbers agree to rounding, so that neither drifts away."""
    x = cases.perturbed(cases.alanine_dipeptide(), 200, sigma=0.1)
    quadruples = torch.tensor([[4, 6, 8, 14], [0, 5, 9, 21], [1, 4, 6, 8]])
    atoms = x.permute(2, 1, 0)[:, quadruples.T]  # (3, 4, 3, 200)
    points = [x[:, column] for column in quadruples.T]
    assert float(wrap(dihedral(*points) - geometry.dihedrals(atoms).T).abs().max()) < 1e-12
    assert float((angle_between(*points[:3]) - geometry.angles(atoms[:, :3]).T).abs().max()) < 1e-12


@pytest.mark.parametrize("make", [cases.alanine_dipeptide, cases.with_proline, methane, cases.water])
def test_log_abs_det_against_autograd(make):
    """(translation, rotation, internal) -> R^{3N}; at the identity a rotation vector's measure is the Haar measure."""
    molecule = make()
    internal = InternalCoordinates(build_zmatrix(molecule))
    n = molecule.n_atoms
    for frame in cases.perturbed(molecule, 2, sigma=0.01, seed=5):
        q = torch.cat([c[0] for c in internal.to_internal(frame[None])])

        def positions(p, n=n):
            parts = p[6:].split([n - 1, n - 2, n - 3])
            x = internal.to_cartesian(*(c[None] for c in parts))[0]
            w = p[3:6]
            zero = torch.zeros((), dtype=p.dtype)
            generator = torch.stack([zero, -w[2], w[1], w[2], zero, -w[0], -w[1], w[0], zero]).reshape(3, 3)
            # A fixed proper rotation first: the answer must not depend on where the rotations are measured.
            x = x @ cases.random_motion(1)[0][0].T
            return (x @ torch.linalg.matrix_exp(generator).T + p[:3]).reshape(-1)

        p = torch.cat([torch.zeros(6, dtype=torch.float64), q])
        jacobian = torch.autograd.functional.jacobian(positions, p)
        expected = torch.linalg.slogdet(jacobian)[1]
        bonds, angles, _ = q.split([n - 1, n - 2, n - 3])
        assert float(log_abs_det(bonds[None], angles[None])[0]) == pytest.approx(float(expected), abs=1e-9)


def test_log_abs_det_is_finite_on_the_edge():
    edge = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    value = log_abs_det(edge, edge)
    assert bool(torch.isfinite(value).all()) and float(value.detach()) < -1000
    assert bool(torch.isfinite(torch.autograd.grad(value.sum(), edge)[0]).all())


def test_batch_last_is_the_same_map_and_one_graph():
    internal = InternalCoordinates(build_zmatrix(cases.with_proline()))
    q = internal.to_internal(cases.perturbed(cases.with_proline(), 7))
    rows = internal.to_cartesian(*q)
    columns = internal.cartesian_batch_last(*(c.T.contiguous() for c in q))
    assert columns.shape == (3, internal.n_atoms, 7)
    assert torch.equal(columns.permute(2, 1, 0), rows)
    explanation = torch._dynamo.explain(internal.cartesian_batch_last)(*(c.T.contiguous() for c in q))
    assert explanation.graph_count == 1 and explanation.graph_break_count == 0


def test_gradients_of_positions():
    molecule = methane()
    internal = InternalCoordinates(build_zmatrix(molecule))
    q = [c.requires_grad_() for c in internal.to_internal(cases.perturbed(molecule, 2, sigma=0.005))]
    assert torch.autograd.gradcheck(internal.to_cartesian, q)
