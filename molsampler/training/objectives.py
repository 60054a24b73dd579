"""Objectives: trajectory balance and its kin, SubTB, reverse KL, and denoising with a force-based control variate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis.space import log_wrapped_normal
from molsampler.diffusion.policy import Policy
from molsampler.diffusion.process import rows
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


def log_variance(trajectories: Trajectories, limit: float = math.inf) -> Tensor:
    """Squared deviation of log w from its mean over the batch, (B,): VarGrad (Richter et al. 2020), which needs no
    log Z. limit : as in `trajectory_balance`."""
    log_w = trajectories.log_weights()
    return trajectory_balance(trajectories, log_w.detach().mean(), limit)


def subtb_lambda(trajectories: Trajectories, log_flow: LogTwist, log_z: Tensor, chunk: int, lam: float) -> Tensor:
    """SubTB(lambda) (Madan et al. 2023): every pair i < j of chunk ends, weighted with lambda^(j - i); a scalar.

    Trains policy, flow and log Z together. lam = 0 keeps neighbours only: detailed balance where chunk = 1
    (Bengio et al. 2023). With a flow that holds partial energies it is forward-looking (Pan et al. 2023).
    """
    states = trajectories.states
    n_steps = len(states) - 1
    log_f = [log_z + trajectories.log_p_0]
    log_f += [log_flow(states[n], n) for n in range(chunk, n_steps, chunk)]
    log_f.append(trajectories.log_r)
    by_chunk = (trajectories.log_p_f - trajectories.log_p_b).unflatten(0, (n_steps // chunk, chunk)).sum(1)
    # discrepancy of i..j is height_i - height_j
    height = torch.stack(log_f)
    height = torch.cat([height[:1], height[1:] - by_chunk.cumsum(0)])
    i, j = torch.triu_indices(len(height), len(height), offset=1, device=states.device)
    weight = torch.where(j - i == 1, 1.0, float(lam) ** (j - i - 1).to(height))
    squares = (height[i] - height[j]).square().mean(1)
    return (weight * squares).sum() / weight.sum()


def reverse_kl(log_r: Tensor, log_ratio: Tensor) -> Tensor:
    """-ELBO, a scalar, of a differentiable rollout: log R of its terminal states (B,), log (p_F p_0 / p_B) (B,).

    With the pinned Brownian process this is the path integral sampler (Zhang and Chen 2022), with the
    Ornstein-Uhlenbeck process the denoising diffusion sampler (Vargas et al. 2023).
    """
    return (log_ratio - log_r).mean()


class _LogProbWithScore(torch.autograd.Function):
    """log R, whose derivative is the score that came with it: one evaluation, no graph through the target."""

    @staticmethod
    def forward(ctx, x: Tensor, log_prob_and_score: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        log_r, score = log_prob_and_score(x)
        ctx.save_for_backward(score)
        return log_r

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (score,) = ctx.saved_tensors
        return grad[:, None] * score, None


def differentiable_log_prob(log_prob_and_score: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """log R (B,) of states x (B, D), differentiable once, at one booked evaluation a state."""
    return _LogProbWithScore.apply(x, log_prob_and_score)


class ControlVariate:
    """Optimal mixing of the two unbiased regression targets for f_n = grad log (p_n / p_ref), coordinate by coordinate.

    Denoising score matching regresses on A = grad log (p(x_n | x_N) / p_ref(x_n)), target score matching on
    T = grad log (R / p_ref)(x_N) d x_N / d x_n along the reference's forward kernel (De Bortoli et al. 2024,
    arXiv 2402.08667), on the circle on grad log R(x_N); both have mean f_n given x_n. A mixture A + r W with W = T - A
    has the same mean for every r and the least variance at r = -E[A W] / E[W^2], tracked here as running means. For a
    standard normal target r = 1 makes the regression target exact: no noise is left.
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
    x = process.sample_step(x_next, steps, generator)
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
    steps = torch.arange(process.n_steps, device=x.device)
    data_line, x_line = space.split(x_data)[0], space.split(x)[0]
    data_gain, state_gain, to_data = (
        space.split(rows(table, steps))[0] for table in (process.data_gain, process.state_gain, process.to_data)
    )
    a_line = data_gain * data_line + state_gain * x_line
    # with r = 1, grad log (R / N(0, I)) at the data, carried back along the reference's forward kernel
    w_line = to_data * (space.split(score)[0] + data_line) - a_line
    if not space.n_circle:
        return a_line, w_line
    var = space.split(process.marginal_std[:-1, None].square())[1]
    circle = space.split(x - x_data)[1]
    with torch.enable_grad():
        delta = circle.detach().requires_grad_()
        log_p = log_wrapped_normal(delta, var.log().expand_as(delta))
        (a_circle,) = torch.autograd.grad(log_p.sum(), delta)
    w_circle = space.split(score)[1] - a_circle
    return torch.cat([a_line, a_circle], -1), torch.cat([w_line, w_circle], -1)
