"""What the twists of finished runs on synthetic targets are worth: the scatter of log Z over passes of SMC.

    python scripts/benchmark_twists.py runs/gmm25/default-0 runs/gmm25/twist-optimal-0 --kappas 0 0.2 0.5 1.1

For every run and every kappa many independent passes of equally many particles are made with the averaged policy and
the twist; printed are the standard deviation of the passes' log Z with its error, the mean number of resamplings, and
the error of log Z by all of them. kappa = 0 never resamples: plain importance sampling, whatever the twist. kappa above
1 resamples at every chunk end, where the scatter is the twist's alone. One thread.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
import tyro

from molsampler.runs import synthetic
from molsampler.runs.density import DensityRunDirectory
from molsampler.smc.sampler import SMCPass
from molsampler.smc.trained import TrainedSampler

SEED = 20_251_125


def main(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    kappas: tuple[float, ...] = (0.0, 0.2, 0.5, 1.1),
    passes: int = 200,
    particles: int = 128,
) -> None:
    """Judge the twist of each run.

    Args:
        runs: Run directories of run_synthetic.py.
        kappas: Resample where ESS < kappa K.
        passes: Independent passes of SMC.
        particles: K, of each pass.
    """
    torch.set_num_threads(1)
    print(f"| run | kappa | sd of log Z over {passes} passes of {particles} | resamplings a pass | error of log Z |")
    print("|---" * 5 + "|")
    for path in runs:
        with synthetic.resume(DensityRunDirectory.claim(path, resume=True), say=lambda text: None) as run:
            trained, truth = run.trainer.sampler(), run.target.log_z
            for kappa in kappas:
                log_z, resampled = repeated(trained, kappa, passes, particles)
                spread = float(log_z.std())
                whole = float(log_z.logsumexp(0)) - math.log(passes)
                error = f"{whole - truth:+.3f}" if truth is not None else ""
                print(
                    f"| {path.name} | {kappa:g} | {spread:.3f} +- {spread / math.sqrt(2.0 * passes - 2.0):.3f} | "
                    f"{resampled:.2f} | {error} |",
                    flush=True,
                )


def repeated(trained: TrainedSampler, kappa: float, passes: int, particles: int) -> tuple[torch.Tensor, float]:
    """log Z (passes,) of independent passes, and the mean number of resamplings in one."""
    generator = torch.Generator().manual_seed(SEED)
    config = dataclasses.replace(trained.smc_config, kappa=kappa)
    log_z, resamplings = [], 0
    for _ in range(passes):
        one = SMCPass(trained.policy, trained.log_twist, trained.log_prob, particles, config, generator)
        found, info = one.run()
        log_z.append(found.weights.log_mean)
        resamplings += len(info.resampled_at)
    return torch.tensor(log_z, dtype=torch.float64), resamplings / passes


if __name__ == "__main__":
    tyro.cli(main)
