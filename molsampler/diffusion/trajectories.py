"""Trajectories: states from prior to data, the log densities of their steps, and log F at chunk ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from molsampler.diffusion.policy import Policy


@dataclass(frozen=True)
class Trajectories:
    """states : (N+1, B, D), x_0 from the prior, x_N the sample
    log_p_f, log_p_b : (N, B), log density of every step under policy and noising process
    log_r : (B,), log R(x_N); log_p_0 : (B,), log p_0(x_0)
    ends, log_f : chunk ends 0 < n < N, and log F_n at the states there, (len(ends), B); none and None without a twist
    """

    states: Tensor
    log_p_f: Tensor
    log_p_b: Tensor
    log_r: Tensor
    log_p_0: Tensor
    ends: tuple[int, ...] = ()
    log_f: Tensor | None = None

    @property
    def n_steps(self) -> int:
        return len(self.log_p_f)

    def log_weights(self) -> Tensor:
        """log w = log R + sum log p_B - log p_0 - sum log p_F, (B,)."""
        return self.log_r + (self.log_p_b - self.log_p_f).sum(0) - self.log_p_0

    def flow(self, log_z: Tensor) -> Tensor:
        """log F at the start, at the chunk ends and at the data, (len(ends) + 2, B): Z p_0, F_n and R."""
        inner = [] if self.log_f is None else list(self.log_f)
        return torch.stack([log_z + self.log_p_0, *inner, self.log_r])

    def by_chunk(self) -> Tensor:
        """log p_F - log p_B summed over each chunk, (len(ends) + 1, B)."""
        bounds = (0, *self.ends, self.n_steps)
        log_ratio = self.log_p_f - self.log_p_b
        return torch.stack([log_ratio[a:b].sum(0) for a, b in zip(bounds, bounds[1:], strict=False)])

    def with_flow(self, ends: tuple[int, ...], log_f: Tensor | None) -> Trajectories:
        """The same trajectories, with log F at these chunk ends."""
        return replace(self, ends=ends, log_f=log_f)


def score_states(policy: Policy, states: Tensor, log_r: Tensor) -> Trajectories:
    """Score given states (N+1, B, D) in one network call over all N steps; gradients flow into the policy."""
    steps = torch.arange(policy.process.n_steps, device=states.device)
    log_p_f = policy.log_prob(states[1:], states[:-1], steps)
    log_p_b = policy.process.log_prob(states[:-1], states[1:], steps)
    return Trajectories(states, log_p_f, log_p_b, log_r, policy.process.log_prior(states[0]))


@torch.no_grad()
def rollout(
    policy: Policy, n: int, generator: torch.Generator, exploration: float = 0.0, given: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw n trajectories from the policy: states (N+1, n, D) and log (p_F p_0 / p_B) summed over steps, (n,).

    The second is log of the density ratio that plain importance sampling needs: log w = log R(x_N) minus it.
    exploration : widen every kernel (`Policy.sample_step`); the ratio is that of the wider kernels.
    given : (n, K) the condition of each, where states hold one; left out, drawn among those to train on
    """
    return _walk(policy, n, generator, exploration, given)


def differentiable_rollout(policy: Policy, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`rollout` with gradients through the states, by reparameterisation: for the reverse KL divergence.

    A score inside the policy (Langevin parametrisation) is taken as a constant.
    """
    return _walk(policy, n, generator, 0.0)


def _walk(
    policy: Policy, n: int, generator: torch.Generator, exploration: float, given: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    x = policy.process.sample_prior(n, generator)
    if given is not None:
        x = policy.process.space.with_condition(x, given)
    states, log_ratio = [x], policy.process.log_prior(x)
    for k in range(policy.process.n_steps):
        x_next, log_p_f = policy.sample_step(x, k, generator, exploration)
        log_ratio = log_ratio + log_p_f - policy.process.log_prob(x, x_next, k)
        states.append(x_next)
        x = x_next
    return torch.stack(states), log_ratio
