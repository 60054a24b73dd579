"""The policy p_F: learnt forward kernels, one for each step of a process.

`Policy` is the contract; `DiffusionPolicy` is a learnt correction to the reversal of the reference process. For data
N(0, I) x uniform the reversal of p_B is known: N(c_n x, r_n) on the line and WN(x, tau_n^2) on the circle (noise.py).
Tweedie's formula gives the mean for any data: with f_n = grad log (p_n / p_ref),

    E[x_{n+1} | x_n] = c_n x_n + r_n / c_n f_n(x_n)                (line)
    E[x_{n+1} - x_n | x_n] = tau_n^2 f_n(x_n)                       (circle, unwrapped displacement)

so the network gives f_n (scaled to order one) and a correction of the log-variance; with zero output the policy is the
reversal of the reference process, exactly.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from molsampler.basis.settings import setting
from molsampler.basis.space import Space
from molsampler.diffusion.guidance import Guidance, ScoreFunction
from molsampler.diffusion.networks import make_network
from molsampler.diffusion.process import NoisingProcess, Process, Steps, rows

Network = Callable[..., Tensor]
"""(states, steps, and whatever else the network takes) -> what it says of them."""
Mix = Callable[[Tensor, Tensor], Tensor]
"""Two unbiased regression targets (A, W) -> one; see `training.objectives.ControlVariate`."""


@dataclass(frozen=True)
class PolicyConfig:
    """The policy and its network."""

    width: int = setting(256, "of a hidden layer", low=1)
    depth: int = setting(3, "hidden layers", low=1)
    frequencies: int = setting(0, "Fourier features of every line coordinate", low=0)
    log_var_range: float = setting(
        3.0, "largest change of a step's log-variance against the reference, in both directions", above=0.0
    )
    langevin: bool = setting(
        False, "let the drift see the target's score at the current state, which costs an evaluation a step"
    )
    guide: bool = setting(
        False,
        "let network and drift see the score of a cheap stand-in where the state is expected to end, if the target has "
        "one: a molecule's force field with frozen Born radii",
    )
    score_limit: float = setting(
        3.0,
        "the score moves no coordinate by more than so many spreads of the kernel",
        above=0.0,
        needs={"langevin": True},
    )


class Policy(nn.Module, ABC):
    """p_F(x_{n+1} | x_n) of the N steps of `process`: tensors in, log densities and draws out."""

    process: Process

    @abstractmethod
    def log_prob(self, x_next: Tensor, x: Tensor, n: Steps) -> Tensor:
        """log p_F(x_next | x), (..., B), of states (..., B, D) at steps n."""

    @abstractmethod
    def sample_step(
        self, x: Tensor, n: int, generator: torch.Generator, exploration: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Draw x_{n+1} given x (B, D); also its log density (B,) under the kernel that drew it.

        exploration : the kernel's spread is widened to 1 + exploration times what it is
        """

    @abstractmethod
    def fit_losses(self, x_data: Tensor, score: Tensor, mix: Mix, generator: torch.Generator) -> Tensor:
        """Forward-KL loss of every step, (N,), on data states x_data (M, D) with grad log R there: -log p_F(x_{n+1} |
        x_n) at states noised in closed form, up to what does not train. How the M states are divided among the steps is
        the policy's own affair."""

    @abstractmethod
    def evaluated_by(self, accelerate: Callable[[nn.Module], Network]) -> Policy:
        """The same policy, with the same parameters, whose networks are evaluated by what `accelerate` makes of them:
        compiled, say, or in reduced precision."""


