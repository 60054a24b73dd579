"""Configurations of the training against each other, from one start: where they come to, and where the nats are.

    python scripts/benchmark_policies.py aldp --changes '{"warm_updates": 1500, "updates": 300}' '{...}'

Each of `changes` is JSON, laid over what a run on a molecule begins with. MD, annealing and compilation are done once,
and `"start": "scratch"` does without what annealing found, but for the chart. Evaluations are those after all that.
A line is printed at quarters, halves and ends of both stages, with the ESS of the averaged policy on fresh samples, the
ESS with the largest 10^-3 of the weights clipped (the literature's habit, never used elsewhere here), the gap log Z -
median log w, and processor seconds. At the end the gap is split: how much the diffusion loses at fixed torsions, how
much the torsions' own density. One thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import torch
import tyro

from molsampler.basis.log_weights import LogWeights
from molsampler.basis.settings import change
from molsampler.diffusion.chain import ProcessChain
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.energy.choice import make_energy
from molsampler.molecules.loading.load import load_molecule
from molsampler.preparation.short_md import short_md, standardise
from molsampler.preparation.start import prepare
from molsampler.runs.loop import settle
from molsampler.runs.molecule import RunConfig, check
from molsampler.smc.trained import TrainedSampler
from molsampler.targets.molecule import MoleculeTarget
from molsampler.training.trainer import Trainer

SAMPLES = 32_768
TORSIONS, LINES = 256, 64  # torsion states, and diffusions of the rest given each, for the split


def main(system: tyro.conf.Positional[str], changes: tuple[str, ...] = ("{}",), samples: int = SAMPLES) -> None:
    """Train each configuration and print how it went.

    Args:
        system: A name in systems/, a folder or a system.toml.
        changes: JSON of [train], one configuration each; give warm_updates and updates.
        samples: Behind each ESS.
    """
    for trainer in begun(system, changes):
        _train(trainer, samples)
        sampler = trainer.sampler()
        if isinstance(sampler.process, ProcessChain):
            within, between = split_gap(sampler)
            print(f"    gap at fixed torsions {within:.3f}, of the torsions {between:.3f}")


def begun(system: str, changes: tuple[str, ...]) -> Iterator[Trainer]:
    """A trainer of each configuration, one after the other, all from one start; what is changed is printed."""
    configs = [settle(change(RunConfig(), system=system, threads=1, train=json.loads(text))) for text in changes]
    for config in configs:
        check(config)
    molecule = load_molecule(system)
    energy = make_energy(molecule)
    generator = torch.Generator().manual_seed(0)
    chart = Chart(molecule)
    standardise(chart, molecule, energy, short_md(molecule, energy, configs[0].setup, generator, "cpu"))
    target = MoleculeTarget(molecule, chart, energy)
    start = prepare(target, configs[0].train.anneal, generator, print)
    for text, config in zip(changes, configs, strict=True):
        print(text)
        trainer = Trainer(target, config.train, torch.Generator().manual_seed(config.train.seed))
        trainer.begin(start if config.train.start == "annealed" else None)
        yield trainer
    energy.close()


def _train(trainer: Trainer, samples: int) -> None:
    warm, rest = trainer.warm_updates, trainer.updates
    marks = {warm // 4, warm // 2, warm, warm + rest // 2, warm + rest}
    counter = trainer.target.counter
    before, begun = counter.spent, time.process_time()
    while trainer.done < trainer.total:
        trainer.update()
        if trainer.done in marks:
            seconds = time.process_time() - begun
            with counter.purpose("analysis"):
                log_w = trainer.sampler().draw(samples, torch.Generator().manual_seed(5)).log_w
            cost = f"{seconds:5.0f} s, {(counter.spent - before) / 1e6:.2f} M evaluations"
            print(f"    {trainer.done:6,} updates, {cost}: {_told(log_w)}", flush=True)
            begun = time.process_time() - seconds


def _told(log_w: torch.Tensor) -> str:
    weights = LogWeights(log_w)
    cut = torch.quantile(log_w, 1.0 - 1e-3)
    clipped = LogWeights(log_w.clamp_max(cut)).ess_fraction
    gap = weights.log_mean - float(log_w.median())
    return f"ESS {weights.ess_fraction:.1%} (clipped {clipped:.1%}), gap {gap:.3f}, log Z {weights.log_mean:.3f}"


@torch.no_grad()
def split_gap(sampler: TrainedSampler) -> tuple[float, float]:
    """log Z - median log w at fixed torsions (the median over torsion states), and that of the torsions' density
    against the estimated marginal."""
    process, policy, generator = sampler.process, sampler.policy, torch.Generator().manual_seed(9)
    torsions, line = process.links
    x, log_q = process.sample_prior(TORSIONS, generator), torch.zeros(TORSIONS, dtype=torch.float64)
    for n in range(torsions.start, torsions.end):
        x, log_p = policy.sample_step(x, n, generator)
        log_q += log_p.double()
    x = x.repeat_interleave(LINES, 0)
    x[:, line.own] = line.process.sample_prior(len(x), generator)
    log_ratio = line.process.log_prior(x[:, line.own]).double()
    for n in range(line.start, line.end):
        y, log_p = policy.sample_step(x, n, generator)
        log_ratio += (log_p - process.log_prob(x, y, n)).double()
        x = y
    log_w = (sampler.log_prob(x).double() - log_ratio).view(TORSIONS, LINES)
    marginal = torch.tensor([LogWeights(row).log_mean for row in log_w], dtype=torch.float64)
    within = (marginal - log_w.median(1).values).median()
    between = LogWeights(marginal - log_q)
    return float(within), between.log_mean - float(between.log_w.median())


if __name__ == "__main__":
    tyro.cli(main)
