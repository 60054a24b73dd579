"""How noise enters each part of a space: the tables of the linear Gaussian kernels, and what a denoiser regresses on.

Given the data, x_n = m_n x_N + std_n e; both kernels of a step are linear and Gaussian (wrapped, on the circle):

    p_B(x_n | x_{n+1}) = N(b_n x_{n+1}, q_n)         reference, of data N(0, I): N(c_n x_n, r_n), marginal N(0, v_n)

    Ornstein-Uhlenbeck (DDS)    m_n = s_n = cos(theta_n), std_n = sin(theta_n), v_n = 1, b = c = s_n / s_{n+1}, q = r
    pinned Brownian (PIS)       m_n = t_n, std_n^2 = t_n (1 - t_n), v_n = t_n, c = 1, r = t_{n+1} - t_n, x_0 = 0
    circle                      m_n = 1, std_n = sigma_n, b = c = 1, q = r = sigma_n^2 - sigma_{n+1}^2
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.settings import setting
from molsampler.basis.space import MAX_CIRCLE_STD, Circle, Line, Part, log_wrapped_normal

CIRCLE_SOFTENING = 0.3
"""Radians: f_n on the circle is of order 1 / sqrt(sigma_n^2 + CIRCLE_SOFTENING^2), the width of a torsion's basin."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How noise is spread over the steps."""

    n_steps: int = setting(24, "N, steps of diffusion from prior to data", low=1)
    torsions: Literal["joint", "first"] = setting(
        "joint", "soft torsions diffuse with the rest, or are drawn first, one a step, before the others diffuse"
    )
    process: Literal["ou", "brownian"] = setting(
        "ou", "on the line: Ornstein-Uhlenbeck with prior N(0, 1), or Brownian, pinned at 0, with total variance 1"
    )
    prior_signal: float = setting(
        0.02, "s_0, what is left of the data at the prior on the line", above=0.0, below=1.0, needs={"process": "ou"}
    )
    line_power: float = setting(
        1.0,
        "theta_n = theta_0 (1 - n / N)^line_power, and 1 - t_n = (1 - n / N)^(2 line_power); above 1 puts more steps "
        "near the data",
        above=0.0,
    )
    circle_max: float = setting(
        MAX_CIRCLE_STD,
        "sigma_0 of the walk on the circle",
        unit="rad",
        above=0.0,
        high=MAX_CIRCLE_STD,
        needs={"torsions": "joint"},
    )
    circle_min: float = setting(
        0.12,
        "sigma_{N-1}; in between sigma is geometric",
        unit="rad",
        above=0.0,
        high=MAX_CIRCLE_STD,
        needs={"torsions": "joint"},
    )


@dataclass(frozen=True)
class Tables:
    """float64 (N,) or (N+1,); see the module's text.

    data_gain, state_gain : grad log (p(x_n | x_N) / p_ref(x_n)) = data_gain x_N + state_gain x_n
    to_data : d x_N / d x_n of the reference walked forward; drift_scale : the size of f_n = grad log (p_n / p_ref)
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
    drift_scale: Tensor


class Noise(ABC):
    """The noising of one part; x stands for (..., dim of the part)."""

    pinned = False

    @abstractmethod
    def tables(self, config: ScheduleConfig) -> Tables: ...

    @abstractmethod
    def targets(self, rows: dict[str, Tensor], x_data: Tensor, x: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """A and W, each the shape of x: the two unbiased regression targets for f_n are A and A + W.

        rows : the process's tables at the steps of x, shaped to broadcast; x : noised states; score : grad log
            R(x_data)
        """

    @abstractmethod
    def mismatch(self, tables: Tables, x_data: Tensor) -> float:
        """Chi-square bound on the loss of ESS that data (M, dim) leave in the prior; see `prior_mismatch`."""


class OrnsteinUhlenbeck(Noise):
    def tables(self, config: ScheduleConfig) -> Tables:
        t = _times(config)
        theta = math.acos(config.prior_signal) * (1.0 - t) ** config.line_power
        signal, noise = theta.cos(), theta.sin()
        a = signal[:-1] / signal[1:]
        var = 1.0 - a.square()
        s, s2, noise2 = signal[:-1], signal[:-1].square(), noise[:-1].square()
        return Tables(signal, noise, torch.ones_like(t), a, var, a, var, s / noise2, -s2 / noise2, s, s)

    def targets(self, rows: dict[str, Tensor], x_data: Tensor, x: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        a = rows["data_gain"] * x_data + rows["state_gain"] * x
        # with r = 1, grad log (R / N(0, I)) at the data, carried back along the reference's forward kernel
        return a, rows["to_data"] * (score + x_data) - a

    def mismatch(self, tables: Tables, x_data: Tensor) -> float:
        s = float(tables.marginal_scale[0])
        loss = (s * x_data.mean(0)).square().sum() + 0.5 * (s * s * (x_data.var(0) - 1.0)).square().sum()
        return float(loss)


class PinnedBrownian(OrnsteinUhlenbeck):
    pinned = True

    def tables(self, config: ScheduleConfig) -> Tables:
        t = _times(config)
        time = 1.0 - (1.0 - t) ** (2.0 * config.line_power)
        step, ratio = time[1:] - time[:-1], time[:-1] / time[1:]
        one, left = torch.ones_like(step), 1.0 - time[:-1]
        std = (time * (1.0 - time)).clamp_min(0.0).sqrt()
        return Tables(time, std, time, ratio, ratio * step, one, step, 1.0 / left, -1.0 / left, one, one)

    def mismatch(self, tables: Tables, x_data: Tensor) -> float:
        return 0.0


class CircleWalk(Noise):
    def tables(self, config: ScheduleConfig) -> Tables:
        n = config.n_steps
        ratio = (config.circle_min / config.circle_max) ** (1.0 / max(n - 1, 1))
        sigma = config.circle_max * ratio ** torch.arange(n + 1, dtype=torch.float64)
        sigma[n] = 0.0
        var = sigma[:-1].square() - sigma[1:].square()
        ones = torch.ones_like(sigma)
        one = ones[:-1]
        size = (sigma[:-1].square() + CIRCLE_SOFTENING**2).rsqrt()
        return Tables(ones, sigma, ones, one, var, one, var, one, one, one, size)

    def targets(self, rows: dict[str, Tensor], x_data: Tensor, x: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        log_var = rows["marginal_std"].square().log()
        with torch.enable_grad():
            delta = (x - x_data).detach().requires_grad_()
            log_p = log_wrapped_normal(delta, log_var.expand_as(delta))
            (a,) = torch.autograd.grad(log_p.sum(), delta)
        return a, score - a

    def mismatch(self, tables: Tables, x_data: Tensor) -> float:
        sigma = float(tables.marginal_std[0])
        mode = torch.polar(torch.ones_like(x_data), x_data).mean(0).abs()
        return float(2.0 * math.exp(-sigma * sigma) * mode.square().sum())


def noise_of(part: Part, config: ScheduleConfig) -> Noise:
    """The noising of a part; InputError for one that the configured process has no form for."""
    if isinstance(part, Line):
        return PinnedBrownian() if config.process == "brownian" else OrnsteinUhlenbeck()
    if isinstance(part, Circle) and config.process == "brownian":
        raise InputError(
            f'process = "brownian" is pinned at 0 and has no form for the {part.dim} angles of this target: use "ou"'
        )
    return CircleWalk()


def _times(config: ScheduleConfig) -> Tensor:
    return torch.arange(config.n_steps + 1, dtype=torch.float64) / config.n_steps
