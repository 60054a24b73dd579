"""What sampling costs by importance sampling and by sequential Monte Carlo: the scatter of log Z and of a population
over repeats, at equal evaluations of the energy.

    python scripts/benchmark_sampling.py runs/tetra --repeats 60

The averaged policy and the twist of a finished run on a molecule stay as they are. A repeat is one pass that evaluates
`evaluations` energies (torch or OpenMM, whatever trained). Ways: importance sampling with the policy; SMC by the twist;
an emulator of log R that chooses among 2, 4, ... proposals, with and without the twist. Printed are, over the repeats,
the standard deviation of log Z and of the population with any phi > 0, the evaluations that importance sampling needs
for one of the way in question by both (the ratio of the variances), distinct ancestors, and seconds a repeat. A ratio
of R repeats has a relative error of 2 / sqrt(R - 1). One thread.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mdtraj as md
import numpy as np
import torch
import tyro

import molsampler
from molsampler.runs.molecule import Job
from molsampler.smc.sampler import SMCConfig, SMCPass
from molsampler.training.emulator import Emulator

SEED = 20_261_130
NEVER, OFTEN = 0.0, 0.9  # kappa


@dataclass(frozen=True)
class Way:
    """name : in the table; config : of a pass; emulated : whether an emulator chooses among proposals"""

    name: str
    config: SMCConfig
    emulated: bool


def main(
    run: tyro.conf.Positional[Path],
    evaluations: int = 2048,
    repeats: int = 20,
    proposals: tuple[int, ...] = (2, 4, 8, 16),
) -> None:
    """Compare the ways.

    Args:
        run: A finished run on a molecule with phi angles.
        evaluations: Of the energy, in every repeat.
        repeats: Of each way.
        proposals: That the emulator chooses among.
    """
    torch.set_num_threads(1)
    with molsampler.resume(run) as held:
        job = held.job
        begun = time.perf_counter()
        emulator = job.emulator(torch.Generator().manual_seed(SEED))
        print(f"emulator: {emulator.error:.2f} off, fitted in {time.perf_counter() - begun:.0f} s", flush=True)
        print("| way | sd of log Z | sd of P(phi > 0) | worth, by log Z | worth, by P | ancestors | seconds |")
        print("|---" * 7 + "|", flush=True)
        first = None
        for way in ways(job.trainer.config.smc, proposals):
            found, ancestors, seconds = repeated(job, way, emulator, evaluations, repeats)
            spread = found.std(0, ddof=1)
            first = spread if first is None else first
            worth = (first / spread) ** 2
            cells = (way.name, f"{spread[0]:.4f}", f"{100 * spread[1]:.3f} %", *(f"{w:.2f}" for w in worth))
            print(f"| {' | '.join(cells)} | {ancestors:.0f} | {seconds:.2f} |", flush=True)


def ways(config: SMCConfig, proposals: tuple[int, ...]) -> Iterator[Way]:
    """Importance sampling first, which the others are compared with."""

    def at(kappa: float, n: int = 1) -> SMCConfig:
        return dataclasses.replace(config, kappa=kappa, proposals=n)

    yield Way("importance sampling", at(NEVER), False)
    for kappa in (config.kappa, OFTEN):
        yield Way(f"twist, kappa {kappa:g}", at(kappa), False)
    for n in proposals:
        yield Way(f"emulator, {n} proposals", at(NEVER, n), True)
    yield Way(f"emulator, {proposals[-1]} proposals; twist, kappa {OFTEN:g}", at(OFTEN, proposals[-1]), True)


def repeated(job: Job, way: Way, emulator: Emulator, evaluations: int, repeats: int) -> tuple[np.ndarray, float, float]:
    """log Z and the population (repeats, 2); distinct ancestors and seconds of a repeat, on average."""
    generator, sampler = torch.Generator().manual_seed(SEED), job.trainer.sampler()
    found, ancestors, seconds = [], 0, 0.0
    topology = md.Topology.from_openmm(job.molecule.topology)
    for _ in range(repeats):
        begun = time.perf_counter()
        one = SMCPass(
            sampler.policy,
            sampler.log_twist,
            sampler.log_prob,
            evaluations,
            way.config,
            generator,
            emulator if way.emulated else None,
        )
        particles, info = one.run()
        seconds += time.perf_counter() - begun
        ancestors += info.distinct_ancestors
        frames = md.Trajectory(job.target.positions(particles.x).numpy(), topology)
        positive = (md.compute_phi(frames)[1] > 0.0).any(1)
        found.append((particles.weights.log_mean, particles.weights.normalised.numpy()[positive].sum()))
    return np.array(found), ancestors / repeats, seconds / repeats


if __name__ == "__main__":
    tyro.cli(main)
