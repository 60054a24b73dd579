"""Sequential Monte Carlo with the policy as proposal and the twist as intermediate targets (Choi et al. 2025).

    propagate a chunk of L steps with p_F
    multiply the weights by F_end prod p_B / (F_start prod p_F)
    where ESS < kappa K and n < N: resample from a ~ w^lambda, keep w / (K a)

The weights start at 1 from p_0 (F_0 = p_0), end at F_N = R and stay unnormalised, so their mean is an unbiased
estimate of Z for every twist, kappa and lambda.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from molsampler.basis.log_weights import LogWeights
from molsampler.basis.resampling import systematic
from molsampler.diffusion.policy import Policy

LogTwist = Callable[[Tensor, int], Tensor]
"""(states (B, D), step n) -> log F_n (B,), finite everywhere, for steps 0 < n < N."""


@dataclass(frozen=True)
class SMCConfig:
    """chunk : steps between two looks at the weights; divides N
    kappa : resample where ESS < kappa K
    gamma : temper the resampling weights to an ESS of gamma K
    """

    chunk: int = 6
    kappa: float = 0.2
    gamma: float = 0.05


@dataclass(frozen=True)
class SMCInfo:
    """What happened on the way, one entry a chunk boundary 0 < n < N, in order.

    steps : n; ess : ESS / K before resampling; exponents : lambda where it resampled, None where not
    distinct_ancestors : number of particles at n = 0 that have a descendant at n = N
    """

    steps: list[int] = field(default_factory=list)
    ess: list[float] = field(default_factory=list)
    exponents: list[float | None] = field(default_factory=list)
    distinct_ancestors: int = 0

    @property
    def resampled_at(self) -> list[int]:
        return [n for n, exponent in zip(self.steps, self.exponents, strict=True) if exponent is not None]


@dataclass(frozen=True)
class Particles:
    """x : (K, D) terminal states; log_r : (K,) log R(x); log_w : (K,) unnormalised log-weights, their mean estimates
    Z."""

    x: Tensor
    log_r: Tensor
    log_w: Tensor

    @property
    def weights(self) -> LogWeights:
        return LogWeights(self.log_w)


@torch.no_grad()
def run_smc(
    policy: Policy,
    log_twist: LogTwist,
    log_prob: Callable[[Tensor], Tensor],
    n_particles: int,
    config: SMCConfig,
    generator: torch.Generator,
) -> tuple[Particles, SMCInfo]:
    """One run of K particles; log_prob is log R, (B, D) -> (B,), -inf outside the support.

    Without resampling (kappa = 0) this is importance sampling with the policy, whatever the twist.
    """
    process, n_steps = policy.process, policy.process.n_steps
    if n_steps % config.chunk:
        raise ValueError(f"the SMC chunk of {config.chunk} steps does not divide the {n_steps} steps of the process")
    x = process.sample_prior(n_particles, generator)
    log_start = process.log_prior(x)
    log_w = torch.zeros(n_particles, dtype=torch.float64, device=x.device)
    ancestors = torch.arange(n_particles, device=x.device)
    info = SMCInfo()
    for start in range(0, n_steps, config.chunk):
        end = start + config.chunk
        x, log_ratio = _propagate(policy, x, start, end, generator)
        log_end = log_twist(x, end) if end < n_steps else log_prob(x)
        log_w = log_w + log_end.double() - log_start.double() - log_ratio
        log_start = log_end
        if end < n_steps:
            log_w, picked, info = _resample(log_w, end, config, generator, info)
            if picked is not None:
                x, log_start, ancestors = x[picked], log_start[picked], ancestors[picked]
    alive = ancestors[log_w > -torch.inf]
    info = SMCInfo(info.steps, info.ess, info.exponents, len(alive.unique()))
    return Particles(x, log_start, log_w), info


def _propagate(policy: Policy, x: Tensor, start: int, end: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Steps start..end-1 of the policy; the states reached and sum (log p_F - log p_B), (K,) float64."""
    log_ratio = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for n in range(start, end):
        x_next, log_p_f = policy.sample_step(x, n, generator)
        log_ratio += (log_p_f - policy.process.log_prob(x, x_next, n)).double()
        x = x_next
    return x, log_ratio


def _resample(
    log_w: Tensor, n: int, config: SMCConfig, generator: torch.Generator, info: SMCInfo
) -> tuple[Tensor, Tensor | None, SMCInfo]:
    weights = LogWeights(log_w)
    exponent = None
    picked = None
    if not weights.collapsed and weights.ess_fraction < config.kappa:
        exponent = weights.tempering_exponent(config.gamma)
        proposal = weights.power(exponent).normalised
        picked = systematic(generator, proposal, len(weights))
        log_w = log_w[picked] - (len(weights) * proposal[picked]).log()
    info = SMCInfo(
        [*info.steps, n], [*info.ess, weights.ess_fraction], [*info.exponents, exponent], info.distinct_ancestors
    )
    return log_w, picked, info
