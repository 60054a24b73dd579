"""A noising process that learns: bounded corrections of the mean and the variance of p_B.

With few steps a Gaussian p_F cannot be the reversal of a fixed p_B; where p_B may give way, the two meet (Sendera et
al. 2024, arXiv 2402.05098, section 5.3; Gritsaev et al. 2025, arXiv 2506.01541). The kernels become

    p_B(x_n | x_{n+1}) = N(b_n x_{n+1} + sqrt(q_n) g(u_n), q_n exp(g(v_n))),   g(u) = range tanh(u / range)

with b_n, q_n of the fixed process and u, v either tables (a learnt schedule: u_n = a_n grad log p_0(x_{n+1}), v_n a
number for every step and coordinate) or a network of x_{n+1}. At zero, before training, it is the fixed process; within
the bounds p_B stays a proper density whatever is learnt, so that log-weights need no correction. What the fixed process
has in closed form, the marginals that denoising draws from, is right only until corrections are learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from molsampler.basis.settings import setting
from molsampler.basis.space import Space
from molsampler.diffusion.networks import make_network
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.process import NoisingProcess, Steps, rows


@dataclass(frozen=True)
class NoisingConfig:
    """What the objective may change of the noising process."""

    learnt: Literal["nothing", "steps", "states"] = setting(
        "nothing",
        "corrections of the kernels' means and variances: none, one for every step and coordinate (a schedule), or by "
        "a network that sees the state",
    )
    range: float = setting(
        1.0,
        "largest change of a kernel's log-variance, in both directions, and of its mean in its own spreads",
        above=0.0,
        needs={"learnt": ("steps", "states")},
    )
    pace: float = setting(
        0.1,
        "learning rate of the corrections, as a multiple of the policy's, which has to follow them",
        above=0.0,
        needs={"learnt": ("steps", "states")},
    )
    width: int = setting(64, "of a hidden layer", low=1, needs={"learnt": "states"})
    depth: int = setting(2, "hidden layers", low=1, needs={"learnt": "states"})
    frequencies: int = setting(0, "Fourier features of every line coordinate", low=0, needs={"learnt": "states"})


class LearntNoising(NoisingProcess):
    """The process of a schedule with learnt corrections, as parameters of its own."""

    def __init__(
        self, space: Space, schedule: ScheduleConfig, config: NoisingConfig, generator: torch.Generator
    ) -> None:
        """generator : draws the network's first parameters"""
        super().__init__(space, schedule)
        self.range = config.range
        self.network = self.table = None
        if config.learnt == "states":
            self.network = make_network(space, config, 2 * space.dim, self.n_steps, generator)
        else:
            self.table = nn.Parameter(torch.zeros(self.n_steps, 2, space.dim))

    def kernel(self, x_next: Tensor, n: Steps) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p_B(. | x_next) at steps n, each (..., B, D)."""
        if self.network is not None:
            shift, widening = self.network(x_next, n).chunk(2, dim=-1)
        else:
            table = rows(self.table, n)
            shift, widening = table[..., 0, :] * self.space.prior_score(x_next), table[..., 1, :]
        log_var = rows(self.backward_log_var, n)
        mean = rows(self.backward_scale, n) * x_next + (0.5 * log_var).exp() * self._bounded(shift)
        return mean, self.space.limit_log_var(log_var + self._bounded(widening)).expand_as(mean)

    def _bounded(self, x: Tensor) -> Tensor:
        return self.range * torch.tanh(x / self.range)

    def _log_backward(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        return self.space.log_normal(x, *self.kernel(x_next, n))

    @torch.no_grad()
    def sample_step(self, x_next: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        return self.space.sample_normal(*self.kernel(x_next, n), generator)
