"""Pivot moves: geometry, which bonds, and the exact distribution of a torsion under Metropolis' rule.

Bounds are 4.5 standard errors: a false alarm once in 150,000 comparisons.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from molsampler.basis.units import thermal_energy
from molsampler.molecules.coordinates.internal import dihedral, wrap
from molsampler.molecules.dynamics import pivot as pivot_module
from molsampler.molecules.dynamics.langevin import Langevin
from molsampler.molecules.dynamics.pivot import PivotBonds, pivot, rotate
from molsampler.molecules.dynamics.replica_exchange import ReplicaExchange
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.loading.load import load_molecule

CHAIN = torch.tensor([[0.0, 0.1, 0.0], [0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [0.2, 0.1, 0.05]], dtype=torch.float64)
BONDS = PivotBonds(torch.tensor([[1, 2]]), torch.tensor([[False, False, False, True]]))


def torsion(positions: Tensor) -> Tensor:
    return dihedral(*positions.unbind(1))


class Torsion(Energy):
    """U = 3 cos(phi) - 4 cos(2 phi + 1) kJ/mol of a chain of four atoms; +inf (by NaN) for phi above `wall`."""

    def __init__(self, wall: float = math.inf) -> None:
        super().__init__(4)
        self.wall = wall

    @staticmethod
    def profile(phi: Tensor) -> Tensor:
        return 3.0 * torch.cos(phi) - 4.0 * torch.cos(2.0 * phi + 1.0)

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        with torch.enable_grad():
            x = positions.clone().requires_grad_()
            phi = torsion(x)
            energy = self.profile(phi)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        return torch.where(phi > self.wall, torch.nan, energy).detach(), -gradient


def test_rotation_turns_a_torsion_by_its_angle_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(1)
    start = CHAIN + 0.02 * torch.randn(50, 4, 3, generator=generator, dtype=torch.float64)
    angle = 2 * math.pi * torch.rand(50, generator=generator, dtype=torch.float64) - math.pi
    turned = start.clone()
    turned[:, 3:] = rotate(start, start[:, 1], start[:, 2], angle)[:, 3:]
    assert torch.allclose(wrap(torsion(turned) - torsion(start) - angle), torch.zeros(50).double(), atol=1e-9)
    everything = rotate(start, start[:, 1], start[:, 2], angle)
    assert torch.allclose(torch.cdist(everything, everything), torch.cdist(start, start), atol=1e-12)
    assert torch.allclose(everything[:, 1:3], start[:, 1:3], atol=1e-15)
    proposed = BONDS.propose(start, generator)
    assert torch.equal(proposed[:, :3], start[:, :3]) and not torch.isclose(proposed[:, 3], start[:, 3]).all(-1).any()
    lengths = (proposed[:, 3] - proposed[:, 2]).norm(dim=-1), (start[:, 3] - start[:, 2]).norm(dim=-1)
    assert torch.allclose(*lengths)


@pytest.mark.parametrize(("temperature", "wall"), [(300.0, math.inf), (900.0, math.inf), (300.0, 1.0)])
def test_torsions_become_boltzmann_distributed(temperature: float, wall: float) -> None:
    """20,000 chains from one torsion; both wells, and none beyond a wall of non-finite energy. Quadrature in 8 bins."""
    energy, generator = Torsion(wall), torch.Generator().manual_seed(2)
    dynamics = Langevin(energy, [1.0] * 4, temperature)
    state = dynamics.start(CHAIN.expand(20_000, -1, -1), generator)
    beta = torch.full((20_000,), 1.0 / thermal_energy(temperature))
    velocities = state.velocities
    for _ in range(30):
        state, accepted = pivot(energy, state, BONDS, beta, generator)
    assert 0.05 < accepted.double().mean() < 0.95
    assert torch.equal(state.velocities, velocities)
    assert torch.allclose(state.energy, energy.energy(state.positions))
    assert torch.allclose(state.forces, energy.energy_and_forces(state.positions)[1])

    grid = torch.linspace(-math.pi, math.pi, 80_001, dtype=torch.float64)
    grid = 0.5 * (grid[1:] + grid[:-1])
    weight = torch.exp(-beta[0] * Torsion.profile(grid)) * (grid <= wall)
    bins = 8

    def histogram(phi: Tensor, weights: Tensor) -> Tensor:
        index = ((phi + math.pi) / (2 * math.pi) * bins).long().clamp(0, bins - 1)
        return torch.zeros(bins, dtype=torch.float64).index_add(0, index, weights) / weights.sum()

    exact = histogram(grid, weight)
    found = histogram(torsion(state.positions), torch.ones(20_000, dtype=torch.float64))
    error = torch.sqrt(exact * (1 - exact) / 20_000)
    assert ((found - exact).abs() <= 4.5 * error).all()


def test_failed_conformations_stay_failed() -> None:
    energy, generator = Torsion(), torch.Generator().manual_seed(3)
    state = Langevin(energy, [1.0] * 4, 300.0).start(CHAIN.expand(200, -1, -1), generator)
    state.energy[:100] = torch.inf
    moved, accepted = pivot(energy, state, BONDS, torch.full((200,), 0.4), generator)
    assert not accepted[:100].any() and accepted[100:].any()
    assert moved.failed.tolist() == [True] * 100 + [False] * 100


def test_bonds_of_alanine_dipeptide_are_phi_and_psi() -> None:
    """Not its amides (stiff), not its methyls (nothing but hydrogens to turn), each side the smaller one."""
    molecule = load_molecule("aldp")
    bonds = PivotBonds.of_molecule(molecule)
    labels = [{molecule.atom_labels[k].split("-")[1] for k in axis} for axis in bonds.axes.tolist()]
    assert sorted(map(sorted, labels)) == [["C", "CA"], ["CA", "N"]]
    start = torch.as_tensor(molecule.positions, dtype=torch.float64).expand(64, -1, -1)
    turned = bonds.propose(start, torch.Generator().manual_seed(4))
    pairs = torch.tensor(molecule.bonds)

    def lengths(x: Tensor) -> Tensor:
        return (x[:, pairs[:, 0]] - x[:, pairs[:, 1]]).norm(dim=-1)

    assert torch.allclose(lengths(turned), lengths(start), atol=1e-12)
    assert (bonds.moved.sum(1) <= molecule.n_atoms // 2).all()
    assert set((turned != start).any(-1).sum(1).tolist()) == {7}
    free = PivotBonds.of_molecule(dataclasses.replace(molecule, amides="free"))
    amides = {frozenset(amide[1:3]) for amide in molecule.graph.isomeric_amides}
    assert {frozenset(axis) for axis in free.axes.tolist()} == {
        frozenset(axis) for axis in bonds.axes.tolist()
    } | amides


def test_an_amide_that_keeps_its_side_is_not_turned_however_low_its_barrier(monkeypatch) -> None:
    """As in OpenFF, whose tertiary amides have less than SOFT_BARRIER: turned, it would lie off the support."""
    molecule = load_molecule("aldp")
    monkeypatch.setattr(pivot_module, "torsion_barriers", lambda molecule, axes: dict.fromkeys(axes, 0.0))
    bonds = PivotBonds.of_molecule(molecule)
    amides = {frozenset(amide[1:3]) for amide in molecule.graph.amides}
    turned = {frozenset(axis) for axis in bonds.axes.tolist()}
    assert len(amides) == 2 and len(turned) > 0 and not turned & amides
    free = PivotBonds.of_molecule(dataclasses.replace(molecule, amides="free"))
    assert {frozenset(axis) for axis in free.axes.tolist()} == turned | amides


def test_replica_exchange_makes_and_counts_them() -> None:
    energy = Torsion()
    exchange = ReplicaExchange(
        energy, [12.0] * 4, [300.0, 600.0], 3, exchange_interval=10, pivots=BONDS, pivot_interval=4
    )
    generator = torch.Generator().manual_seed(5)
    state = exchange.run(exchange.start(CHAIN, generator), 2, generator)
    assert state.pivots_tried.tolist() == [18, 18]  # after steps 4, 8 and 10 of two rounds, three ladders
    assert (state.pivots_accepted > 0).all() and (state.pivots_accepted < 18).all()
    assert energy.counter.total == 6 * (1 + 2 * 13)
