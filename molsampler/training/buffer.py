"""The replay buffer: terminal states with log R, score and a stored weight, drawn by tempered weight or by rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from molsampler.basis.log_weights import LogWeights
from molsampler.basis.resampling import multinomial, systematic

Priority = Literal["importance", "uniform", "rank"]
_RANK_SHARE = 0.01  # Tripp et al. (2020); Sendera et al. (2024) use the same for diffusion samplers


@dataclass(frozen=True)
class Batch:
    """Terminal states drawn from the buffer: x (B, D), log_r (B,), score (B, D); log_w (B,) stored weight and the
    log-probability log_a (B,) with which one draw picks each state."""

    x: Tensor
    log_r: Tensor
    score: Tensor
    log_w: Tensor
    log_a: Tensor


class ReplayBuffer:
    """First in, first out; states are drawn with probability proportional to the tempered stored weight, uniformly, or
    by rank of log R, proportional to 1 / (0.01 S + rank).

    Batch m of K_m particles is stored with weights K_m Z_m W_k, Z_m its estimate of Z and W_k its normalised weights:
    the unnormalised w_k itself. Batches of every kind and size then estimate the same unnormalised measure, R.

    capacity : states kept; gamma : tempering goal; refresh : draws between two updates of lambda
    """

    def __init__(
        self,
        capacity: int,
        dim: int,
        gamma: float,
        refresh: int = 20,
        device=None,
        priority: Priority = "importance",
    ) -> None:
        self.capacity, self.gamma, self.refresh, self.priority = capacity, gamma, refresh, priority
        self.x = torch.zeros(capacity, dim, device=device)
        self.score = torch.zeros(capacity, dim, device=device)
        self.log_r = torch.zeros(capacity, device=device)
        self.log_w = torch.full((capacity,), -torch.inf, dtype=torch.float64, device=device)
        self.size = self.head = 0
        self.rejected = 0
        self._proposal: Tensor | None = None
        self._draws = 0
        self.exponent = 1.0

    def __len__(self) -> int:
        return self.size

    def add(self, x: Tensor, log_r: Tensor, score: Tensor, log_w: Tensor) -> int:
        """Store states (B, D) with log R (B,), score (B, D) and unnormalised log-weight (B,); returns how many were
        kept.

        Particles of zero weight are counted by their batch in K_m and need no room; a row with any NaN or infinity
        besides is rejected and counted, and never enters.
        """
        alive = log_w > -torch.inf
        good = torch.isfinite(log_w) & torch.isfinite(log_r) & torch.isfinite(x).all(-1) & torch.isfinite(score).all(-1)
        self.rejected += int((~good & (alive | torch.isnan(log_w))).sum())
        keep = torch.nonzero(good).squeeze(-1)[-self.capacity :]
        n = len(keep)
        slots = (self.head + torch.arange(n, device=self.x.device)) % self.capacity
        self.x[slots], self.score[slots] = x[keep], score[keep]
        self.log_r[slots], self.log_w[slots] = log_r[keep], log_w[keep].double()
        self.head = (self.head + n) % self.capacity
        self.size = min(self.size + n, self.capacity)
        self._proposal = None
        return n

    def draw(self, n: int, generator: torch.Generator, distinct: bool = False) -> Batch:
        """n states by priority, with replacement; `distinct` uses systematic draws, which repeat least."""
        if not self.size:
            raise ValueError("the replay buffer is empty")
        if self.priority == "importance" and self._draws % self.refresh == 0:
            self.exponent = LogWeights(self.log_w[: self.size]).tempering_exponent(self.gamma)
            self._proposal = None
        self._draws += 1
        if self._proposal is None:
            self._proposal = self._probabilities()
        pick = (systematic if distinct else multinomial)(generator, self._proposal, n)
        if distinct:
            pick = pick[torch.randperm(n, generator=generator, device=pick.device)]
        log_a = self._proposal[pick].log()
        return Batch(self.x[pick], self.log_r[pick], self.score[pick], self.log_w[pick], log_a)

    def _probabilities(self) -> Tensor:
        """(S,) float64, with which one draw picks each stored state."""
        n = self.size
        if self.priority == "importance":
            return LogWeights(self.log_w[:n]).power(self.exponent).normalised
        share = torch.ones(n, dtype=torch.float64, device=self.x.device)
        if self.priority == "rank":
            rank = self.log_r[:n].argsort(descending=True).argsort()
            share = 1.0 / (_RANK_SHARE * n + rank.double())
        return share / share.sum()

    def add_descendants(self, parents: Batch, frames: list[tuple[Tensor, Tensor, Tensor]]) -> int:
        """Store what local moves made of M drawn parents: F frames of (x, log_r, score), in the parents' order.

        The M parents estimate the measure of all S stored states with weights w / (M a). Their descendants are
        stored as one
        batch of M particles, so with mass M / S of that: w / (S a), shared among the F frames. (Stored with the full
        mass, every round of moves would double the buffer's total and starve the batches that come after it.)
        """
        log_w = parents.log_w - parents.log_a - math.log(self.size) - math.log(len(frames))
        return sum(self.add(x, log_r, score, log_w) for x, log_r, score in frames)

    def clear(self) -> None:
        self.size = self.head = 0
        self.log_w.fill_(-torch.inf)
        self._proposal = None

    def state_dict(self) -> dict:
        n = self.size
        names = ("x", "score", "log_r", "log_w")
        state = {name: getattr(self, name)[:n].clone() for name in names}
        return state | {
            "size": n,
            "head": self.head,
            "rejected": self.rejected,
            "draws": self._draws,
            "exponent": self.exponent,
        }

    def load_state_dict(self, state: dict) -> None:
        n = state["size"]
        for name in ("x", "score", "log_r", "log_w"):
            getattr(self, name)[:n] = state[name]
        self.size, self.head, self.rejected = n, state["head"], state["rejected"]
        self._draws, self.exponent, self._proposal = state["draws"], state["exponent"], None
