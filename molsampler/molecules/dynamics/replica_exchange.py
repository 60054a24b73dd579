"""Batched replica exchange: many independent temperature ladders of one molecule, all replicas in one batch.

Every slot of a ladder has a fixed temperature; configurations ("walkers") are swapped between neighbouring slots by
Metropolis' rule, even and odd pairs in turn, velocities rescaled by the square root of the ratio of temperatures.
Between swaps all slots run BAOAB dynamics, with pivot moves in between if asked for. Ladders never meet, so their
averages are independent and give standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.special import betainc
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.units import thermal_energy
from molsampler.molecules.dynamics.langevin import Langevin, LangevinState
from molsampler.molecules.dynamics.pivot import PivotBonds, pivot
from molsampler.molecules.energy.contract import Energy

_ACCEPTANCE = 0.4  # of swaps between neighbours, which `ladder_size` aims at


def geometric_ladder(coldest: float, hottest: float, n: int) -> np.ndarray:
    """n temperatures (n,) in K from `coldest` to `hottest` with one common ratio; `coldest` alone for n = 1."""
    if not (0 < coldest <= hottest) or n < 1:
        raise InputError(
            f"a ladder of {n} temperatures from {coldest} K to {hottest} K cannot be made: "
            "give at least one temperature and 0 < coldest <= hottest."
        )
    return np.geomspace(coldest, hottest, n) if n > 1 else np.array([float(coldest)])


def expected_acceptance(ratio: float, degrees: int) -> float:
    """Mean acceptance of swaps between temperatures T and ratio * T, for a harmonic molecule of `degrees` coordinates.

    Its energies at T are gamma distributed with shape degrees / 2. A swap is an involution, so that the mean of
    min(1, r) is twice the probability of r > 1, here of the colder energy above the hotter one: a beta distribution
    (Kofke, J. Chem. Phys. 117, 6911 (2002), in closed form for constant heat capacity).
    """
    return float(2.0 * betainc(degrees / 2, degrees / 2, 1.0 / (1.0 + ratio)))


def ladder_size(coldest: float, hottest: float, degrees: int) -> int:
    """The fewest temperatures (at least 2) of a geometric ladder whose neighbours accept two swaps in five."""
    n = 2
    while expected_acceptance((hottest / coldest) ** (1.0 / (n - 1)), degrees) < _ACCEPTANCE:
        n += 1
    return n


@dataclass(frozen=True)
class ExchangeState:
    """All that replica exchange carries forward, for L ladders of T temperatures.

    langevin : the B = L * T replicas, ladder by ladder, coldest first in each
    walkers : (L, T) int64, which walker sits in each slot
    heading : (L, T) int64 by walker: +1 since it left the coldest slot, -1 since it came back from the hottest, else 0
    round_trips : (L,) int64, journeys coldest -> hottest -> coldest
    attempts, accepted : (T - 1,) int64, swaps tried and made between slots t and t + 1
    pivots_tried, pivots_accepted : (T,) int64, pivot moves by slot
    rounds : number of rounds done
    restarts : number of replicas that went non-finite in a round and were set back to its start
    """

    langevin: LangevinState
    walkers: Tensor
    heading: Tensor
    round_trips: Tensor
    attempts: Tensor
    accepted: Tensor
    pivots_tried: Tensor
    pivots_accepted: Tensor
    rounds: int = 0
    restarts: int = 0

    @property
    def acceptance(self) -> np.ndarray:
        """(T - 1,) fraction of swaps accepted between neighbours; NaN where none was tried."""
        with np.errstate(invalid="ignore"):
            return self.accepted.numpy() / self.attempts.numpy()

    def state_dict(self) -> dict:
        """Plain tensors and numbers, loadable by torch.load(weights_only=True)."""
        md = self.langevin
        motion = {"positions": md.positions, "velocities": md.velocities, "energy": md.energy, "forces": md.forces}
        return motion | {item.name: getattr(self, item.name) for item in fields(self) if item.name != "langevin"}

    @classmethod
    def from_state_dict(cls, state: dict) -> ExchangeState:
        motion = {name: state[name] for name in ("positions", "velocities", "energy", "forces")}
        return cls(LangevinState(**motion), **{name: value for name, value in state.items() if name not in motion})


class ReplicaExchange:
    """Replica exchange of `ladders` independent ladders over one energy.

    energy, masses, timestep, friction : as for `Langevin`
    temperatures : (T,) K, rising
    ladders : L
    exchange_interval : steps of dynamics in a round, which ends in one attempt at swapping
    pivots : bonds for one pivot move a replica after every `pivot_interval` steps of dynamics; None for none
    """

    def __init__(
        self,
        energy: Energy,
        masses: np.ndarray | Tensor | Sequence[float],
        temperatures: np.ndarray | Sequence[float],
        ladders: int,
        timestep: float = 0.001,
        friction: float = 1.0,
        exchange_interval: int = 100,
        pivots: PivotBonds | None = None,
        pivot_interval: int = 10,
    ) -> None:
        if ladders < 1 or exchange_interval < 1 or pivot_interval < 1:
            raise InputError(
                f"{ladders} ladders with a swap every {exchange_interval} steps and a pivot move every "
                f"{pivot_interval} cannot run: give at least 1 of each."
            )
        self.temperatures = torch.as_tensor(np.asarray(temperatures), dtype=torch.float64)
        if self.temperatures.ndim != 1 or bool((self.temperatures.diff() < 0).any()):
            raise InputError(f"temperatures {self.temperatures.tolist()} K are no ladder: give them in rising order.")
        self.ladders = ladders
        self.exchange_interval = exchange_interval
        self.pivots = pivots if pivots is not None and len(pivots.axes) else None
        self.pivot_interval = pivot_interval
        self.dynamics = Langevin(energy, masses, self.temperatures.repeat(ladders), timestep, friction)
        self.beta = 1.0 / thermal_energy(self.temperatures)  # (T,) mol/kJ

    def start(self, positions: Tensor, generator: torch.Generator) -> ExchangeState:
        """Walkers with fresh velocities at positions: (N, 3) nm for all, or (L * T, N, 3), ladder by ladder."""
        n_ladders, n_slots = self.ladders, len(self.temperatures)
        if positions.ndim == 2:
            positions = positions.expand(n_ladders * n_slots, -1, -1)
        langevin = self.dynamics.start(self._centred(positions), generator)
        if bool(langevin.failed.any()):
            raise InputError("a starting structure has no finite energy: quench it first.")
        heading = torch.zeros(n_ladders, n_slots, dtype=torch.int64)
        if n_slots > 1:
            heading[:, 0] = 1
        pairs, slots = torch.zeros(n_slots - 1, dtype=torch.int64), torch.zeros(n_slots, dtype=torch.int64)
        walkers = torch.arange(n_slots).repeat(n_ladders, 1)
        trips = torch.zeros(n_ladders, dtype=torch.int64)
        return ExchangeState(langevin, walkers, heading, trips, pairs, pairs.clone(), slots, slots.clone())

    def round(self, state: ExchangeState, generator: torch.Generator) -> ExchangeState:
        """`exchange_interval` steps of every replica, then one attempt to swap every even or odd pair of neighbours."""
        moved, tried, accepted = self._move(state.langevin, generator)
        failed = moved.failed
        if bool(failed.any()):  # set back: a round that left the numbers behind is a rejected move
            moved = self._set_back(state.langevin, moved, failed, generator)
        moved = replace(moved, positions=self._centred(moved.positions))
        state = replace(
            state,
            langevin=moved,
            pivots_tried=state.pivots_tried + tried,
            pivots_accepted=state.pivots_accepted + accepted,
            rounds=state.rounds + 1,
            restarts=state.restarts + int(failed.sum()),
        )
        return self._count_trips(self._swap(state, generator))

    def run(
        self,
        state: ExchangeState,
        rounds: int,
        generator: torch.Generator,
        on_round: Callable[[ExchangeState], None] | None = None,
    ) -> ExchangeState:
        """`rounds` rounds on from `state`; `on_round(state)` after each."""
        for _ in range(rounds):
            state = self.round(state, generator)
            if on_round is not None:
                on_round(state)
        return state

    def _move(
        self, state: LangevinState, generator: torch.Generator
    ) -> tuple[LangevinState, Tensor | int, Tensor | int]:
        """The dynamics and pivot moves of a round; pivot moves tried and accepted, (T,) each."""
        tried: Tensor | int = 0
        accepted: Tensor | int = 0
        if self.pivots is None:
            return self.dynamics.step(state, self.exchange_interval, generator), tried, accepted
        beta = self.beta.repeat(self.ladders)
        for done in range(0, self.exchange_interval, self.pivot_interval):
            steps = min(self.pivot_interval, self.exchange_interval - done)
            state = self.dynamics.step(state, steps, generator)
            state, taken = pivot(self.dynamics.energy, state, self.pivots, beta, generator)
            tried = tried + self.ladders
            accepted = accepted + taken.cpu().reshape(self.ladders, -1).sum(0)
        return state, tried, accepted

    def _swap(self, state: ExchangeState, generator: torch.Generator) -> ExchangeState:
        n_ladders, n_slots = self.ladders, len(self.temperatures)
        lower = torch.arange(n_slots - 1)[(state.rounds - 1) % 2 :: 2]  # the pair (t, t + 1) by its colder slot t
        if len(lower) == 0:
            return state
        energy = state.langevin.energy.double().cpu().reshape(n_ladders, n_slots)
        log_ratio = (self.beta[lower] - self.beta[lower + 1]) * (energy[:, lower] - energy[:, lower + 1])  # (L, pairs)
        draw = torch.rand(log_ratio.shape, generator=generator, dtype=torch.float64, device=generator.device).cpu()
        accept = torch.log(draw) < log_ratio

        order = torch.arange(n_slots).repeat(n_ladders, 1)  # (L, T): the slot from which each slot's content comes
        order[:, lower] += accept.long()
        order[:, lower + 1] -= accept.long()
        scale = torch.sqrt(self.temperatures / self.temperatures[order])  # (L, T)
        index = (order + n_slots * torch.arange(n_ladders)[:, None]).flatten()
        langevin = state.langevin.select(index.to(state.langevin.positions.device))
        velocities = langevin.velocities * scale.flatten()[:, None, None].to(langevin.velocities)
        attempts, accepted = state.attempts.clone(), state.accepted.clone()
        attempts[lower] += n_ladders
        accepted[lower] += accept.sum(0)
        return replace(
            state,
            langevin=replace(langevin, velocities=velocities),
            walkers=state.walkers.gather(1, order),
            attempts=attempts,
            accepted=accepted,
        )

    @staticmethod
    def _count_trips(state: ExchangeState) -> ExchangeState:
        if state.walkers.shape[1] < 2:
            return state
        cold, hot = state.walkers[:, :1], state.walkers[:, -1:]  # (L, 1)
        back = state.heading.gather(1, cold) == -1
        turned = torch.where(state.heading.gather(1, hot) == 1, -1, state.heading.gather(1, hot))
        heading = state.heading.scatter(1, hot, turned).scatter(1, cold, 1)
        return replace(state, heading=heading, round_trips=state.round_trips + back[:, 0].long())

    def _set_back(
        self, old: LangevinState, new: LangevinState, failed: Tensor, generator: torch.Generator
    ) -> LangevinState:
        mask = failed[:, None, None]
        return LangevinState(
            torch.where(mask, old.positions, new.positions),
            torch.where(mask, self.dynamics.draw_velocities(old.positions, generator), new.velocities),
            torch.where(failed, old.energy, new.energy),
            torch.where(mask, old.forces, new.forces),
        )

    def _centred(self, positions: Tensor) -> Tensor:
        """Centre of mass at the origin: a free molecule's diffusion must not eat the digits of single precision."""
        mass = self.dynamics.masses.to(positions)[:, None]
        return positions - (mass * positions).sum(1, keepdim=True) / mass.sum()
