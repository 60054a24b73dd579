"""Batched BAOAB dynamics against closed forms and against OpenMM.

Bounds on averages are 4.5 standard errors unless said otherwise: a false alarm once in 150,000 comparisons.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.units import thermal_energy
from molsampler.molecules.dynamics.langevin import Langevin, LangevinState
from molsampler.molecules.energy.contract import Energy

BOUND = 4.5
STIFFNESS, MASS, TEMPERATURE = 2000.0, 5.0, 300.0  # kJ/mol/nm^2, dalton, K: omega = 20 / ps
KT = thermal_energy(TEMPERATURE)


class Harmonic(Energy):
    """Every atom tied to the origin by a spring."""

    def __init__(self, n_atoms: int = 1, stiffness: float = STIFFNESS, quartic: float = 0.0) -> None:
        super().__init__(n_atoms)
        self.stiffness, self.quartic = stiffness, quartic

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        square = positions.square()
        energy = (0.5 * self.stiffness * square + 0.25 * self.quartic * square.square()).sum((1, 2))
        return energy, -self.stiffness * positions - self.quartic * positions * square if forces else None


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def thermal_start(dynamics: Langevin, batch: int, generator: torch.Generator) -> LangevinState:
    """The oscillator's own ensemble, so that nothing needs to be equilibrated."""
    shape = (batch, dynamics.energy.n_atoms, 3)
    positions = math.sqrt(KT / STIFFNESS) * torch.randn(shape, generator=generator, dtype=torch.float64)
    return dynamics.start(positions, generator)


@pytest.mark.parametrize("timestep", [0.01, 0.05])  # omega dt = 0.2 and 1.0; stable below 2
def test_oscillator_has_the_stationary_covariance_of_baoab(timestep: float) -> None:
    """Positions: kT / k exactly. Velocities: kT / m (1 - (omega dt)^2 / 4), which a correct code must show as well."""
    generator = seeded(1)
    dynamics = Langevin(Harmonic(), [MASS], TEMPERATURE, timestep, friction=5.0)
    state = thermal_start(dynamics, 40_000, generator)
    state = dynamics.step(state, round(3.0 / timestep), generator)  # 15 relaxation times
    values = 3 * len(state.positions)
    relative_error = math.sqrt(2.0 / values)
    omega_dt = math.sqrt(STIFFNESS / MASS) * timestep
    for found, exact in (
        (state.positions.square().mean().item(), KT / STIFFNESS),
        (state.velocities.square().mean().item(), KT / MASS * (1.0 - omega_dt**2 / 4)),
    ):
        assert abs(found / exact - 1.0) < BOUND * relative_error
    cross = (state.positions * state.velocities).mean().item()
    assert abs(cross) < BOUND * math.sqrt(KT / STIFFNESS * KT / MASS / values)


def test_single_precision_keeps_its_dtype_and_its_ensemble() -> None:
    generator = seeded(2)
    dynamics = Langevin(Harmonic(), [MASS], TEMPERATURE, 0.01, friction=5.0)
    state = thermal_start(dynamics, 40_000, generator)
    state = dynamics.step(dynamics.start(state.positions.float(), generator), 100, generator)
    assert {state.positions.dtype, state.velocities.dtype, state.energy.dtype, state.forces.dtype} == {torch.float32}
    found = state.positions.double().square().mean().item()
    assert abs(found / (KT / STIFFNESS) - 1.0) < BOUND * math.sqrt(2.0 / 120_000)


