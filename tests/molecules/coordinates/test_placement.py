from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.internal import InternalCoordinates, log_abs_det, log_abs_det_slopes
from molsampler.molecules.coordinates.placement import TreePlacement
from molsampler.molecules.coordinates.zmatrix import build_zmatrix
from molsampler.molecules.molecule import Molecule
from tests.molecules.coordinates import chart_cases as cases

HEIGHTS = (0.0, 0.05, 0.08, 0.05)  # nm


def long_chain() -> Molecule:
    """61 carbons in a row: as deep a tree as 61 atoms can have from their middle, 30 levels."""
    positions = [[0.12 * k, HEIGHTS[k % 4], 0.05 * (k % 3)] for k in range(61)]
    return cases.hand_made("C" * 61, [(k, k + 1) for k in range(60)], positions)


MAKERS = [
    cases.alanine_dipeptide,
    cases.toluene,
    cases.with_proline,
    cases.with_phenylalanine,
    cases.water,
    cases.hydrogen_peroxide,
    long_chain,
]


def inputs(placement: TreePlacement, batch: int = 5) -> list[Tensor]:
    """Bonds of either sign, angles and torsions anywhere, (N, batch) each; zeros in the rows that have none."""
    generator = torch.Generator().manual_seed(1)
    n = placement.zmatrix.n_atoms
    b, a, t = torch.randn(3, n, batch, generator=generator, dtype=torch.float64)
    q = [0.1 + 0.1 * b, 3.0 * a, 10.0 * t]
    for missing, rows in enumerate(q):
        rows[: missing + 1] = 0.0
    return q


def force(placement: TreePlacement, batch: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, placement.zmatrix.n_atoms, batch, generator=generator, dtype=torch.float64)


def meant(gradients) -> Tensor:
    """The rows that have a bond, an angle, a torsion, as one."""
    return torch.cat([g[k + 1 :] for k, g in enumerate(gradients)])


@pytest.mark.parametrize("make", MAKERS)
def test_pulling_back_is_the_gradient_of_autograd(make):
    placement = TreePlacement(build_zmatrix(make()))
    q, f = [c.requires_grad_() for c in inputs(placement)], force(placement)
    placed = placement.place(*q)
    expected = meant(torch.autograd.grad((placed.positions * f).sum(), q, allow_unused=True))
    found = meant(placement.pull_back(type(placed)(*(part.detach() for part in placed)), q[0].detach(), f))
    assert float((found - expected).abs().max()) < 1e-12 * float(expected.abs().max())


@pytest.mark.parametrize("make", [cases.with_proline, long_chain])
def test_pulling_back_is_what_work_the_force_does_along_a_line(make):
    placement = TreePlacement(build_zmatrix(make()))
    q, f = inputs(placement), force(placement)
    shift = [1e-7 * c.roll(1, dims=1) for c in q]
    ahead, behind = (placement.place(*(c + s * d for c, d in zip(q, shift, strict=True))) for s in (1.0, -1.0))
    work = 0.5 * ((ahead.positions - behind.positions) * f).sum((0, 1))
    slopes = placement.pull_back(placement.place(*q), q[0], f)
    expected = sum((g * d).sum(0) for g, d in zip(slopes, shift, strict=True))
    torch.testing.assert_close(work, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_a_torsion_feels_the_torque_about_its_bond():
    """One force on the last atom of H-O-O-H: by hand, the component of arm x force along the bond O-O."""
    molecule = cases.hydrogen_peroxide()
    z = build_zmatrix(molecule)
    internal = InternalCoordinates(z)
    b, a, t = internal.to_internal(torch.as_tensor(molecule.positions)[None])
    rows = [torch.nn.functional.pad(c.T, (0, 0, 4 - c.shape[1], 0)) for c in (b, a, t)]
    placed = internal.placement.place(*rows)
    last, near, far = z.rows[3, :3]
    f = torch.zeros(3, 4, 1, dtype=torch.float64)
    f[:, last, 0] = torch.tensor([3.0, -2.0, 5.0])
    x = placed.positions[..., 0].numpy().T
    axis = (x[near] - x[far]) / np.linalg.norm(x[near] - x[far])
    expected = axis @ np.cross(x[last] - x[near], f[:, last, 0].numpy())
    assert float(internal.placement.pull_back(placed, rows[0], f)[2][3]) == pytest.approx(expected, rel=1e-12)
    assert abs(expected) > 0.01  # kJ/mol


def test_single_precision_does_not_get_worse_along_the_chain():
    """Lever arms are one bond long, so that a gradient 3.6 nm from the root is as good as one next to it."""
    placement = TreePlacement(build_zmatrix(long_chain()))
    q, f = inputs(placement, 200), force(placement, 200)
    f[:, placement.zmatrix.order[:50]] = 0.0  # on the ends alone
    exact = placement.pull_back(placement.place(*q), q[0], f)
    single = [c.float() for c in q]
    same = placement.place(*(c.double() for c in single))
    exact = placement.pull_back(same, single[0].double(), f.float().double())
    found = placement.pull_back(placement.place(*single), single[0], f.float())
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float32
        error = (a.double() - b)[-4:].abs().max()
        assert float(error) < 2e-5 * float(b[-4:].abs().max())


def test_the_frame_is_fixed():
    placement = TreePlacement(build_zmatrix(cases.with_proline()))
    q = inputs(placement)
    q[0], q[1] = q[0].abs(), q[1].abs() % 3.0
    x = placement.place(*q).positions[:, placement.zmatrix.order[:3]]
    assert bool((x[:, 0] == 0.0).all())
    assert torch.equal(x[0, 1], q[0][1]) and bool((x[1:, 1] == 0.0).all())
    assert bool((x[1, 2] > 0.0).all()) and bool((x[2, 2] == 0.0).all())


def test_passes_grow_with_the_logarithm_of_the_depth():
    for make, depth, passes in ((cases.water, 2, 0), (cases.alanine_dipeptide, 4, 2), (long_chain, 30, 5)):
        zmatrix = build_zmatrix(make())
        assert int(zmatrix.depth.max()) == depth
        assert len(TreePlacement(zmatrix)._jumps) == passes


def test_slopes_of_log_abs_det_are_those_of_autograd_also_at_the_edge():
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(2, 7, 9, generator=generator, dtype=torch.float64)
    b[0, 0] = a[0, 0] = 0.0
    b, a = b.requires_grad_(), a.requires_grad_()
    expected = torch.autograd.grad(log_abs_det(b, a).sum(), (b, a))
    for found, one in zip(log_abs_det_slopes(b, a), expected, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-13, atol=0.0)
    assert float(expected[0][0, 0]) == 0.0


def test_pulling_back_to_the_chart_is_autograd_through_it():
    chart = Chart(cases.alanine_dipeptide(), dtype=torch.float64).fit(cases.langevin_frames())
    z = torch.randn(20, chart.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    f = force(chart.internal.placement, 20)
    x, log_det = chart.to_natural(z)
    expected = torch.autograd.grad((x.permute(2, 1, 0) * f).sum() + log_det.sum(), z)[0]
    found = chart.pull_back(chart.place_batch_last(z.detach().T), f).T
    assert float((found - expected).abs().max()) < 1e-11 * float(expected.abs().max())
