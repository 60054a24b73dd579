"""Makes a reference ensemble: one long, resumable replica exchange of a molecule from its input structure.

All walkers start at the (quenched) input structure with velocities of their own temperature; the burn-in lets the hot
ones find the other basins and is thrown away. A small array of observables (backbone torsions, say), the energy and
whether the state is inside the support are kept of every replica after every round; frames only of the coldest ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import LARGEST_SEED, misfit_of
from molsampler.molecules.dynamics.pivot import PivotBonds
from molsampler.molecules.dynamics.quench import quench
from molsampler.molecules.dynamics.replica_exchange import ExchangeState, ReplicaExchange, geometric_ladder, ladder_size
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.molecule import Molecule
from molsampler.store.atomic import atomic_path
from molsampler.store.lock import FolderLock

STATE_FILE = "exchange_state.pt"
_RESCORE_BATCH = 500
_QUENCH_STEPS = 100  # a structure file may clash; it need not be at a minimum to start from


@dataclass(frozen=True)
class ReferenceSettings:
    """How long and how wide the simulation is."""

    temperatures: int = 0
    """Slots in a ladder, in geometric order; 0 for the fewest that should exchange in 40 % of attempts."""
    hottest: float = 1000.0
    """Temperature of the hottest slot in K."""
    ladders: int = 32
    """Independent ladders."""
    timestep: float = 0.001
    """Of the dynamics, in ps."""
    friction: float = 1.0
    """Of the dynamics, in 1/ps."""
    exchange_interval: int = 100
    """Steps of dynamics in a round, between attempts to exchange."""
    pivot_interval: int = 10
    """Steps of dynamics between pivot moves about soft bonds; 0 for none."""
    hydrogen_mass: float = 0.0
    """Of every hydrogen, in dalton, taken from the atom that it is bonded to (3 allows 0.002 ps); 0 changes nothing."""
    burn_in_ps: float = 100.0
    """Of every replica, in ps, left out."""
    production_ps: float = 400.0
    """Of every replica, in ps."""
    frames: int = 10_000
    """Number of frames of the coldest replicas to store."""
    frame_interval: int = 10
    """Rounds between the frames that those are chosen from."""
    save_interval: int = 500
    """Rounds between writes of the state file, from which an interrupted simulation goes on."""
    keep_state: bool = False
    """Leave the state file (tens of megabytes) when done, so that a longer simulation can go on from it."""
    seed: int = 0
    """Of everything random."""

    @property
    def burn_in_rounds(self) -> int:
        return round(self.burn_in_ps / (self.timestep * self.exchange_interval))

    @property
    def rounds(self) -> int:
        """Burn-in included."""
        return self.burn_in_rounds + round(self.production_ps / (self.timestep * self.exchange_interval))


_DEFAULTS = asdict(ReferenceSettings())


@dataclass(frozen=True)
class ReferenceRun:
    """What the simulation gave, for R production rounds of L ladders of T temperatures and k observables.

    positions : (M, N, 3) float32 nm, frames of the coldest replicas inside the support, evenly thinned
    potential_energy : (M,) float64 kJ/mol;  ladder : (M,) int64, the ladder of each frame
    temperatures : (T,) K
    energies : (R, L, T) float64 kJ/mol, every replica after every round
    observables : (R, L, T, k) float32;  inside : (R, L, T) bool
    summary : plain values: settings, acceptance, round_trips, fraction_dropped (of the coldest states, as out of the
        support), evaluations, restarts, mean potential energies with standard errors
    """

    positions: np.ndarray
    potential_energy: np.ndarray
    ladder: np.ndarray
    temperatures: np.ndarray
    energies: np.ndarray
    observables: np.ndarray
    inside: np.ndarray
    summary: dict[str, Any]


@dataclass
class _Records:
    """What has been kept so far, one entry a production round (or frame)."""

    energies: list[Tensor]
    observables: list[Tensor]
    inside: list[Tensor]
    frames: list[Tensor]

    def state_dict(self) -> dict[str, Tensor | None]:
        return {name: torch.stack(value) if value else None for name, value in vars(self).items()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor | None]) -> _Records:
        return cls(**{name: [] if value is None else list(value) for name, value in state.items()})


def make_reference(
    molecule: Molecule,
    energy: Energy,
    settings: ReferenceSettings,
    folder: str | Path,
    *,
    observe: Callable[[Tensor], Tensor] | None = None,
    inside_support: Callable[[Tensor], Tensor] | None = None,
    rescore: Energy | None = None,
    progress: bool = True,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> ReferenceRun:
    """Runs, or goes on with, the simulation whose state file is in `folder`.

    observe : positions (B, N, 3) nm -> (B, k), kept of every replica after every round
    inside_support : positions (B, N, 3) nm -> (B,) bool; frames outside are dropped and their fraction is reported
    rescore : an energy that gives `potential_energy` of the frames returned, usually in double; `energy` by default
    progress : show a bar;  say : where warnings go

    A run that was interrupted goes on from its last state file and ends with the frames of an uninterrupted one, or, on
    another kind of device, with new random numbers; a finished one is read back at once. A state file of other settings
    is refused with InputError, and so is a folder that another process is at work in.
    """
    _check(settings, molecule.temperature)
    path = Path(folder) / STATE_FILE
    if settings.temperatures == 0:
        count = ladder_size(molecule.temperature, settings.hottest, 3 * molecule.n_atoms - 6)
        settings = replace(settings, temperatures=count)
    temperatures = geometric_ladder(molecule.temperature, settings.hottest, settings.temperatures)
    exchange = ReplicaExchange(
        energy,
        repartitioned_masses(molecule, settings.hydrogen_mass),
        temperatures,
        settings.ladders,
        settings.timestep,
        settings.friction,
        settings.exchange_interval,
        PivotBonds.of_molecule(molecule) if settings.pivot_interval else None,
        max(1, settings.pivot_interval),
    )
    generator = torch.Generator(device=device).manual_seed(settings.seed)
    with FolderLock(folder, say), energy.counter.purpose("md"):
        if path.exists():
            state, records = _load(path, settings, generator, energy)
        else:
            start = torch.as_tensor(molecule.positions, dtype=torch.float32, device=device)
            state = exchange.start(quench(energy, start[None], _QUENCH_STEPS)[0][0], generator)
            records = _Records([], [], [], [])
        keep = _Keeper(settings, records, observe, inside_support)
        with tqdm(total=settings.rounds, initial=state.rounds, unit="round", disable=not progress) as bar:
            while state.rounds < settings.rounds:
                count = min(settings.save_interval, settings.rounds - state.rounds)
                state = exchange.run(state, count, generator, on_round=lambda new: (keep(new), bar.update()))
                _save(path, settings, state, records, generator, energy)
    return _finish(settings, temperatures, state, records, rescore or energy, energy)


def repartitioned_masses(molecule: Molecule, hydrogen_mass: float) -> np.ndarray:
    """Masses (N,) in dalton with hydrogens of `hydrogen_mass`, what they gain taken from their bonded heavy atoms.

    The sum of all masses stays. 0 leaves them as they are. Raises InputError where a heavy atom would end lighter than
    its hydrogens.
    """
    masses = np.array(molecule.masses, dtype=np.float64)
    if hydrogen_mass == 0:
        return masses
    numbers, hydrogens = molecule.graph.atomic_numbers, set()
    for pair in molecule.graph.bonds:
        for hydrogen, heavy in (pair, pair[::-1]):
            if numbers[hydrogen] == 1 and numbers[heavy] > 1:
                masses[heavy] -= hydrogen_mass - masses[hydrogen]
                masses[hydrogen] = hydrogen_mass
                hydrogens.add(hydrogen)
    others = np.delete(masses, sorted(hydrogens))
    if not hydrogen_mass > 0 or (len(others) and others.min() < hydrogen_mass):
        raise InputError(
            f"hydrogen_mass {hydrogen_mass} dalton cannot be taken from the heavy atoms: give 0 or between 1 and 4."
        )
    return masses


class _Keeper:
    """Appends what is to be kept of each production round to the records."""

    def __init__(
        self,
        settings: ReferenceSettings,
        records: _Records,
        observe: Callable[[Tensor], Tensor] | None,
        inside_support: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.settings, self.records = settings, records
        self.observe, self.inside_support = observe, inside_support

    def __call__(self, state: ExchangeState) -> None:
        settings, records = self.settings, self.records
        if state.rounds <= settings.burn_in_rounds:
            return
        shape = (settings.ladders, settings.temperatures)
        positions = state.langevin.positions
        inside = torch.ones(shape, dtype=torch.bool)
        if self.inside_support is not None:
            inside = self.inside_support(positions).reshape(shape).cpu()
        observed = positions.new_zeros(len(positions), 0) if self.observe is None else self.observe(positions)
        records.energies.append(state.langevin.energy.reshape(shape).float().cpu())
        records.observables.append(observed.reshape(*shape, -1).float().cpu())
        records.inside.append(inside)
        if (state.rounds - settings.burn_in_rounds) % settings.frame_interval == 0:
            records.frames.append(positions[:: settings.temperatures].float().cpu())


def _check(settings: ReferenceSettings, coldest: float) -> None:
    for name, kind in get_type_hints(ReferenceSettings).items():
        misfit = misfit_of(getattr(settings, name), kind)
        if misfit is not None:
            raise InputError(f"{name} = {getattr(settings, name)!r} {misfit}: give such as {_DEFAULTS[name]!r}.")
    if settings.hottest < coldest:
        raise InputError(
            f"hottest {settings.hottest:g} K is colder than the system, at {coldest:g} K: give more than that."
        )
    if not 0 <= settings.seed <= LARGEST_SEED:
        raise InputError(f"seed {settings.seed} is not usable: give a number from 0 to {LARGEST_SEED:g}.")
    if settings.burn_in_ps < 0.0:
        raise InputError(f"burn_in_ps {settings.burn_in_ps:g} must not be negative: 0 keeps everything.")
    if not (settings.timestep > 0.0 and settings.exchange_interval >= 1):
        raise InputError(
            f"timestep {settings.timestep} ps and exchange_interval {settings.exchange_interval} steps must be "
            "positive: give such as 0.001 and 100."
        )
    if settings.rounds - settings.burn_in_rounds < settings.frame_interval or settings.frame_interval < 1:
        raise InputError(
            f"production_ps {settings.production_ps} gives no frame every {settings.frame_interval} rounds: "
            "give a longer production or a frame_interval of at least 1 round that fits into it."
        )
    if settings.temperatures < 0:
        raise InputError(f"temperatures {settings.temperatures} must not be negative: 0 chooses the number of them.")
    if settings.pivot_interval < 0:
        raise InputError(f"pivot_interval {settings.pivot_interval} must not be negative: 0 means no pivot moves.")
    if settings.frames < 1 or settings.save_interval < 1:
        raise InputError(
            f"frames {settings.frames} and save_interval {settings.save_interval} must both be at least 1: raise them."
        )


def _resumable(settings: ReferenceSettings) -> dict[str, Any]:
    """The settings that a state file must share: all but those that may change when a run goes on."""
    return asdict(replace(settings, production_ps=0.0, frames=1, save_interval=1, keep_state=False))


def _save(
    path: Path,
    settings: ReferenceSettings,
    state: ExchangeState,
    records: _Records,
    generator: torch.Generator,
    energy: Energy,
) -> None:
    content = {
        "settings": _resumable(settings),
        "exchange": state.state_dict(),
        "records": records.state_dict(),
        "generator": generator.get_state(),
        "evaluations": energy.counter.by_purpose["md"],
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _load(
    path: Path, settings: ReferenceSettings, generator: torch.Generator, energy: Energy
) -> tuple[ExchangeState, _Records]:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")  # it may come from a machine with a GPU
        stored, state = content["settings"], ExchangeState.from_state_dict(content["exchange"])
        state = replace(state, langevin=state.langevin.to(generator.device))
        records = _Records.from_state_dict(content["records"])
        ranks.restore(generator, content["generator"], settings.seed, state.rounds)
        evaluations = int(content["evaluations"])
    except Exception as error:
        raise InputError(f"The state file '{path}' cannot be read ({error}): delete it to start anew.") from error
    wanted = _resumable(settings)
    differing = [
        f"{name} {stored.get(name)} there, {value} now" for name, value in wanted.items() if stored.get(name) != value
    ]
    if differing:
        raise InputError(
            f"The state file '{path}' is of another run ({'; '.join(differing)}): use its settings or another folder."
        )
    if state.rounds > settings.rounds:
        raise InputError(
            f"The state file '{path}' has {state.rounds} rounds, more than the {settings.rounds} asked for: "
            "raise production_ps or use another folder."
        )
    energy.counter.by_purpose["md"] = evaluations
    return state, records


def _finish(
    settings: ReferenceSettings,
    temperatures: np.ndarray,
    state: ExchangeState,
    records: _Records,
    rescore: Energy,
    energy: Energy,
) -> ReferenceRun:
    energies, inside = torch.stack(records.energies).double().numpy(), torch.stack(records.inside).numpy()
    frames = torch.stack(records.frames).numpy()  # (F, L, N, 3)
    of_frame = np.arange(1, len(frames) + 1) * settings.frame_interval - 1  # the round of each
    usable = np.argwhere(inside[of_frame, :, 0])  # (., 2): frame, ladder
    if len(usable) == 0:
        raise InputError("no frame of the coldest replicas is inside the support: check the input structure.")
    usable = usable[np.linspace(0, len(usable) - 1, min(settings.frames, len(usable))).round().astype(int)]
    positions, ladder = frames[usable[:, 0], usable[:, 1]], usable[:, 1]
    order = np.argsort(ladder, kind="stable")
    positions, ladder = positions[order], ladder[order]
    with rescore.counter.purpose("analysis"):
        batches = np.array_split(positions.astype(np.float64), -(-len(positions) // _RESCORE_BATCH))
        scores = np.concatenate([rescore.energy(torch.from_numpy(batch)).double().cpu().numpy() for batch in batches])
    of_ladder = energies.mean(0)  # (L, T)
    spread = of_ladder.std(0, ddof=1) if settings.ladders > 1 else np.full(len(temperatures), np.nan)
    summary = {
        "settings": asdict(settings),
        "temperatures": temperatures.tolist(),
        "acceptance": state.acceptance.tolist(),
        "pivot_acceptance": (state.pivots_accepted / state.pivots_tried.clamp_min(1)).tolist(),
        "round_trips": int(state.round_trips.sum()),
        "round_trips_by_ladder": state.round_trips.tolist(),
        "restarts": state.restarts,
        "fraction_dropped": float(1.0 - inside[:, :, 0].mean()),
        "mean_potential_energy": of_ladder.mean(0).tolist(),
        "mean_potential_energy_stderr": (spread / np.sqrt(settings.ladders)).tolist(),
        "evaluations": energy.counter.by_purpose["md"],
    }
    observables = torch.stack(records.observables).numpy()
    return ReferenceRun(positions, scores, ladder, temperatures, energies, observables, inside, summary)