class Constant(Policy):
    """A policy without gradients: its densities are numbers. It has the same steps, and no parameters of its own."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.process = policy.process
        self._policy = (policy,)  # a tuple, so that its parameters do not count as this module's

    @torch.no_grad()
    def log_prob(self, x_next: Tensor, x: Tensor, n: Steps) -> Tensor:
        return self._policy[0].log_prob(x_next, x, n)

    @torch.no_grad()
    def sample_step(
        self, x: Tensor, n: int, generator: torch.Generator, exploration: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        return self._policy[0].sample_step(x, n, generator, exploration)

    @torch.no_grad()
    def fit_losses(self, x_data: Tensor, score: Tensor, mix: Mix, generator: torch.Generator) -> Tensor:
        return self._policy[0].fit_losses(x_data, score, mix, generator)

    def evaluated_by(self, accelerate: Callable[[nn.Module], Network]) -> Constant:
        return Constant(self._policy[0].evaluated_by(accelerate))


class DiffusionPolicy(Policy):
    """Mean and log-variance of a (wrapped) normal kernel, from one network for all steps.

    score : grad log R, (B, D) -> (B, D), for the Langevin parametrisation (Zhang and Chen 2022, arXiv 2111.15141):
        f_n = network + gate_n (score + x), one learnt gate a step and coordinate
    guide : the score of a stand-in for R (guidance.py)
    seen, own : the space of whole states (..., B, D), all of which the network sees, and the columns among them that
        the process diffuses; left out, the process's own space and all of it
    """

    def __init__(
        self,
        process: NoisingProcess,
        config: PolicyConfig,
        generator: torch.Generator,
        score: ScoreFunction | None = None,
        *,
        guide: ScoreFunction | None = None,
        seen: Space | None = None,
        own: slice = slice(None),  # noqa: B008, a slice is immutable
    ) -> None:
        super().__init__()
        if config.langevin and score is None:
            raise ValueError("langevin = true needs the target's score")
        self.process, self.space, self.config = process, process.space, config
        self.score, self.own = score, own
        d, seen = self.space.dim, seen or self.space
        self.guidance = Guidance(process, seen, own, guide) if guide is not None else None
        extra = seen.dim if guide is not None else 0
        self.network = make_network(seen, config, 2 * d, process.n_steps, generator, extra)
        self._evaluate: Network = self.network.forward
        self.gate = nn.Parameter(torch.zeros(process.n_steps, d)) if config.langevin else None
        self.register_buffer("step_gain", process.forward_log_var.exp() / process.forward_scale, persistent=False)

    def evaluated_by(self, accelerate: Callable[[nn.Module], Network]) -> DiffusionPolicy:
        view = copy.copy(self)
        view._evaluate = accelerate(self.network)
        return view

    def drift_and_log_var(self, x: Tensor, n: Steps) -> tuple[Tensor, Tensor]:
        """f_n(x) and the kernel's log-variance, both (..., B, d) in the coordinates that diffuse, of whole states
        x (..., B, D) at steps n."""
        guided = None if self.guidance is None else self.guidance(x, n)
        out = self._evaluate(x if guided is None else torch.cat([x, guided], dim=-1), n)
        drift, log_var = out.chunk(2, dim=-1)
        if guided is not None:
            drift = drift + self.guidance.share(guided, n)
        bound = self.config.log_var_range
        log_var = rows(self.process.forward_log_var, n) + bound * torch.tanh(log_var / bound)
        log_var = self.space.limit_log_var(log_var)
        drift = rows(self.process.drift_scale, n) * drift
        if self.gate is not None:
            drift = drift + rows(self.gate, n) * self._guidance(x, n)
        return drift, log_var

    @torch.no_grad()
    def _guidance(self, x: Tensor, n: Steps) -> Tensor:
        """grad log (R / p_ref) (..., B, d) at states x (..., B, D), bounded: what f_n tends to at the data."""
        score = self.score(x.detach().flatten(0, -2)).view_as(x)[..., self.own]
        guidance = score - self.space.prior_score(x[..., self.own])
        limit = self.config.score_limit * (-0.5 * rows(self.process.forward_log_var, n)).exp()
        return limit * torch.tanh(guidance / limit)

    def mean(self, x: Tensor, drift: Tensor, n: Steps) -> Tensor:
        """Mean (..., B, d) of the kernel from whole state (..., B, D) and drift (..., B, d) (Tweedie)."""
        return rows(self.process.forward_scale, n) * x[..., self.own] + rows(self.step_gain, n) * drift

    def forward(self, x: Tensor, n: Steps) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (..., B, d), of p_F(. | x) at steps n."""
        drift, log_var = self.drift_and_log_var(x, n)
        return self.mean(x, drift, n), log_var

    def log_prob(self, x_next: Tensor, x: Tensor, n: Steps) -> Tensor:
        mean, log_var = self(x, n)
        return self.space.log_normal(x_next[..., self.own], mean, log_var)

    def sample_step(
        self, x: Tensor, n: int, generator: torch.Generator, exploration: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        mean, log_var = self(x, n)
        if exploration:
            log_var = self.space.limit_log_var(log_var + 2.0 * math.log1p(exploration))
        drawn = self.space.sample_normal(mean, log_var, generator)
        return self._with_own(x, drawn), self.space.log_normal(drawn, mean, log_var)

    def _with_own(self, x: Tensor, own: Tensor) -> Tensor:
        """Whole states x (..., B, D) with the coordinates that diffuse replaced by (..., B, d)."""
        if own.shape == x.shape:
            return own
        x = x.clone()
        x[..., self.own] = own
        return x

    def fit_losses(self, x_data: Tensor, score: Tensor, mix: Mix, generator: torch.Generator) -> Tensor:
        """Every step has M // N states of its own. The mean is regressed on the mixture of denoising and target score
        matching, the log-variance on the sampled next state; both in the metric of -log p_F, so that its minimum is the
        forward-KL projection."""
        process = self.process
        n, size = process.n_steps, len(x_data) // process.n_steps
        x_data, score = (part[: n * size].unflatten(0, (n, size)) for part in (x_data, score))
        data = x_data[..., self.own]
        steps = torch.arange(process.n_steps, device=x_data.device)
        next_own = process.sample_marginal(data, steps + 1, generator)
        own = process.sample_step(next_own, steps, generator)
        x = self._with_own(x_data, own)
        drift, log_var = self.drift_and_log_var(x, steps)
        nll = -self.space.log_normal(next_own, self.mean(x, drift, steps).detach(), log_var)
        with torch.no_grad():
            target = mix(*process.regression_targets(data, own, score[..., self.own], steps))
        miss = (rows(self.step_gain, steps) * (drift - target)).square() * (-log_var.detach()).exp()
        return (nll + 0.5 * miss.sum(-1)).mean(-1)
