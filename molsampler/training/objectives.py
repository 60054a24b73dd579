"""Objectives: trajectory balance, SubTB over chunks, and denoising with a force-based control variate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.diffusion.policy import Policy
from molsampler.diffusion.process import rows
from molsampler.diffusion.space import log_wrapped_normal
from molsampler.diffusion.trajectories import Trajectories
from molsampler.smc.sampler import LogTwist


def trajectory_balance(trajectories: Trajectories, log_z: Tensor, limit: float = math.inf) -> Tensor:
    """(log Z - log w)^2, (B,) (Malkin et al. 2022); `log_r` of the trajectories must be finite (the bounded surrogate).

    limit : residuals beyond it count linearly, 2 limit |residual| - limit^2 (Huber), so that one clash among the
    rollouts
        does not outweigh the rest of its batch
    """
    residual = (log_z - trajectories.log_weights()).abs()
    inside = residual.clamp_max(limit)
    return inside * (2.0 * residual - inside)


def subtb_chunk(trajectories: Trajectories, log_twist: LogTwist, log_z: Tensor, chunk: int) -> Tensor:
    """SubTB over chunks and tails, averaged to one scalar; trains the twist, everything else is detached.

    With C = N / chunk: the discrepancies of the C chunks [kL, (k+1)L] and of the C tails [kL, N], each tail divided
    by its
    number of chunks, squared; the mean of these 2C squares (Choi et al. 2025; Madan et al. 2023). F_0 = Z p_0, F_N = R.
    """
    states = trajectories.states
    n_steps = len(states) - 1
    log_ratio = (trajectories.log_p_f - trajectories.log_p_b).detach()  # (N, B)
    ends = range(chunk, n_steps, chunk)
    log_f = [log_z.detach() + trajectories.log_p_0]
    log_f += [log_twist(states[n], n) for n in ends]
    log_f.append(trajectories.log_r)
    flow = torch.stack(log_f)  # (C + 1, B)
    by_chunk = log_ratio.unflatten(0, (n_steps // chunk, chunk)).sum(1)  # (C, B)
    chunks = flow[:-1] + by_chunk - flow[1:]
    to_end = by_chunk.flip(0).cumsum(0).flip(0)
    n_chunks = torch.arange(len(by_chunk), 0, -1, device=states.device, dtype=states.dtype)
    tails = (flow[:-1] + to_end - flow[-1]) / n_chunks[:, None]
    return torch.cat([chunks, tails]).square().mean()


class ControlVariate:
    """Optimal mixing of the two unbiased regression targets for f_n = grad log (p_n / p_ref), coordinate by coordinate.

    Denoising score matching regresses on A = grad log p(x_n | x_N) - grad log p_ref, target score matching on
    B = grad log R(x_N) / s_n - grad log p_ref (De Bortoli et al. 2024, arXiv 2402.08667); both have mean f_n given
    x_n. A
    mixture A + r W with W = m_n (B - A), m_n = s_n^2 on the line and 1 on the circle, has the same mean for every r
    and the
    least variance at r = -E[A W] / E[W^2], tracked here as running means. For a standard normal target r = 1 makes the
    regression target exact: no noise is left.
    """

    def __init__(self, n_steps: int, dim: int, rate: float = 0.02) -> None:
        self.rate = rate
        self.cross = torch.zeros(n_steps, dim)
        self.square = torch.zeros(n_steps, dim)
        self.seen = 0

    def mix(self, a: Tensor, w: Tensor) -> Tensor:
        """a, w (N, B, D) -> the regression target (N, B, D)."""
        self.seen += 1
        self.cross, self.square = self.cross.to(a), self.square.to(a)
        rate = max(self.rate, 1.0 / self.seen)
        cross, square = (a * w).mean(1), w.square().mean(1)
        good = torch.isfinite(cross) & torch.isfinite(square)  # one bad score must not stay in the running means
        self.cross = torch.where(good, self.cross.lerp(cross, rate), self.cross)
        self.square = torch.where(good, self.square.lerp(square, rate), self.square)
        r = (-self.cross / self.square.clamp_min(1e-20)).clamp(0.0, 1.5)
        return a + r[:, None] * w

    def state_dict(self) -> dict:
        return {"cross": self.cross.clone(), "square": self.square.clone(), "seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.cross, self.square, self.seen = state["cross"].clone(), state["square"].clone(), state["seen"]


def denoising(
    policy: Policy,
    x_data: Tensor,
    score: Tensor | None,
    mix: Callable[[Tensor, Tensor], Tensor] | None,
    generator: torch.Generator,
) -> Tensor:
    """Denoising loss of every step, (N,), on data noised in closed form: a scalar mean over (N,) trains the policy.

    x_data : (N, B, D) data states, a batch of its own for every step; score : the same shape, grad log R(x_data), or
    None; mix : `ControlVariate.mix`, or None for plain denoising.
    The mean is regressed on the control-variate target (on the sampled displacement without scores), the
    log-variance on the
    sampled next state; both in the metric of -log p_F, so that its minimum is the forward-KL projection.
    """
    process, space = policy.process, policy.space
    steps = torch.arange(process.n_steps, device=x_data.device)
    x_next = process.sample_marginal(x_data, steps + 1, generator)
    mean_b = rows(process.step_scale, steps) * x_next
    x = space.sample_normal(mean_b, rows(process.step_log_var, steps).expand_as(mean_b), generator)
    drift, log_var = policy.drift_and_log_var(x, steps)
    mean = policy.mean(x, drift, steps)
    if score is None or mix is None:
        return -space.log_normal(x_next, mean, log_var).mean(-1)
    nll = -space.log_normal(x_next, mean.detach(), log_var)
    with torch.no_grad():
        target = mix(*_regression_targets(policy, x_data, x, score))
    gain = rows(policy.step_gain, steps)
    miss = (gain * (drift - target)).square() * (-log_var.detach()).exp()
    return (nll + 0.5 * miss.sum(-1)).mean(-1)


def _regression_targets(policy: Policy, x_data: Tensor, x: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """A and W of `ControlVariate`, (N, B, D), for noised states x (N, B, D) of the data."""
    process, space = policy.process, policy.space
    scale = process.marginal_scale[:-1, None]  # (N, 1, D)
    var = process.marginal_std[:-1, None].square()
    line, circle = space.split(x - scale * x_data)
    noise_score_line = -line / space.split(var)[0]
    s = space.split(scale)[0]
    a_line = noise_score_line + space.split(x)[0]
    w_line = s * space.split(score)[0] - s.square() * noise_score_line
    if not space.n_circle:
        return a_line, w_line
    with torch.enable_grad():
        delta = circle.detach().requires_grad_()
        log_p = log_wrapped_normal(delta, space.split(var)[1].log().expand_as(delta))
        (a_circle,) = torch.autograd.grad(log_p.sum(), delta)
    w_circle = space.split(score)[1] - a_circle
    return torch.cat([a_line, a_circle], -1), torch.cat([w_line, w_circle], -1)
