"""Trajectories: states from prior to data, and the log densities of their steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.diffusion.policy import Policy


@dataclass(frozen=True)
class Trajectories:
    """states : (N+1, B, D), x_0 from the prior, x_N the sample
    log_p_f, log_p_b : (N, B), log density of every step under policy and noising process
    log_r : (B,), log R(x_N); log_p_0 : (B,), log p_0(x_0)
    """

    states: Tensor
    log_p_f: Tensor
    log_p_b: Tensor
    log_r: Tensor
    log_p_0: Tensor

    def log_weights(self) -> Tensor:
        """log w = log R + sum log p_B - log p_0 - sum log p_F, (B,)."""
        return self.log_r + (self.log_p_b - self.log_p_f).sum(0) - self.log_p_0


def score_states(policy: Policy, states: Tensor, log_r: Tensor) -> Trajectories:
    """Score given states (N+1, B, D) in one network call over all N steps; gradients flow into the policy."""
    steps = torch.arange(policy.process.n_steps, device=states.device)
    log_p_f = policy.log_prob(states[1:], states[:-1], steps)
    log_p_b = policy.process.log_prob(states[:-1], states[1:], steps)
    return Trajectories(states, log_p_f, log_p_b, log_r, policy.process.log_prior(states[0]))


@torch.no_grad()
def rollout(policy: Policy, n: int, generator: torch.Generator, exploration: float = 0.0) -> tuple[Tensor, Tensor]:
    """Draw n trajectories from the policy: states (N+1, n, D) and log (p_F p_0 / p_B) summed over steps, (n,).

    The second is log of the density ratio that plain importance sampling needs: log w = log R(x_N) minus it.
    exploration : widen every kernel (`Policy.sample_step`); the ratio is that of the wider kernels.
    """
    return _walk(policy, n, generator, exploration)


def differentiable_rollout(policy: Policy, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`rollout` with gradients through the states, by reparameterisation: for the reverse KL divergence.

    A score inside the policy (Langevin parametrisation) is taken as a constant.
    """
    return _walk(policy, n, generator, 0.0)


def _walk(policy: Policy, n: int, generator: torch.Generator, exploration: float) -> tuple[Tensor, Tensor]:
    x = policy.process.sample_prior(n, generator)
    states, log_ratio = [x], policy.process.log_prior(x)
    for k in range(policy.process.n_steps):
        x_next, log_p_f = policy.sample_step(x, k, generator, exploration)
        log_ratio = log_ratio + log_p_f - policy.process.log_prob(x, x_next, k)
        states.append(x_next)
        x = x_next
    return torch.stack(states), log_ratio
