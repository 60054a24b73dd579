"""Weighted samples from a trained policy: plain importance sampling, or sequential Monte Carlo with the twist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.diffusion.policy import Policy
from molsampler.diffusion.trajectories import rollout
from molsampler.smc.sampler import LogTwist, SMCConfig, run_smc

_CHUNK = 2048
SMC_RUNS = 64
"""Least number of independent SMC runs, whose scatter gives the ESS of SMC (DESIGN: ESS)."""


@dataclass(frozen=True)
class Drawn:
    """Samples before their final energies are known.

    x : (n, D) states; log_r : (n,) log R as the sampler saw it; log_ratio : (n,) float64, log R minus the
    log-weight, so that
    a rescored log R' gives the log-weight log R' - log_ratio; group : (n,) SMC run of each sample, or None
    """

    x: Tensor
    log_r: Tensor
    log_ratio: Tensor
    group: Tensor | None = None


def check_samples(n: int, sampler: str) -> None:
    """InputError where n samples are too few for the sampler ("policy" or "smc")."""
    if n < 1:
        raise InputError(f"{n} samples were asked for: ask for at least 1")
    if sampler == "smc" and n < 2 * SMC_RUNS:
        raise InputError(
            f"{n} samples are too few for SMC: ask for at least {2 * SMC_RUNS}, {SMC_RUNS} runs of 2 particles"
        )


@torch.no_grad()
def sample_policy(
    policy: Policy,
    log_prob: Callable[[Tensor], Tensor],
    n: int,
    generator: torch.Generator,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> Drawn:
    """n independent rollouts of the policy with importance weights; log_prob is log R."""
    check_samples(n, "policy")
    parts = []
    for size in _sizes(n, _CHUNK):
        states, log_ratio = rollout(policy, size, generator)
        parts.append((states[-1], log_prob(states[-1]), log_ratio.double()))
        on_chunk(size)
    x, log_r, log_ratio = (torch.cat(part) for part in zip(*parts, strict=True))
    return Drawn(x, log_r, log_ratio)


def sample_smc(
    policy: Policy,
    log_twist: LogTwist,
    log_prob: Callable[[Tensor], Tensor],
    n: int,
    config: SMCConfig,
    generator: torch.Generator,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> tuple[Drawn, list[int]]:
    """n particles from SMC_RUNS independent runs of equal size (n is rounded up); also distinct ancestors of each
    run."""
    check_samples(n, "smc")
    size = -(-n // SMC_RUNS)
    parts, ancestors = [], []
    for run in range(SMC_RUNS):
        particles, info = run_smc(policy, log_twist, log_prob, size, config, generator)
        log_r = particles.log_r
        log_ratio = torch.where(log_r > -torch.inf, log_r.double() - particles.log_w, 0.0)
        parts.append((particles.x, log_r, log_ratio, torch.full((size,), run)))
        ancestors.append(info.distinct_ancestors)
        on_chunk(size)
    return Drawn(*(torch.cat(part) for part in zip(*parts, strict=True))), ancestors


def _sizes(n: int, chunk: int) -> list[int]:
    return [chunk] * (n // chunk) + ([n % chunk] if n % chunk else [])
