"""What the losses of the twist are worth, on the policies of finished runs: the scatter of log Z over passes of SMC.

    python scripts/benchmark_twists.py runs/gmm25/tb-0 runs/gmm25/tb-1 runs/gmm25/tb-2

The averaged policy of each run on a synthetic target stays as it is. For every loss a fresh twist is trained beside it,
on one batch of rollouts to three of states replayed by importance weight; then many independent passes of equally many
particles are made. Printed are the standard deviation of the passes' log Z with its error, the mean number of
resamplings, and how far log Z by all passes together is off. kappa = 0 never resamples: plain importance sampling,
whatever the twist. kappa above 1 resamples at every chunk end. The runs are left as they are. One thread.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import get_args, get_type_hints

import torch
import tyro

from molsampler.basis.settings import change
from molsampler.diffusion.trajectories import score_states
from molsampler.runs import synthetic
from molsampler.runs.density import DensityRunDirectory
from molsampler.smc.sampler import SMCPass
from molsampler.smc.trained import TrainedSampler
from molsampler.training.config import TrainConfig
from molsampler.training.learner import Learner
from molsampler.training.trainer import Trainer

LOSSES = get_args(get_type_hints(TrainConfig)["twist_loss"])
REPLAYS = 3  # to one batch of rollouts
SEED = 20_251_125


def main(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    losses: tuple[str, ...] = LOSSES,
    updates: int = 400,
    kappas: tuple[float, ...] = (0.0, 0.2, 1.1),
    moves: tuple[int, ...] = (0,),
    passes: int = 200,
    particles: int = 128,
) -> None:
    """Compare the losses.

    Args:
        runs: Run directories of run_synthetic.py, of arms with more than one chunk of steps.
        losses: Of the twist, each by itself.
        updates: Of each twist.
        kappas: Resample where ESS < kappa K.
        moves: Steps of MALA on the twist at every chunk end, for each kappa above 0.
        passes: Independent passes of SMC.
        particles: K, of each pass.
    """
    torch.set_num_threads(1)
    print(
        f"| run | loss | kappa | moves | sd of log Z over {passes} passes of {particles} | resamplings | log Z off by |"
    )
    print("|---" * 7 + "|")
    for path in runs:
        for loss in losses:
            with synthetic.resume(DensityRunDirectory.claim(path, resume=True), say=lambda text: None) as run:
                fit(run.trainer, loss, updates)
                ways = [(kappa, steps) for kappa in kappas for steps in (moves if kappa else (0,))]
                for kappa, steps in ways:
                    log_z, resampled = repeated(run.trainer.sampler(), kappa, steps, passes, particles)
                    spread, truth = float(log_z.std()), run.target.log_z
                    whole = float(log_z.logsumexp(0)) - math.log(passes)
                    off = "" if truth is None else f"{whole - truth:+.3f}"
                    error = spread / math.sqrt(2.0 * passes - 2.0)
                    words = (
                        path.name,
                        loss,
                        f"{kappa:g}",
                        f"{steps}",
                        f"{spread:.3f} +- {error:.3f}",
                        f"{resampled:.2f}",
                        off,
                    )
                    print(f"| {' | '.join(words)} |", flush=True)


def fit(trainer: Trainer, loss: str, updates: int) -> None:
    """Train a fresh twist by that loss beside the averaged policy, which is left alone."""
    learner, batch, generator = trainer.learner, trainer.sizes.batch.balance, torch.Generator().manual_seed(SEED)
    trainer.behaviours.generator = generator
    trainer.twisting.config = change(trainer.sizes, twist_loss=loss)
    learner.twist.load_state_dict(Learner(trainer.target.space, trainer.sizes).twist.state_dict())
    learner.start_phase()
    for k in range(updates):
        forward = k % (REPLAYS + 1) == 0
        with torch.no_grad():
            states, log_r = trainer.behaviours.on_policy(batch) if forward else trainer.behaviours.replay(batch)
            trajectories = score_states(learner.policy, states, trainer.surrogate(log_r))
        share = learner.rate(k, updates)
        trainer.twisting.update(trajectories, forward, trainer.behaviours, share * learner.config.twist_rate)


def repeated(
    trained: TrainedSampler, kappa: float, moves: int, passes: int, particles: int
) -> tuple[torch.Tensor, float]:
    """log Z (passes,) of independent passes, and the mean number of resamplings in one."""
    generator = torch.Generator().manual_seed(SEED)
    config = dataclasses.replace(trained.smc_config, kappa=kappa, moves=moves)
    log_z, resamplings = [], 0
    for _ in range(passes):
        one = SMCPass(trained.policy, trained.log_twist, trained.log_prob, particles, config, generator)
        found, info = one.run()
        log_z.append(found.weights.log_mean)
        resamplings += len(info.resampled_at)
    return torch.tensor(log_z, dtype=torch.float64), resamplings / passes


if __name__ == "__main__":
    tyro.cli(main)
