"""The noising process p_B: Ornstein-Uhlenbeck on the line, a wrapped random walk on the circle.

Steps run as the sampler walks: n = 0 is the prior, n = N the data. On the line x_n = s_n x_N + sqrt(1 - s_n^2) e
with signal s_n = cos(theta_n); on the circle x_n = x_N + sigma_n e, wrapped. Both kernels are Markov, so
p_B(x_n | x_{n+1}) = N(a_n x_{n+1}, 1 - a_n^2) with a_n = s_n / s_{n+1}, and WN(x_{n+1}, sigma_n^2 - sigma_{n+1}^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from molsampler.diffusion.space import MAX_CIRCLE_STD, Space

Steps = int | Tensor
"""One step for all of x (B, D), or a LongTensor (S,) of steps, one for each slice of x (S, B, D)."""


def rows(table: Tensor, n: Steps) -> Tensor:
    """Rows n of a table (N, ...), shaped to broadcast over the batch: (...) for an int, (S, 1, ...) for a tensor."""
    return table[n] if isinstance(n, int) else table[n].unsqueeze(1)


@dataclass(frozen=True)
class ScheduleConfig:
    """How noise is spread over the steps.

    n_steps : N
    prior_signal : s_0, what is left of the data at the prior on the line
    line_power : theta_n = theta_0 (1 - n / N)^line_power; above 1 puts more steps near the data
    circle_max : sigma_0 in radians
    circle_min : sigma_{N-1} in radians; in between sigma is geometric
    """

    n_steps: int = 24
    prior_signal: float = 0.02
    line_power: float = 1.0
    circle_max: float = MAX_CIRCLE_STD
    circle_min: float = 0.12


class NoisingProcess(nn.Module):
    """The fixed backward kernel p_B on a Space, and its closed-form marginals given the data.

    Buffers (float32): signal, sigma (N+1,); step_scale (N, D) = a_n on the line and 1 on the circle; step_log_var
    (N, D).
    """

    def __init__(self, space: Space, config: ScheduleConfig) -> None:
        super().__init__()
        self.space = space
        self.n_steps = n = config.n_steps
        t = torch.arange(n + 1, dtype=torch.float64) / n
        theta = math.acos(config.prior_signal) * (1.0 - t) ** config.line_power
        signal = theta.cos()
        ratio = (config.circle_min / config.circle_max) ** (1.0 / max(n - 1, 1))
        sigma = config.circle_max * ratio ** torch.arange(n + 1, dtype=torch.float64)
        sigma[n] = 0.0
        a = signal[:-1] / signal[1:]
        line = space.n_line
        scale = torch.ones(n, space.dim, dtype=torch.float64)
        scale[:, :line] = a[:, None]
        var = torch.empty(n, space.dim, dtype=torch.float64)
        var[:, :line] = (1.0 - a.square())[:, None]
        var[:, line:] = (sigma[:-1].square() - sigma[1:].square())[:, None]
        self.register_buffer("signal", signal.float())
        self.register_buffer("sigma", sigma.float())
        self.register_buffer("step_scale", scale.float())
        self.register_buffer("step_log_var", var.log().float())
        marginal_scale = torch.ones(n + 1, space.dim, dtype=torch.float64)
        marginal_scale[:, :line] = signal[:, None]
        marginal_std = torch.empty(n + 1, space.dim, dtype=torch.float64)
        marginal_std[:, :line] = theta.sin()[:, None]
        marginal_std[:, line:] = sigma[:, None]
        self.register_buffer("marginal_scale", marginal_scale.float())
        self.register_buffer("marginal_std", marginal_std.float())

    def log_prob(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        """log p_B(x | x_next) of steps n in 0..N-1; x, x_next (..., B, D) -> (..., B)."""
        return self.space.log_normal(x, rows(self.step_scale, n) * x_next, rows(self.step_log_var, n))

    def sample_step(self, x_next: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw x_n given x_{n+1}, (B, D) -> (B, D)."""
        mean = self.step_scale[n] * x_next
        return self.space.sample_normal(mean, self.step_log_var[n].expand_as(mean), generator)

    def sample_marginal(self, x_data: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        """Draw x_n, n in 0..N, given the data x_N in closed form; x_data (..., B, D) -> (..., B, D)."""
        noise = torch.randn(x_data.shape, generator=generator, dtype=x_data.dtype, device=x_data.device)
        return self.space.wrap(rows(self.marginal_scale, n) * x_data + rows(self.marginal_std, n) * noise)

    def sample_path(self, x_data: Tensor, generator: torch.Generator) -> Tensor:
        """Noise data (B, D) all the way to the prior: states (N+1, B, D), the data last."""
        states = [x_data]
        for n in reversed(range(self.n_steps)):
            states.append(self.sample_step(states[-1], n, generator))
        return torch.stack(states[::-1])

    def prior_mismatch(self, x_data: Tensor) -> float:
        """Largest absolute difference of log density between the noised data at n = 0 and the prior, first order.

        x_data : (M, D) data. On the line the noised marginal differs from N(0, 1) by s_0 mean and s_0^2 (var - 1),
        on the
        circle by the first Fourier mode 2 exp(-sigma_0^2 / 2) |E exp(i x)|. Returns the chi-square bound on the loss of
        ESS that these leave, summed over coordinates; it should be far below one.
        """
        line, circle = self.space.split(x_data.double())
        s, sigma = float(self.signal[0]), float(self.sigma[0])
        loss = (s * line.mean(0)).square().sum() + 0.5 * (s * s * (line.var(0) - 1.0)).square().sum()
        if self.space.n_circle:
            mode = torch.polar(torch.ones_like(circle), circle).mean(0).abs()
            loss = loss + 2.0 * math.exp(-sigma * sigma) * mode.square().sum()
        return float(loss)
