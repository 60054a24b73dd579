"""What a thousand effective samples cost: by a trained sampler, by replica exchange, by plain Langevin dynamics.

    python scripts/benchmark_cost.py runs/tetra

Effective samples are those of the population that is hardest to come by, of phi > 0 in the residue where the stored
reference has the fewest: p (1 - p) / (standard error)^2. The sampler's are of the samples in the run directory. Replica
exchange's are of the whole simulation behind the stored reference, over its independent ladders. Of Langevin dynamics,
at the reference's time step, friction and hydrogen mass, the rate is measured at which it leaves phi > 0, from frames
of the reference there: relaxation takes tau = (1 - p) / rate, and an effective sample 2 tau. Evaluations of the energy
are counted. Seconds are of one thread: of dynamics by what a step of the same torch energy takes here, of the sampler
what the run took, which is to have had one thread of this machine.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import mdtraj as md
import numpy as np
import torch
import tyro

from molsampler.analysis.observables.torsions import BackbonePair, backbone_pairs, phi_psi
from molsampler.analysis.reference_ensemble import Reference
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.molecules.dynamics.langevin import Langevin, LangevinState
from molsampler.molecules.dynamics.reference_simulation import repartitioned_masses
from molsampler.molecules.energy.choice import make_energy
from molsampler.molecules.loading.load import load_molecule
from molsampler.runs.results import find_reference
from molsampler.store.config_file import load_toml
from molsampler.store.run_directory import RunDirectory

WANTED = 1000  # effective samples
FIRST = 0.5  # share of the dynamics after which recrossings are over, and counting begins


def main(run: tyro.conf.Positional[Path], chains: int = 1024, steps: int = 10_000) -> None:
    """Compare the three.

    Args:
        run: A finished and analysed run on a molecule with a stored reference.
        chains: Of Langevin dynamics, all begun where phi > 0.
        steps: Of each.
    """
    torch.set_num_threads(1)
    held = load_toml(run / "config.toml")
    system = held["system"]
    if held["threads"] != 1 or held["processes"] != 1:
        raise SystemExit(f"'{run}' was not trained with --threads 1, so that its seconds cannot be compared")
    reference = find_reference(system)
    if reference is None:
        raise SystemExit(f"'{system}' has no stored reference: make one by molsampler reference {system}")
    pair, hardest = _hardest(reference)
    print(f"{system}: phi > 0 of {pair.residue}, {100 * hardest.value:.3g} % by the reference")
    print("| way | population | evaluations to begin with | per 1,000 effective | seconds to begin with | per 1,000 |")
    print("|---" * 6 + "|")
    rate, error, per_step = _leaving(system, reference, pair, chains, steps)
    settings = reference.summary["settings"]
    evaluations = reference.summary["evaluations"]
    burnt = evaluations * settings["burn_in_ps"] / (settings["burn_in_ps"] + settings["production_ps"])
    each = (evaluations - burnt) * WANTED / _effective(hardest)
    _row("replica exchange", hardest, burnt, each, burnt * per_step, each * per_step)
    tau = (1.0 - hardest.value) / rate  # ps
    each = WANTED * 2.0 * tau / settings["timestep"]
    _row("Langevin", None, 0, each, 0, each * per_step)
    print(f"  leaves phi > 0 at {1e3 * rate:.3g} +- {1e3 * error:.2g} per ns, tau {tau:.0f} ps", flush=True)
    _sampler(run, pair.residue)


def _sampler(run: Path, residue: str) -> None:
    """The row of a run, from what it wrote."""
    entries = RunDirectory(run).load_metrics()
    metrics = {name: entry["value"] for name, entry in entries.items()}
    known = entries[f"population_{residue}_phi_positive"]
    found = Estimate(known["value"], known["stderr"])
    each = metrics["samples"] * WANTED / _effective(found)
    begin = metrics["training_seconds"] + metrics["seconds_setup"]
    per_sample = metrics["seconds_sampling"] / metrics["samples"]
    _row("molsampler", found, metrics["evaluations"], each, begin, each * per_sample)


def _row(
    name: str, population: Estimate | None, evaluations: float, each: float, seconds: float, seconds_each: float
) -> None:
    held = "" if population is None else f"{100 * population.value:.3g} +- {100 * population.stderr:.2g} %"
    print(f"| {name} | {held} | {evaluations:.3g} | {each:.3g} | {seconds:.3g} | {seconds_each:.3g} |", flush=True)


def _effective(population: Estimate) -> float:
    return population.value * (1.0 - population.value) / population.stderr**2


def _hardest(reference: Reference) -> tuple[BackbonePair, Estimate]:
    """The residue whose population of phi > 0 has the fewest effective samples, and that population."""
    found = []
    for pair in backbone_pairs(reference.trajectory.topology):
        estimate = reference.residues[pair.residue].populations["phi > 0"]  # of all frames, not of the stored ones
        found.append((_effective(estimate), pair, estimate))
    _, pair, estimate = min(found, key=lambda one: one[0])
    return pair, estimate


def _leaving(
    system: str, reference: Reference, pair: BackbonePair, chains: int, steps: int
) -> tuple[float, float, float]:
    """Rate (1/ps) at which Langevin dynamics leaves phi > 0 for good, its error, and seconds a step and chain."""
    molecule, settings = load_molecule(system), reference.summary["settings"]
    energy, generator = make_energy(molecule), torch.Generator().manual_seed(0)
    masses = repartitioned_masses(molecule, settings["hydrogen_mass"])
    there = np.flatnonzero(phi_psi(reference.trajectory, pair)[:, 0] > 0.0)
    picked = there[torch.randint(len(there), (chains,), generator=generator).numpy()]
    dynamics = Langevin(energy, masses, molecule.temperature, settings["timestep"], settings["friction"])
    state = dynamics.start(torch.tensor(reference.trajectory.xyz[picked]), generator)
    begun, left = time.perf_counter(), []
    for share in (FIRST, 1.0 - FIRST):
        state = dynamics.step(state, round(share * steps), generator)
        left.append(_remaining(state, reference, pair))
    seconds = time.perf_counter() - begun
    span = (1.0 - FIRST) * steps * settings["timestep"]
    if not 0 < left[1] < left[0]:
        raise SystemExit(f"of {left[0]} chains {left[1]} stayed where phi > 0: give other --steps")
    stay = left[1] / left[0]
    return -math.log(stay) / span, math.sqrt((1.0 - stay) / (stay * left[0])) / span, seconds / (chains * steps)


def _remaining(state: LangevinState, reference: Reference, pair: BackbonePair) -> int:
    frames = md.Trajectory(state.positions[~state.failed].numpy(), reference.trajectory.topology)
    return int((phi_psi(frames, pair)[:, 0] > 0.0).sum())


if __name__ == "__main__":
    tyro.cli(main)