def test_velocities_of_a_free_atom_are_an_ornstein_uhlenbeck_process() -> None:
    """Without forces: mean v0 exp(-gamma t), variance kT / m (1 - exp(-2 gamma t)), at any step."""
    batch, friction, timestep, steps = 100_000, 2.0, 0.05, 7
    dynamics = Langevin(Harmonic(stiffness=0.0), [MASS], TEMPERATURE, timestep, friction)
    state = dynamics.start(torch.zeros(batch, 1, 3, dtype=torch.float64), seeded(3))
    first = torch.full_like(state.velocities, 1.5)
    state = LangevinState(state.positions, first, state.energy, state.forces)
    velocities = dynamics.step(state, steps, seeded(4)).velocities
    decay = math.exp(-friction * timestep * steps)
    mean, variance = 1.5 * decay, KT / MASS * (1.0 - decay**2)
    assert abs(velocities.mean().item() - mean) < BOUND * math.sqrt(variance / (3 * batch))
    assert abs(velocities.var().item() / variance - 1.0) < BOUND * math.sqrt(2.0 / (3 * batch))
    assert torch.equal(first, torch.full_like(first, 1.5))  # the state handed in is left alone


def test_every_conformation_has_its_own_temperature() -> None:
    temperatures = torch.tensor([200.0, 300.0, 900.0]).repeat(10_000)
    dynamics = Langevin(Harmonic(2), [MASS, 2 * MASS], temperatures, 0.02, friction=5.0)
    generator = seeded(5)
    state = dynamics.start(torch.zeros(len(temperatures), 2, 3, dtype=torch.float64), generator)
    start = state.velocities.square().reshape(-1, 3, 2, 3).mean((0, 3))  # (temperature, atom)
    state = dynamics.step(state, 150, generator)
    found = state.positions.square().reshape(-1, 3, 2, 3).mean((0, 3))
    for k, temperature in enumerate((200.0, 300.0, 900.0)):
        for atom, mass in enumerate((MASS, 2 * MASS)):
            error = BOUND * math.sqrt(2.0 / 30_000)
            assert abs(start[k, atom].item() * mass / thermal_energy(temperature) - 1.0) < error
            assert abs(found[k, atom].item() * STIFFNESS / thermal_energy(temperature) - 1.0) < error


def test_energy_error_without_friction_shrinks_as_the_square_of_the_step() -> None:
    """Velocity Verlet in an anharmonic well: the largest error of the total energy over one time span."""

    def total_energy(state: LangevinState) -> torch.Tensor:
        return state.energy + 0.5 * MASS * state.velocities.square().sum((1, 2))

    def error(timestep: float) -> float:
        dynamics = Langevin(Harmonic(quartic=5e5), [MASS], TEMPERATURE, timestep, friction=0.0)
        state = thermal_start(dynamics, 64, seeded(6))
        total = [total_energy(state)]
        dynamics.step(state, round(2.0 / timestep), seeded(7), on_frame=lambda _, s: total.append(total_energy(s)))
        return (torch.stack(total) - total[0]).abs().max(0).values.mean().item()

    errors = [error(h) for h in (0.008, 0.004, 0.002)]
    assert errors[2] > 1e-7  # the differences compared are not rounding
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.05)


