"""The policy p_F: a learnt correction to the reversal of the reference process.

For data N(0, I) x uniform the reversal of p_B is known: N(c_n x, r_n) on the line and WN(x, tau_n^2) on the circle
(process.py). Tweedie's formula gives the mean for any data: with f_n = grad log (p_n / p_ref),

    E[x_{n+1} | x_n] = c_n x_n + r_n / c_n f_n(x_n)                (line)
    E[x_{n+1} - x_n | x_n] = tau_n^2 f_n(x_n)                       (circle, unwrapped displacement)

so the network gives f_n (scaled to order one) and a correction of the log-variance; with zero output the policy is the
reversal of the reference process, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from molsampler.basis.space import MAX_CIRCLE_STD
from molsampler.diffusion.networks import Features, StepMLP
from molsampler.diffusion.process import NoisingProcess, Steps, rows

CIRCLE_SOFTENING = 0.3
"""Radians: f_n on the circle is of order 1 / sqrt(sigma_n^2 + CIRCLE_SOFTENING^2), the width of a torsion's basin."""


@dataclass(frozen=True)
class PolicyConfig:
    """width, depth : hidden layers of the policy network
    frequencies : Fourier features of every line coordinate (`networks.Features`)
    log_var_range : largest change of the log-variance of a step against the reference, in both directions
    langevin : let the drift see the target's score at the current state, which costs an evaluation a step
    score_limit : the score moves no coordinate by more than so many spreads of the kernel (Langevin parametrisation)
    """

    width: int = 256
    depth: int = 3
    frequencies: int = 0
    log_var_range: float = 3.0
    langevin: bool = False
    score_limit: float = 3.0


class Policy(nn.Module):
    """p_F(x_{n+1} | x_n): mean and log-variance of a (wrapped) normal kernel, from one network for all steps.

    score : grad log R, (B, D) -> (B, D), for the Langevin parametrisation (Zhang and Chen 2022, arXiv 2111.15141):
        f_n = network + gate_n (score + x), one learnt gate a step and coordinate. Set by whoever has the target.
    """

    def __init__(self, process: NoisingProcess, config: PolicyConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.process = process
        self.space = process.space
        self.config = config
        d = self.space.dim
        self.features = Features(self.space, config.frequencies)
        self.network = StepMLP(self.features.width, 2 * d, process.n_steps, config.width, config.depth, generator)
        line = self.space.n_line
        drift_scale = process.to_data.clone()
        drift_scale[:, line:] = (process.sigma[:-1, None].square() + CIRCLE_SOFTENING**2).rsqrt()
        # set by a learner: the same network, compiled or in reduced precision, used where gradients are wanted
        self.training_network: Callable[[Tensor, Steps], Tensor] | None = None
        self.score: Callable[[Tensor], Tensor] | None = None
        self.gate = nn.Parameter(torch.zeros(process.n_steps, d)) if config.langevin else None
        self.register_buffer("drift_scale", drift_scale, persistent=False)
        self.register_buffer("step_gain", process.forward_log_var.exp() / process.forward_scale, persistent=False)

    def drift_and_log_var(self, x: Tensor, n: Steps) -> tuple[Tensor, Tensor]:
        """f_n(x) and the kernel's log-variance, both (..., B, D), of states x (..., B, D) at steps n."""
        fast = torch.is_grad_enabled() and not isinstance(n, int) and self.training_network is not None
        network = self.training_network if fast else self.network
        drift, log_var = network(self.features(x), n).chunk(2, dim=-1)
        bound = self.config.log_var_range
        log_var = rows(self.process.forward_log_var, n) + bound * torch.tanh(log_var / bound)
        if self.space.n_circle:
            limit = torch.full_like(log_var, torch.inf)
            limit[..., self.space.n_line :] = 2.0 * torch.tensor(MAX_CIRCLE_STD).log()
            log_var = torch.minimum(log_var, limit)
        drift = rows(self.drift_scale, n) * drift
        if self.gate is not None:
            drift = drift + rows(self.gate, n) * self._guidance(x, n)
        return drift, log_var

    @torch.no_grad()
    def _guidance(self, x: Tensor, n: Steps) -> Tensor:
        """grad log (R / p_ref) at states x (..., B, D), bounded: what f_n tends to at the data."""
        if self.score is None:
            raise ValueError("langevin = true needs the target's score: set policy.score")
        guidance = self.score(x.detach().flatten(0, -2)).view_as(x).clone()
        guidance[..., : self.space.n_line] += x[..., : self.space.n_line]
        limit = self.config.score_limit * (-0.5 * rows(self.process.forward_log_var, n)).exp()
        return limit * torch.tanh(guidance / limit)

    def mean(self, x: Tensor, drift: Tensor, n: Steps) -> Tensor:
        """Mean of the kernel from state and drift (Tweedie), (..., B, D)."""
        return rows(self.process.forward_scale, n) * x + rows(self.step_gain, n) * drift

    def forward(self, x: Tensor, n: Steps) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (..., B, D), of p_F(. | x) at steps n."""
        drift, log_var = self.drift_and_log_var(x, n)
        return self.mean(x, drift, n), log_var

    def log_prob(self, x_next: Tensor, x: Tensor, n: Steps) -> Tensor:
        """log p_F(x_next | x), (..., B), of states (..., B, D) at steps n."""
        mean, log_var = self(x, n)
        return self.space.log_normal(x_next, mean, log_var)

    def sample_step(
        self, x: Tensor, n: int, generator: torch.Generator, exploration: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Draw x_{n+1} given x (B, D); also its log density (B,) under the kernel that drew it.

        exploration : the kernel's spread is widened to 1 + exploration times what it is
        """
        mean, log_var = self(x, n)
        if exploration:
            log_var = log_var + 2.0 * math.log1p(exploration)
            log_var[..., self.space.n_line :].clamp_max_(2.0 * math.log(MAX_CIRCLE_STD))
        x_next = self.space.sample_normal(mean, log_var, generator)
        return x_next, self.space.log_normal(x_next, mean, log_var)
