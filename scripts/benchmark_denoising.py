"""How well a policy's diffusion is learnt from states that never change: by step, in nats, on states held out.

    python scripts/benchmark_denoising.py tetra --changes '{"policy": {"guide": false}}' '{}' --updates 300

Each of `changes` is JSON, laid over what a run on a molecule begins with. MD, annealing, prefill and compilation are
done once. One chain in eight of the prefill is held out, and the others train nothing but the diffusion of the line.
Printed is -log p_F of noised paths of the held-out states less the same of the untrained policy, which is the exact
reversal for a standard normal at any number of steps: the sum over steps is comparable between all configurations, and
its least is minus the divergence of the target from that normal at given torsions. The noise is the same for all. One
thread.
"""

from __future__ import annotations

import time

import torch
import tyro
from benchmark_policies import begun
from torch import Tensor

from molsampler.diffusion.chain import PolicyChain
from molsampler.diffusion.policy import DiffusionPolicy
from molsampler.diffusion.process import rows
from molsampler.training.trainer import Trainer

HELD_OUT = 8  # one chain in so many
OUTLIERS = 0.01  # share of the held-out states with the largest forces that is left out
BATCH = 500  # held-out states at a time, at all steps


def main(system: tyro.conf.Positional[str], changes: tuple[str, ...] = ("{}",), updates: int = 300) -> None:
    """Train the diffusion of each configuration and print how well it predicts.

    Args:
        system: A name in systems/, a folder or a system.toml.
        changes: JSON of [train], one configuration each.
        updates: Of denoising.
    """
    for trainer in begun(system, changes):
        _train(trainer, updates)


def _train(trainer: Trainer, updates: int) -> None:
    buffer, learner, size = trainer.behaviours.buffer, trainer.learner, trainer.sizes.batch.denoising
    chains = len(buffer) // trainer.config.prefill.frames
    held = torch.arange(len(buffer)) % chains % HELD_OUT == 0  # frames of all chains follow one another
    x, score = buffer.x[: len(buffer)], buffer.score[: len(buffer)]
    force = score[held].square().sum(1)
    kept = force <= torch.quantile(force, 1.0 - OUTLIERS)
    test, generator = x[held][kept], torch.Generator().manual_seed(1)
    train_x, train_score = x[~held], score[~held]
    policy = _diffusion(learner.training_policy)
    marks, spent = {updates // 3, updates}, 0.0
    for k in range(updates):
        begun = time.process_time()
        drawn = torch.randint(len(train_x), (size,), generator=generator)
        loss = policy.fit_losses(train_x[drawn], train_score[drawn], trainer.control_variate.mix, generator).mean()
        share = learner.rate(k, updates)
        learner.step_policy(loss, share * trainer.config.optimiser.warm_rate, with_log_z=False)
        spent += time.process_time() - begun
        if k + 1 in marks:
            found = held_out_loss(_diffusion(learner.averaged), test)
            by_step = " ".join(f"{value:.3f}" for value in found.tolist())
            print(f"    {k + 1:6,} updates, {spent:5.0f} s: {float(found.sum()):.4f}   by step {by_step}", flush=True)


def _diffusion(policy: PolicyChain) -> DiffusionPolicy:
    (found,) = [part for part in policy.views if isinstance(part, DiffusionPolicy)]
    return found


@torch.no_grad()
def held_out_loss(policy: DiffusionPolicy, x: Tensor) -> Tensor:
    """-log p_F of noised paths of x (M, D) less that of the reference's reversal, (N,) float64."""
    process, generator = policy.process, torch.Generator().manual_seed(77)
    steps = torch.arange(process.n_steps)
    total = torch.zeros(process.n_steps, dtype=torch.float64)
    for data in x.split(BATCH):
        data = data.expand(process.n_steps, -1, -1)
        after = process.sample_marginal(data[..., policy.own], steps + 1, generator)
        before = process.sample_step(after, steps, generator)
        whole = data.clone()
        whole[..., policy.own] = before
        mean, log_var = policy(whole, steps)
        plain = rows(process.forward_scale, steps) * before, rows(process.forward_log_var, steps)
        miss = policy.space.log_normal(after, *plain) - policy.space.log_normal(after, mean, log_var)
        total += miss.double().sum(1)
    return total / len(x)


if __name__ == "__main__":
    tyro.cli(main)