class Cliff(Harmonic):
    """A spring whose energy is NaN beyond 1 nm, for the conformations that `cursed` marks."""

    def __init__(self, cursed: Tensor) -> None:
        super().__init__()
        self.cursed = cursed

    def _evaluate(self, positions: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        energy, force = super()._evaluate(positions, forces)
        return torch.where(self.cursed & (positions.abs() > 1.0).flatten(1).any(1), torch.nan, energy), force


def test_a_conformation_that_leaves_the_numbers_is_reported_and_harms_no_other() -> None:
    positions = torch.zeros(4, 1, 3, dtype=torch.float64)
    runs = []
    for cursed in ([False] * 4, [False, True, False, False]):
        dynamics = Langevin(Cliff(torch.tensor(cursed)), [MASS], TEMPERATURE, 0.01)
        state = dynamics.start(positions, seeded(8))
        velocities = state.velocities.clone()
        velocities[1] = 30.0  # reaches the cliff in three or four steps
        runs.append(dynamics.step(LangevinState(positions, velocities, state.energy, state.forces), 50, seeded(9)))
    free, hurt = runs
    assert not free.failed.any()
    assert hurt.failed.tolist() == [False, True, False, False]
    assert torch.isfinite(hurt.positions).all() and torch.isfinite(hurt.velocities).all()
    assert 0.5 < hurt.positions[1].abs().max() <= 1.0 and (hurt.velocities[1] == 0).all()
    others = [0, 2, 3]
    assert torch.equal(hurt.positions[others], free.positions[others])
    assert torch.equal(hurt.velocities[others], free.velocities[others])


def test_evaluations_frames_and_reproducibility() -> None:
    energy = Harmonic()
    dynamics = Langevin(energy, [MASS], TEMPERATURE, 0.01)
    frames: list[tuple[int, LangevinState]] = []
    with energy.counter.purpose("md"):
        state = dynamics.start(torch.zeros(5, 1, 3), seeded(10))
        end = dynamics.step(state, 9, seeded(11), lambda k, s: frames.append((k, s)), frame_interval=3)
    assert energy.counter.by_purpose == {"md": 5 * 10}  # one evaluation a step, and one to start
    assert [k for k, _ in frames] == [3, 6, 9]
    assert torch.equal(frames[-1][1].positions, end.positions)
    assert torch.equal(dynamics.step(state, 9, seeded(11)).positions, end.positions)
    assert not torch.equal(dynamics.step(state, 9, seeded(12)).positions, end.positions)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"timestep": 0.0}, "timestep 0.0"),
        ({"friction": -1.0}, "friction -1.0"),
        ({"temperature": -300.0}, "-300.0"),
        ({"temperature": math.nan}, "nan"),
        ({"masses": [1.0, 0.0]}, "masses"),
        ({"masses": [1.0]}, "2 positive masses"),
    ],
)
def test_unusable_settings_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Langevin(Harmonic(2), **({"masses": [1.0, 1.0], "temperature": 300.0} | arguments))


def test_unusable_states_are_refused() -> None:
    dynamics = Langevin(Harmonic(), [MASS], [300.0, 400.0])
    with pytest.raises(InputError, match="2 temperatures were given for 3"):
        dynamics.start(torch.zeros(3, 1, 3), seeded(0))
    with pytest.raises(InputError, match=r"conformations \[1\]"):
        dynamics.start(torch.tensor([[[0.0] * 3], [[math.inf] * 3]]), seeded(0))


@pytest.mark.slow
def test_energies_of_alanine_dipeptide_agree_with_openmm() -> None:
    """Mean potential energy and its fluctuation at 600 K, where basins mix soon, of the same force field in OpenMM.

    OpenMM's LangevinMiddleIntegrator samples the same positions as BAOAB; its standard error is from 24 blocks of 2 ps.
    """
    openmm = pytest.importorskip("openmm")
    from openmm import unit

    from molsampler.molecules.energy.torch_energy import TorchEnergy
    from molsampler.molecules.loading.load import load_molecule

    molecule = load_molecule("aldp")
    integrator = openmm.LangevinMiddleIntegrator(600 * unit.kelvin, 5.0 / unit.picosecond, 0.001 * unit.picoseconds)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(molecule.system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(molecule.positions)
    integrator.step(10_000)
    theirs = np.empty((24, 40))
    for index in np.ndindex(*theirs.shape):
        integrator.step(50)
        theirs[index] = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole)

    generator = seeded(13)
    dynamics = Langevin(TorchEnergy(molecule), molecule.masses, 600.0, 0.001, friction=5.0)
    start = torch.as_tensor(molecule.positions, dtype=torch.float32).expand(128, -1, -1)
    kept: list[Tensor] = []
    state = dynamics.step(dynamics.start(start, generator), 10_000, generator)
    dynamics.step(state, 2_000, generator, lambda _, s: kept.append(s.energy), frame_interval=50)
    ours = torch.stack(kept, 1).double().numpy()  # (128, 40)

    for statistic in (lambda e: e.mean(1), lambda e: np.square(e - ours.mean()).mean(1)):
        a, b = statistic(ours), statistic(theirs)
        error = math.hypot(a.std(ddof=1) / math.sqrt(len(a)), b.std(ddof=1) / math.sqrt(len(b)))
        assert abs(a.mean() - b.mean()) < BOUND * error
        assert error < 0.1 * abs(a.mean())  # or the comparison would say nothing
