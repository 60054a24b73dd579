"""The noising process p_B: Ornstein-Uhlenbeck or pinned Brownian on the line, a wrapped random walk on the circle.

Steps run as the sampler walks: n = 0 is the prior, n = N the data. Given the data, x_n = m_n x_N + std_n e; both
kernels of a step are linear and Gaussian (wrapped, on the circle):

    p_B(x_n | x_{n+1}) = N(b_n x_{n+1}, q_n)         reference, of data N(0, I): N(c_n x_n, r_n), marginal N(0, v_n)

    Ornstein-Uhlenbeck (DDS)    m_n = s_n = cos(theta_n), std_n = sin(theta_n), v_n = 1, b = c = s_n / s_{n+1}, q = r
    pinned Brownian (PIS)       m_n = t_n, std_n^2 = t_n (1 - t_n), v_n = t_n, c = 1, r = t_{n+1} - t_n, x_0 = 0
    circle                      m_n = 1, std_n = sigma_n, b = c = 1, q = r = sigma_n^2 - sigma_{n+1}^2
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from molsampler.basis.errors import InputError
from molsampler.basis.space import LOG_2PI, MAX_CIRCLE_STD, Space

Steps = int | Tensor
"""One step for all of x (B, D), or a LongTensor (S,) of steps, one for each slice of x (S, B, D)."""


def rows(table: Tensor, n: Steps) -> Tensor:
    """Rows n of a table (N, ...), shaped to broadcast over the batch: (...) for an int, (S, 1, ...) for a tensor."""
    return table[n] if isinstance(n, int) else table[n].unsqueeze(1)


@dataclass(frozen=True)
class ScheduleConfig:
    """How noise is spread over the steps.

    n_steps : N
    process : on the line, "ou" (Ornstein-Uhlenbeck, prior N(0, 1)) or "brownian" (pinned at 0, total variance 1)
    prior_signal : s_0, what is left of the data at the prior on the line (Ornstein-Uhlenbeck)
    line_power : theta_n = theta_0 (1 - n / N)^line_power, and 1 - t_n = (1 - n / N)^(2 line_power); above 1 puts more
        steps near the data
    circle_max : sigma_0 in radians
    circle_min : sigma_{N-1} in radians; in between sigma is geometric
    """

    n_steps: int = 24
    process: Literal["ou", "brownian"] = "ou"
    prior_signal: float = 0.02
    line_power: float = 1.0
    circle_max: float = MAX_CIRCLE_STD
    circle_min: float = 0.12


@dataclass(frozen=True)
class _Line:
    """Tables of the process on the line, float64 (N,) or (N+1,); see the module's text.

    data_gain, state_gain : grad log (p(x_n | x_N) / p_ref(x_n)) = data_gain x_N + state_gain x_n
    to_data : d x_N / d x_n of the reference walked forward
    """

    marginal_scale: Tensor
    marginal_std: Tensor
    reference_var: Tensor
    backward_scale: Tensor
    backward_var: Tensor
    forward_scale: Tensor
    forward_var: Tensor
    data_gain: Tensor
    state_gain: Tensor
    to_data: Tensor


def _ornstein_uhlenbeck(config: ScheduleConfig, t: Tensor) -> _Line:
    theta = math.acos(config.prior_signal) * (1.0 - t) ** config.line_power
    signal, noise = theta.cos(), theta.sin()
    a = signal[:-1] / signal[1:]
    var = 1.0 - a.square()
    s, s2, noise2 = signal[:-1], signal[:-1].square(), noise[:-1].square()
    return _Line(signal, noise, torch.ones_like(t), a, var, a, var, s / noise2, -s2 / noise2, s)


def _pinned_brownian(config: ScheduleConfig, t: Tensor) -> _Line:
    time = 1.0 - (1.0 - t) ** (2.0 * config.line_power)
    step, ratio = time[1:] - time[:-1], time[:-1] / time[1:]
    one, left = torch.ones_like(step), 1.0 - time[:-1]
    std = (time * (1.0 - time)).clamp_min(0.0).sqrt()
    return _Line(time, std, time, ratio, ratio * step, one, step, 1.0 / left, -1.0 / left, one)


class NoisingProcess(nn.Module):
    """The fixed backward kernel p_B on a Space, its closed-form marginals given the data, and the prior it ends in.

    Buffers, float32. (N, D): backward_scale, backward_log_var, forward_scale, forward_log_var, data_gain, state_gain,
    to_data; (N+1, D): marginal_scale, marginal_std, reference_var; (N+1,): signal, sigma. A pinned process has
    x_0 = 0, whose log density under prior and p_B counts as zero.
    """

    def __init__(self, space: Space, config: ScheduleConfig) -> None:
        super().__init__()
        self.space = space
        self.n_steps = n = config.n_steps
        self.pinned = config.process == "brownian"
        if self.pinned and space.n_circle:
            raise InputError(
                f'process = "brownian" is pinned at 0 and has no form for the {space.n_circle} angles of this target: '
                'use "ou"'
            )
        t = torch.arange(n + 1, dtype=torch.float64) / n
        line = (_pinned_brownian if self.pinned else _ornstein_uhlenbeck)(config, t)
        ratio = (config.circle_min / config.circle_max) ** (1.0 / max(n - 1, 1))
        sigma = config.circle_max * ratio ** torch.arange(n + 1, dtype=torch.float64)
        sigma[n] = 0.0
        circle_var = sigma[:-1].square() - sigma[1:].square()
        one = torch.ones_like(sigma)
        tables = {
            "backward_scale": (line.backward_scale, one[:-1]),
            "backward_log_var": (line.backward_var.log(), circle_var.log()),
            "forward_scale": (line.forward_scale, one[:-1]),
            "forward_log_var": (line.forward_var.log(), circle_var.log()),
            "data_gain": (line.data_gain, one[:-1]),
            "state_gain": (line.state_gain, one[:-1]),
            "to_data": (line.to_data, one[:-1]),
            "marginal_scale": (line.marginal_scale, one),
            "marginal_std": (line.marginal_std, sigma),
            "reference_var": (line.reference_var, one),
        }
        for name, (on_line, on_circle) in tables.items():
            table = torch.empty(len(on_line), space.dim, dtype=torch.float64)
            table[:, : space.n_line], table[:, space.n_line :] = on_line[:, None], on_circle[:, None]
            self.register_buffer(name, table.float())
        self.register_buffer("signal", line.marginal_scale.float())
        self.register_buffer("sigma", sigma.float())

    def sample_prior(self, n: int, generator: torch.Generator, dtype=torch.float32) -> Tensor:
        """(n, D) draws of x_0."""
        if self.pinned:
            return torch.zeros(n, self.space.dim, dtype=dtype, device=generator.device)
        return self.space.sample_prior(n, generator, dtype)

    def log_prior(self, x: Tensor) -> Tensor:
        """log p_0(x), (..., D) -> (...)."""
        return torch.zeros_like(x[..., 0]) if self.pinned else self.space.log_prior(x)

    def log_reference(self, x: Tensor, n: int) -> Tensor:
        """log density (...) at step n, above 0 where pinned, of x (..., D) under the reference of data N(0, I)."""
        if not self.pinned:
            return self.space.log_prior(x)
        var = self.reference_var[n]
        return -0.5 * (x.square() / var + var.log() + LOG_2PI).sum(-1)

    def log_prob(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        """log p_B(x | x_next) of steps n in 0..N-1; x, x_next (..., B, D) -> (..., B)."""
        if not self.pinned:
            return self._log_backward(x, x_next, n)
        if isinstance(n, int):
            return self._log_backward(x, x_next, n) if n else torch.zeros_like(x[..., 0])
        return torch.where(n[:, None] > 0, self._log_backward(x, x_next, n), 0.0)

    def _log_backward(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        return self.space.log_normal(x, rows(self.backward_scale, n) * x_next, rows(self.backward_log_var, n))

    def sample_step(self, x_next: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        """Draw x_n given x_{n+1}, (..., B, D) -> (..., B, D)."""
        mean = rows(self.backward_scale, n) * x_next
        return self.space.sample_normal(mean, rows(self.backward_log_var, n).expand_as(mean), generator)

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
        on the circle by the first Fourier mode 2 exp(-sigma_0^2 / 2) |E exp(i x)|. Returns the chi-square bound on
        the loss of ESS that these leave, summed over coordinates; it should be far below one. A pinned process has
        none.
        """
        if self.pinned:
            return 0.0
        line, circle = self.space.split(x_data.double())
        s, sigma = float(self.signal[0]), float(self.sigma[0])
        loss = (s * line.mean(0)).square().sum() + 0.5 * (s * s * (line.var(0) - 1.0)).square().sum()
        if self.space.n_circle:
            mode = torch.polar(torch.ones_like(circle), circle).mean(0).abs()
            loss = loss + 2.0 * math.exp(-sigma * sigma) * mode.square().sum()
        return float(loss)
