"""Objectives: trajectory balance and its kin, SubTB, reverse KL, and the control variate of denoising.

All are functions of trajectories as tensors: they see steps, not their kinds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.diffusion.trajectories import Trajectories


def trajectory_balance(trajectories: Trajectories, log_z: Tensor, limit: float = math.inf) -> Tensor:
    """(log Z - log w)^2, (B,) (Malkin et al. 2022); `log_r` of the trajectories must be finite (the bounded surrogate).

    limit : residuals beyond it count linearly, 2 limit |residual| - limit^2 (Huber), so that one clash among the
    rollouts
        does not outweigh the rest of its batch
    """
    residual = (log_z - trajectories.log_weights()).abs()
    inside = residual.clamp_max(limit)
    return inside * (2.0 * residual - inside)


def subtb_chunk(trajectories: Trajectories, log_z: Tensor) -> Tensor:
    """SubTB over chunks and tails, averaged to one scalar; trains the twist, everything else is detached.

    With C chunks between the trajectories' chunk ends: the discrepancies of the chunks and of the C tails from their
    starts to the data, each tail divided by its number of chunks, squared; the mean of these 2C squares (Choi et al.
    2025; Madan et al. 2023). F_0 = Z p_0, F_N = R.
    """
    flow, by_chunk = trajectories.flow(log_z.detach()), trajectories.by_chunk().detach()
    chunks = flow[:-1] + by_chunk - flow[1:]
    to_end = by_chunk.flip(0).cumsum(0).flip(0)
    n_chunks = torch.arange(len(by_chunk), 0, -1, device=flow.device, dtype=flow.dtype)
    tails = (flow[:-1] + to_end - flow[-1]) / n_chunks[:, None]
    return torch.cat([chunks, tails]).square().mean()


def optimal_twist(trajectories: Trajectories, log_z: Tensor, forward: bool, limit: float = 5.0) -> Tensor:
    """Regression of log F on what the rest of each trajectory is worth, whose minimum is the optimal twist; a scalar
    that trains the twist alone.

    With v = log R + sum (log p_B - log p_F) over the steps left after a chunk end and r = v - log F there, the loss is
    e^r - r - 1 on rollouts (`forward`), stationary at F = E[e^v | x_n], and e^-r + r - 1 on trajectories noised from
    states of the target, whose mean of e^-v is 1 / F: both at the same F, the marginal of R, which squares of r miss by
    Jensen's inequality. Near zero both are r^2 / 2.

    forward : whether the policy has walked the trajectories; limit : the exponential goes on as its tangent beyond it
    """
    flow, by_chunk = trajectories.flow(log_z.detach()), trajectories.by_chunk().detach()
    left = by_chunk.flip(0).cumsum(0).flip(0)[1:]  # of the steps after each chunk end
    residual = trajectories.log_r - left - flow[1:-1]
    residual = residual if forward else -residual
    inside = residual.clamp_max(limit)
    return (inside.exp() * (1.0 + residual - inside) - residual - 1.0).mean()


def contrastive_twist(positive: Trajectories, negative: Trajectories) -> Tensor:
    """Contrastive twist learning (Zhao et al. 2024, arXiv 2404.17546): the gradient of KL(p_n | F_n / sum F_n), summed
    over chunk ends and divided by their number; a scalar that trains the twist alone, and is no distance itself.

    log F rises on states of the target noised to the chunk ends (`positive`) and falls on those of the policy's
    rollouts (`negative`), which self-normalised weights F_n p_B / (p_0 p_F) turn into draws from F_n: on every rank
    those of its own. F_n is learnt up to a factor, which SMC does not see.
    """
    if positive.log_f is None or negative.log_f is None:
        raise ValueError("the trajectories hold no log F: give them the twist's at the chunk ends")
    walked = negative.log_p_0 + negative.by_chunk()[:-1].cumsum(0)
    weights = torch.softmax((negative.log_f - walked).detach(), 1)
    return ((weights * negative.log_f).sum(1) - positive.log_f.mean(1)).mean()


def log_variance(trajectories: Trajectories, limit: float = math.inf, groups: Tensor | None = None) -> Tensor:
    """Squared deviation of log w from its mean over the batch of all ranks, (B,): VarGrad (Richter et al. 2020), which
    needs no log Z (collective).

    limit : as in `trajectory_balance`
    groups : (B,) index from 0; with them the mean is that of a trajectory's own group on this rank, the one condition
        whose log Z(c) it estimates
    """
    log_w = trajectories.log_weights().detach()
    if groups is None:
        return trajectory_balance(trajectories, ranks.mean(log_w.mean()), limit)
    sums = log_w.new_zeros(int(groups.max()) + 1).index_add(0, groups, log_w)
    return trajectory_balance(trajectories, (sums / groups.bincount())[groups], limit)


def subtb_lambda(trajectories: Trajectories, log_z: Tensor, lam: float) -> Tensor:
    """SubTB(lambda) (Madan et al. 2023): every pair i < j of chunk ends, weighted with lambda^(j - i); a scalar.

    Trains policy, flow and log Z together. lam = 0 keeps neighbours only: detailed balance where every step is a chunk
    end (Bengio et al. 2023). With a flow that holds partial energies it is forward-looking (Pan et al. 2023).
    """
    # discrepancy of i..j is height_i - height_j
    height = trajectories.flow(log_z)
    height = torch.cat([height[:1], height[1:] - trajectories.by_chunk().cumsum(0)])
    i, j = torch.triu_indices(len(height), len(height), offset=1, device=height.device)
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

    def __init__(self, rate: float = 0.02) -> None:
        self.rate = rate
        self.cross: Tensor | None = None  # (N, D) running means, from the first batch on
        self.square: Tensor | None = None
        self.seen = 0

    def mix(self, a: Tensor, w: Tensor) -> Tensor:
        """a, w (N, B, D) -> the regression target (N, B, D); the means are over the batches of all ranks
        (collective)."""
        self.seen += 1
        if self.cross is None or self.square is None:
            self.cross, self.square = torch.zeros_like(a[:, 0]), torch.zeros_like(a[:, 0])
        self.cross, self.square = self.cross.to(a.device), self.square.to(a.device)  # a checkpoint's are on the CPU
        rate = max(self.rate, 1.0 / self.seen)
        cross, square = ranks.mean(torch.stack([(a * w).mean(1), w.square().mean(1)]))
        good = torch.isfinite(cross) & torch.isfinite(square)  # one bad score must not stay in the running means
        self.cross = torch.where(good, self.cross.lerp(cross, rate), self.cross)
        self.square = torch.where(good, self.square.lerp(square, rate), self.square)
        r = (-self.cross / self.square.clamp_min(1e-20)).clamp(0.0, 1.5)
        return a + r[:, None] * w

    def state_dict(self) -> dict:
        return {"cross": self.cross, "square": self.square, "seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.cross, self.square, self.seen = state["cross"], state["square"], state["seen"]
