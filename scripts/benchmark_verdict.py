"""Whether the verdict on a run's coverage can be trusted: a trained policy is damaged on purpose, and the verdict has
to say so; left as it is, the verdict has to be silent.

    python scripts/benchmark_verdict.py runs/aldp --repeats 20

A repeat draws fresh samples and anneals fresh independent states, and judges four policies by them: the trained one;
one that never goes to a state (a basin of a residue, a well of a soft torsion, a piece) which is chosen by turns among
those of at least `least` of the weight; one that goes there a twentieth as often; and one that does so without
knowing, its weights there as small as its visits. The density of a damaged policy is known: that of the trained one
times t(x_N) / E[t], with t = 0 or 1/20 in the state and 1 elsewhere, E the mean over the trained policy. Samples are
thinned by t, and log-weights of samples and of the independent states' trajectories change by -log t + log E[t]; the
policy that does not know keeps them as they are, as where all that it saw of the state was its rim.
Energies are those of the training. Printed are the states with the share of damaged policies that were flagged, and
that of healthy ones. One thread.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mdtraj as md
import numpy as np
import torch
import tyro

import molsampler
from molsampler.analysis import steps
from molsampler.analysis.coverage import coverage
from molsampler.analysis.report.coverage_text import judge_coverage
from molsampler.analysis.study import Independent, Study
from molsampler.runs.coverage import annealed_states, held_against
from molsampler.runs.molecule import Job
from molsampler.runs.results import subject_of
from molsampler.store.run_directory import RunDirectory, Samples

SEED = 30_000_000
HEALTHY = "trained policy"


class Damage(NamedTuple):
    """name : in the table; tilt : the policy's density in the state, as a multiple; known : to its weights"""

    name: str
    tilt: float
    known: bool


DAMAGES = (
    Damage("never drawn", 0.0, True),
    Damage("a twentieth", 0.05, True),
    Damage("a twentieth, weights wrong", 0.05, False),
)


def main(run: tyro.conf.Positional[Path], repeats: int = 20, samples: int = 10_000, least: float = 0.02) -> None:
    """Judge healthy and damaged policies.

    Args:
        run: A finished run on a molecule.
        repeats: Of samples and independent states.
        samples: Of each policy.
        least: Weight of a state, by the independent states, from which on it is to be flagged.
    """
    torch.set_num_threads(1)
    flagged: dict[str, list[bool]] = defaultdict(list)
    with molsampler.resume(run) as held, tempfile.TemporaryDirectory() as folder:
        for k in range(repeats):
            for name, sentences in verdicts(held.job, RunDirectory(Path(folder)), k, samples, least):
                flagged[name].append(bool(sentences))
                if (name == HEALTHY) == bool(sentences):
                    print(f"  {k}, {name}: {' '.join(sentences) or 'nothing said'}", flush=True)
    for name, found in flagged.items():
        print(f"{name:60s} {sum(found):3d} of {len(found)} flagged")
    for damage in DAMAGES:
        found = [one for name, ones in flagged.items() if name.startswith(f"{damage.name}: ") for one in ones]
        print(f"{f'{damage.name}, all states':60s} {sum(found):3d} of {len(found)} flagged")


def verdicts(job: Job, run: RunDirectory, k: int, n: int, least: float) -> Iterator[tuple[str, list[str]]]:
    """The policies of repeat k, and what is said against each."""
    states = annealed_states(job, SEED + k)
    if states is None:
        raise SystemExit("annealing did not get through: there is nothing to judge by")
    other = held_against(job, states)
    drawn = job.trainer.sampler().draw(n, torch.Generator().manual_seed(SEED + k))
    topology = md.Topology.from_openmm(job.molecule.topology)
    frames = md.Trajectory(job.target.positions(drawn.x).numpy(), topology)
    log_w = drawn.log_w.numpy()
    healthy = studied(job, run, Samples(frames, log_w, np.zeros(n), drawn.log_r.double().numpy()), other)
    yield HEALTHY, against(healthy)
    named = [row for row in healthy.coverage.rows if least <= row.independent.value <= 0.5]
    row = named[k % len(named)]
    (inside,) = (state.inside for state in healthy.states if (state.label, state.name) == (row.label, row.state))
    thinning = np.random.default_rng(k).random(n)
    for damage in DAMAGES:
        kept = ~inside | (thinning < damage.tilt)
        log_mean = change = 0.0
        if damage.known:
            log_mean = np.log1p(-inside.mean() * (1.0 - damage.tilt))
            change = -np.log(damage.tilt) if damage.tilt else np.inf
        samples = Samples(
            frames[kept], (log_w + log_mean + np.where(inside, change, 0.0))[kept], np.zeros(kept.sum()), log_w[kept]
        )
        theirs = other.log_weights + log_mean + np.where(row.inside, change, 0.0)[:, None]
        damaged = studied(job, run, samples, dataclasses.replace(other, log_weights=theirs))
        yield f"{damage.name}: {row.state} of {row.label}", against(damaged)


def studied(job: Job, run: RunDirectory, samples: Samples, other: Independent) -> Study:
    study = Study.of(run, dataclasses.replace(subject_of(job), independent=other), samples, None)
    for step in (steps.weights, steps.backbone, steps.pieces, coverage):
        step(study)
    return study


def against(study: Study) -> list[str]:
    """What the verdict says against a policy's coverage."""
    said: list[str] = []

    def say(sentence: str, level: str = "good") -> None:
        if level != "good":
            said.append(sentence)

    judge_coverage(say, study.coverage)
    return said


if __name__ == "__main__":
    tyro.cli(main)
