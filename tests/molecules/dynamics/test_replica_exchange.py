"""Batched replica exchange on a double well whose populations are known by quadrature.

Bounds are 4.5 standard errors (between independent ladders): a false alarm once in 150,000 comparisons.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.units import thermal_energy
from molsampler.molecules.dynamics.replica_exchange import (
    ExchangeState,
    ReplicaExchange,
    expected_acceptance,
    geometric_ladder,
    ladder_size,
)
from molsampler.molecules.energy.contract import Energy

BOUND = 4.5
MASSES = (2.0, 3.0)


class Dumbbell(Energy):
    """Two atoms whose distance r feels a tilted double well with minima near 0.3 and 0.7 nm."""

    HEIGHT, MIDDLE, HALF, TILT = 14.0, 0.5, 0.2, 8.0  # kJ/mol, nm, nm, kJ/mol/nm

    def __init__(self) -> None:
        super().__init__(2)

    @classmethod
    def profile(cls, r: Tensor) -> tuple[Tensor, Tensor]:
        q = (r - cls.MIDDLE) / cls.HALF
        well = q.square() - 1.0
        energy = cls.HEIGHT * well.square() + cls.TILT * (r - cls.MIDDLE)
        return energy, 4.0 * cls.HEIGHT * well * q / cls.HALF + cls.TILT

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        gap = positions[:, 1] - positions[:, 0]
        r = gap.norm(dim=-1)
        energy, slope = self.profile(r)
        pull = (slope / r)[:, None] * gap
        return energy, torch.stack((pull, -pull), 1) if forces else None

    @classmethod
    def exact(cls, temperature: float) -> tuple[float, float]:
        """Population of r < 0.5 nm and mean energy, by quadrature over r^2 exp(-U / RT)."""
        r = torch.linspace(0.0, 1.4, 28_001, dtype=torch.float64)
        energy = cls.profile(r)[0]
        weight = r.square() * torch.exp(-(energy - energy.min()) / thermal_energy(temperature))
        weight /= weight.sum()
        return weight[r < cls.MIDDLE].sum().item(), (weight * energy).sum().item()


def run_dumbbell(temperatures: np.ndarray, ladders: int, burn_in: int, rounds: int) -> tuple[ExchangeState, np.ndarray]:
    """The last state, and (rounds, L, T, 2): whether r < 0.5 nm, and the energy."""
    exchange = ReplicaExchange(
        Dumbbell(), MASSES, temperatures, ladders, timestep=0.005, friction=5.0, exchange_interval=10
    )
    generator = torch.Generator().manual_seed(1)
    start = torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.0, 0.0]], dtype=torch.float64)
    state = exchange.run(exchange.start(start, generator), burn_in, generator)
    kept = []

    def keep(state: ExchangeState) -> None:
        x = state.langevin.positions
        short = (x[:, 1] - x[:, 0]).norm(dim=-1) < Dumbbell.MIDDLE
        kept.append(torch.stack((short.double(), state.langevin.energy), -1).reshape(ladders, len(temperatures), 2))

    state = exchange.run(state, rounds, generator, keep)
    return state, torch.stack(kept).numpy()


@pytest.fixture(scope="module")
def dumbbell() -> tuple[np.ndarray, ExchangeState, np.ndarray]:
    temperatures = np.array([300.0, 1200.0])
    return temperatures, *run_dumbbell(temperatures, ladders=256, burn_in=150, rounds=450)


def test_populations_and_energies_are_those_of_quadrature(dumbbell: tuple) -> None:
    temperatures, _, kept = dumbbell
    of_ladder = kept.mean(0)  # (L, T, 2)
    mean, error = of_ladder.mean(0), of_ladder.std(0, ddof=1) / math.sqrt(len(of_ladder))
    for k, temperature in enumerate(temperatures):
        population, energy = Dumbbell.exact(temperature)
        assert abs(mean[k, 0] - population) < BOUND * error[k, 0]
        assert abs(mean[k, 1] - energy) < BOUND * error[k, 1]
    assert Dumbbell.exact(300.0)[0] == pytest.approx(0.4, abs=0.2)  # two populated wells, or nothing has been tested
    assert error[0, 0] < 0.01


def test_all_basins_were_reached_from_one_structure_by_exchange(dumbbell: tuple) -> None:
    """Without exchange the barrier of 5.6 RT is hardly crossed at 300 K in the same time."""
    alone = run_dumbbell(np.array([300.0]), ladders=256, burn_in=150, rounds=1)[1][..., 0].mean()
    assert alone < 0.5 * dumbbell[2][0, :, 0, 0].mean()


def test_acceptance_is_that_of_the_exact_energy_distributions(dumbbell: tuple) -> None:
    """mean of min(1, exp(d beta d U)) over independent pairs of energies drawn at the two temperatures."""
    temperatures, state, kept = dumbbell
    cold, hot = kept[-1, :, 0, 1], kept[-1, :, 1, 1]  # one energy a ladder: independent
    gap = 1.0 / thermal_energy(temperatures[0]) - 1.0 / thermal_energy(temperatures[1])
    pairs = np.exp(np.minimum(0.0, gap * (cold[:, None] - hot[None, :])))
    assert state.acceptance.shape == (1,)
    error = math.hypot(pairs.mean(1).std(), pairs.mean(0).std()) / math.sqrt(len(cold))
    assert abs(state.acceptance[0] - pairs.mean()) < BOUND * error
    assert state.attempts.tolist() == [256 * 300]  # 600 rounds, of which every other one tries this pair


def test_swaps_move_configurations_and_keep_the_books() -> None:
    """Four slots, energies set by hand so that every swap downhill in temperature is certain."""
    temperatures = geometric_ladder(300.0, 900.0, 4)
    exchange = ReplicaExchange(Dumbbell(), MASSES, temperatures, 2, exchange_interval=1)
    generator = torch.Generator().manual_seed(2)
    distance = torch.tensor([0.3, 0.7, 0.1, 1.1] * 2, dtype=torch.float64)
    positions = torch.zeros(8, 2, 3, dtype=torch.float64)
    positions[:, 1, 0] = distance
    state = exchange.start(positions, generator)
    hand_made = torch.tensor([500.0, 0.0, 300.0, 100.0, 0.0, 500.0, 100.0, 300.0], dtype=torch.float64)
    langevin = type(state.langevin)(
        state.langevin.positions, state.langevin.velocities, hand_made, state.langevin.forces
    )
    state = ExchangeState(**{**vars(state), "langevin": langevin, "rounds": 1})
    swapped = exchange._swap(state, generator)
    assert swapped.walkers.tolist() == [[1, 0, 3, 2], [0, 1, 2, 3]]
    order = torch.tensor([1, 0, 3, 2, 4, 5, 6, 7])
    assert torch.equal(swapped.langevin.positions, state.langevin.positions[order])
    assert torch.equal(swapped.langevin.energy, hand_made[order])
    assert torch.equal(swapped.langevin.forces, state.langevin.forces[order])
    scale = torch.tensor(np.sqrt(np.tile(temperatures, 2) / np.tile(temperatures, 2)[order]))
    assert torch.allclose(swapped.langevin.velocities, state.langevin.velocities[order] * scale[:, None, None])
    assert swapped.attempts.tolist() == [2, 0, 2] and swapped.accepted.tolist() == [1, 0, 1]
    odd = exchange._swap(ExchangeState(**{**vars(state), "rounds": 2}), generator)
    assert odd.attempts.tolist() == [0, 2, 0]


def test_round_trips_are_counted_from_coldest_to_hottest_and_back() -> None:
    exchange = ReplicaExchange(Dumbbell(), MASSES, geometric_ladder(300.0, 900.0, 3), 1)
    start = torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.0, 0.0]], dtype=torch.float64)
    state = exchange.start(start, torch.Generator().manual_seed(3))
    counts = []
    # Walker 0 returns at the sixth entry, walker 1 at the eighth; that walker 2 comes down from where it began (the
    # fourth) is no trip.
    for walkers in ([0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1], [0, 2, 1], [0, 1, 2], [1, 0, 2], [0, 1, 2]):
        state = exchange._count_trips(ExchangeState(**{**vars(state), "walkers": torch.tensor([walkers])}))
        counts.append(int(state.round_trips[0]))
    assert counts == [0, 0, 0, 0, 0, 1, 1, 2, 2]


class Trap(Dumbbell):
    """NaN once, for one replica, at one evaluation."""

    calls = 0

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        energy, force = super()._evaluate(positions, forces)
        self.calls += 1
        if self.calls == 5:
            energy[2] = torch.nan
        return energy, force


def test_a_replica_that_leaves_the_numbers_is_set_back_and_counted() -> None:
    exchange = ReplicaExchange(Trap(), MASSES, [300.0, 600.0], 2, exchange_interval=10)
    start = torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.0, 0.0]])
    generator = torch.Generator().manual_seed(4)
    state = exchange.run(exchange.start(start, generator), 3, generator)
    assert state.restarts == 1
    assert torch.isfinite(state.langevin.positions).all() and torch.isfinite(state.langevin.energy).all()
    assert (state.langevin.velocities != 0).all()


def test_walkers_stay_centred_and_states_survive_a_dictionary() -> None:
    exchange = ReplicaExchange(Dumbbell(), MASSES, [300.0, 600.0], 3, exchange_interval=50)
    generator = torch.Generator().manual_seed(5)
    start = torch.tensor([[9.0, 0.0, 0.0], [9.7, 0.0, 0.0]])
    state = exchange.run(exchange.start(start, generator), 4, generator)
    weighted = (torch.tensor(MASSES)[:, None] * state.langevin.positions).sum(1)
    assert weighted.abs().max() < 1e-5
    copy = ExchangeState.from_state_dict(state.state_dict())
    again, once = (exchange.run(s, 3, torch.Generator().manual_seed(6)) for s in (copy, state))
    assert torch.equal(again.langevin.positions, once.langevin.positions)
    assert again.rounds == once.rounds == 7 and torch.equal(again.walkers, once.walkers)


def test_ladders_are_geometric_and_bad_ones_are_refused() -> None:
    assert geometric_ladder(300.0, 1200.0, 3) == pytest.approx([300.0, 600.0, 1200.0])
    assert geometric_ladder(300.0, 1200.0, 1) == pytest.approx([300.0])
    for arguments in ((300.0, 200.0, 3), (0.0, 200.0, 3), (300.0, 400.0, 0)):
        with pytest.raises(InputError, match="ladder of"):
            geometric_ladder(*arguments)
    with pytest.raises(InputError, match="no ladder"):
        ReplicaExchange(Dumbbell(), MASSES, [400.0, 300.0], 2)
    with pytest.raises(InputError, match="0 ladders"):
        ReplicaExchange(Dumbbell(), MASSES, [300.0], 0)


def test_expected_acceptance_is_that_of_harmonic_energies() -> None:
    """mean of min(1, exp(d beta d U)) over independent energies of 60 harmonic degrees of freedom."""
    rng = np.random.default_rng(0)
    for ratio in (1.05, 1.2, 1.6):
        cold, hot = rng.gamma(30.0, size=200_000), ratio * rng.gamma(30.0, size=200_000)  # in RT of the colder one
        drawn = np.exp(np.minimum(0.0, (1.0 - 1.0 / ratio) * (cold - hot)))
        assert abs(expected_acceptance(ratio, 60) - drawn.mean()) < BOUND * drawn.std() / math.sqrt(len(drawn))
    assert expected_acceptance(1.0, 60) == pytest.approx(1.0)


def test_a_ladder_is_as_short_as_acceptance_allows() -> None:
    for degrees in (30, 60, 400):
        n = ladder_size(300.0, 1000.0, degrees)
        step = (1000.0 / 300.0) ** (1.0 / (n - 1))
        wider = (1000.0 / 300.0) ** (1.0 / (n - 2))
        assert 0.4 <= expected_acceptance(step, degrees) < 0.55 and expected_acceptance(wider, degrees) < 0.4
    assert ladder_size(300.0, 301.0, 60) == 2


class Springs(Energy):
    """Four atoms, every pair on a spring of length zero: a molecule that is harmonic in all of its nine coordinates."""

    STIFFNESS, ATOMS, MASS = 500.0, 4, 8.0  # kJ/mol/nm^2, -, dalton: omega = sqrt(4 * 500 / 8) = 16 / ps

    def __init__(self) -> None:
        super().__init__(self.ATOMS)

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        from_centre = positions - positions.mean(1, keepdim=True)
        stiffness = self.STIFFNESS * self.ATOMS  # sum over pairs of |x_i - x_j|^2 = N sum of |x_i - centre|^2
        return 0.5 * stiffness * from_centre.square().sum((1, 2)), -stiffness * from_centre if forces else None


@pytest.mark.parametrize("timestep", [0.005, 0.05])  # omega dt = 0.08 and 0.8
def test_a_harmonic_molecule_has_its_closed_form_at_every_time_step(timestep: float) -> None:
    """Mean energy 9/2 RT with variance 9/2 (RT)^2 at each of three temperatures: BAOAB's positions are exact here."""
    temperatures = geometric_ladder(300.0, 600.0, 3)
    ladders, steps = 400, round(0.3 / timestep)  # 5 radians of the oscillator between exchanges
    exchange = ReplicaExchange(
        Springs(), [Springs.MASS] * 4, temperatures, ladders, timestep, friction=8.0, exchange_interval=steps
    )
    generator = torch.Generator().manual_seed(3)
    start = 0.1 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    kept: list[Tensor] = []

    def keep(state: ExchangeState) -> None:
        if state.rounds > 8:
            kept.append(state.langevin.energy.reshape(ladders, 3))

    exchange.run(exchange.start(start, generator), 16, generator, keep)
    reduced = torch.stack(kept).numpy() / thermal_energy(temperatures)  # (8, L, T)
    for moment, exact in ((reduced, 4.5), (np.square(reduced - 4.5), 4.5)):
        of_ladder = moment.mean(0)
        error = of_ladder.std(0, ddof=1) / math.sqrt(ladders)
        assert (np.abs(of_ladder.mean(0) - exact) < BOUND * error).all()
        assert (error < 0.05 * exact).all()
