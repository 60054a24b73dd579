"""The batched quench: it descends, keeps its cap, and comes out of clashes and coinciding atoms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.molecules.dynamics.quench import quench
from molsampler.molecules.energy.contract import Energy


class Springs(Energy):
    """Atoms tied to sites (N, 3) by springs of very different stiffness (N,)."""

    def __init__(self, sites: Tensor, stiffness: Tensor) -> None:
        super().__init__(len(sites))
        self.sites, self.stiffness = sites, stiffness

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        gap = positions - self.sites
        pull = self.stiffness[:, None] * gap
        return 0.5 * (pull * gap).sum((1, 2)), -pull


class LennardJones(Energy):
    """A cluster of argon-like atoms, sigma 0.3 nm, epsilon 1 kJ/mol; NaN where two atoms coincide."""

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        with torch.enable_grad():
            x = positions.clone().requires_grad_()
            i, j = torch.triu_indices(self.n_atoms, self.n_atoms, 1)
            sixth = (0.3**2 / (x[:, i] - x[:, j]).square().sum(-1)) ** 3
            energy = 4.0 * (sixth.square() - sixth).sum(-1)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), -gradient


def test_every_step_descends_and_the_minimum_is_reached() -> None:
    generator = torch.Generator().manual_seed(1)
    sites = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    energy = Springs(sites, torch.tensor([1e3, 3e3, 1e4, 3e4, 1e5, 3e5], dtype=torch.float64))
    positions = sites + 0.1 * torch.randn(8, 6, 3, generator=generator, dtype=torch.float64)
    first = energy.energy(positions)
    values = [first]
    for _ in range(20):  # 20 quenches of one step each are no quench of 20, but each must descend
        positions, value = quench(energy, positions, steps=1)
        values.append(value)
    assert (torch.stack(values).diff(dim=0) < 0).all()
    final, value = quench(energy, positions, steps=600)
    assert torch.equal(value, energy.energy(final))
    assert (value < 1e-3 * first).all()


def test_a_step_that_would_climb_is_not_taken() -> None:
    """A spring so stiff that the first rate would throw the atom far over to the other side."""
    energy = Springs(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([1e8], dtype=torch.float64))
    start = torch.full((1, 1, 3), 1e-6, dtype=torch.float64)
    positions, value = quench(energy, start, steps=1)
    assert torch.equal(positions, start) and torch.equal(value, energy.energy(start))
    assert quench(energy, start, steps=60)[1] < 1e-3 * value


@pytest.mark.parametrize("max_move", [0.002, 0.01])
def test_no_atom_moves_further_than_the_cap(max_move: float) -> None:
    seen: list[Tensor] = []

    class Watched(Springs):
        def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
            seen.append(positions.clone())
            return super()._evaluate(positions, forces)

    sites = torch.zeros(2, 3, dtype=torch.float64)
    energy = Watched(sites, torch.tensor([1e7, 1.0], dtype=torch.float64))
    start = torch.ones(1, 2, 3, dtype=torch.float64)
    positions, _ = quench(energy, start, steps=10, max_move=max_move)
    for before, after in zip(seen, seen[1:], strict=False):
        assert (after - before).norm(dim=-1).max() <= max_move * (1 + 1e-9)
    moved = (positions - start).norm(dim=-1)[0]
    assert moved[0].item() == pytest.approx(10 * max_move)  # the strong force was capped at every step
    assert moved[1] < max_move  # the weak one was not scaled up


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clashing_and_coinciding_atoms_come_apart(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    clash = 0.05 * torch.randn(4, 5, 3, generator=generator, dtype=dtype)
    clash[1, 1] = clash[1, 0]  # two atoms in one place
    clash[2] = 0.0  # all of them
    energy = LennardJones(5)
    assert (~torch.isfinite(energy.energy(clash))).tolist() == [False, True, True, False]
    positions, value = quench(energy, clash, steps=600)
    assert torch.isfinite(positions).all()
    assert torch.allclose(value, energy.energy(positions))
    assert (value < 0).all()  # bound clusters, all clashes gone
    again, _ = quench(energy, clash, steps=600)
    assert torch.equal(positions, again)


def test_what_never_becomes_finite_is_reported_as_infinite() -> None:
    class Nowhere(Energy):
        def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
            return torch.full((len(positions),), torch.nan), torch.zeros_like(positions)

    positions, value = quench(Nowhere(2), torch.zeros(3, 2, 3), steps=5)
    assert torch.isposinf(value).all() and torch.isfinite(positions).all()
    assert positions.norm(dim=-1).max() <= 5 * 0.002 * (1 + 1e-6)


def test_evaluations_are_counted_and_the_input_is_left_alone() -> None:
    energy = LennardJones(3)
    start = torch.rand(7, 3, 3, generator=torch.Generator().manual_seed(3))
    copy = start.clone()
    with energy.counter.purpose("md"):
        quench(energy, start, steps=4)
    assert energy.counter.by_purpose == {"md": 7 * 5}
    assert torch.equal(start, copy)


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="max_move 0.0"):
        quench(LennardJones(2), torch.zeros(1, 2, 3), max_move=0.0)
    with pytest.raises(InputError, match="not finite"):
        quench(LennardJones(2), torch.full((1, 2, 3), math.nan))
