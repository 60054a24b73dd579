"""The replay buffer: terminal states with log R, score and a stored weight, drawn by tempered weight or by rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.log_weights import UnionLogWeights
from molsampler.basis.resampling import multinomial, systematic

Priority = Literal["importance", "uniform", "rank"]
COLUMNS = ("x", "score", "log_r", "log_w")
RENEWED = 10
"""log Z(c) of all states is a network's answer for each of them, and moves little from one update to the next."""
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

    Each rank keeps what it made: a shard. Priorities are those of the union, with one lambda: an independent draw takes
    shard r with the shard's share p_r of the union's tempered weight, and a state in it by the weights there, so that
    every rank draws its n states from the union, as one process would, and the shards send each other what was drawn.

    capacity : states kept, here; gamma : tempering goal; refresh : draws between two updates of lambda
    log_z : log Z(c) of states (S, D) as it is learnt, where they differ in a condition c: priorities are then by
        w / Z(c) and R / Z(c), which alone compare states of different conditions; what is stored is w itself. It is
        asked when a state enters, and of all states at every (RENEWED refresh)-th draw
    """

    def __init__(
        self,
        capacity: int,
        dim: int,
        gamma: float,
        refresh: int = 20,
        device=None,
        priority: Priority = "importance",
        log_z: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._log_z = log_z
        self.capacity, self.gamma, self.refresh, self.priority = capacity, gamma, refresh, priority
        self.x = torch.zeros(capacity, dim, device=device)
        self.score = torch.zeros(capacity, dim, device=device)
        self.log_r = torch.zeros(capacity, device=device)
        self.log_w = torch.full((capacity,), -torch.inf, dtype=torch.float64, device=device)
        asks = log_z is not None and priority != "uniform"
        self.offset = torch.zeros(capacity, device=device) if asks else None  # log Z(c) by state
        self.size = self.head = 0
        self.rejected = 0
        self._proposal: Tensor | None = None  # (S,) of one draw from this shard
        self._shares: Tensor | None = None  # (ranks,) with which a draw from the union takes each shard
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
        if self.offset is not None:
            self.offset[slots] = self._asked(x[keep])
        self.head = (self.head + n) % self.capacity
        self.size = min(self.size + n, self.capacity)
        self._proposal = None
        return n

    def draw(self, n: int, generator: torch.Generator, distinct: bool = False) -> Batch:
        """n states by priority, with replacement: independent ones of the union (collective).

        distinct : by systematic draws, which repeat least, n from this rank's own shard: with log_a that of a draw from
            the shard, they estimate the shard's measure, and those of all ranks the union's. A rank whose shard is
            empty gets none.
        """
        held, stale = ranks.stacked(torch.tensor([self.size, self._proposal is None])).amax(0).tolist()
        if not held:
            raise ValueError("the replay buffer is empty")
        refresh = self.priority == "importance" and self._draws % self.refresh == 0
        if self.offset is not None and self._draws % (RENEWED * self.refresh) == 0:
            self.offset[: self.size] = self._asked(self.x[: self.size])
            stale = True
        self._draws += 1
        if refresh:
            self.exponent = UnionLogWeights(self._relative(self.log_w)).tempering_exponent(self.gamma)
        if refresh or stale:
            self._proposal, self._shares = self._probabilities()
        if distinct:
            return self._distinct(n, generator)
        wanted = _split(n, self._shares, generator)  # of each shard
        asked = ranks.received_counts(wanted, self.x.device)  # of this one, by each rank
        pick = _picked(multinomial, generator, self._proposal, sum(asked))
        log_a = self._proposal[pick].log() + self._shares[ranks.rank()].log()
        rows = (self.x[pick], self.log_r[pick], self.score[pick], self.log_w[pick], log_a)
        return Batch(*ranks.exchanged(rows, asked))

    def _distinct(self, n: int, generator: torch.Generator) -> Batch:
        pick = _picked(systematic, generator, self._proposal, n if self.size else 0)
        pick = pick[torch.randperm(len(pick), generator=generator, device=pick.device)]
        log_a = self._proposal[pick].log()
        return Batch(self.x[pick], self.log_r[pick], self.score[pick], self.log_w[pick], log_a)

    def _probabilities(self) -> tuple[Tensor, Tensor]:
        """(S,) with which one draw from this shard picks each of its states, and (ranks,) with which one from the union
        takes each shard, both float64."""
        n = self.size
        if self.priority == "importance":
            tempered = UnionLogWeights(self._relative(self.log_w)).power(self.exponent)
            return tempered.own_normalised, tempered.shares
        share = torch.ones(n, dtype=torch.float64, device=self.x.device)
        if self.priority == "rank":
            log_r = self._relative(self.log_r)
            everyone, before = ranks.gathered(log_r), int(ranks.stacked(torch.tensor(n))[: ranks.rank()].sum())
            rank = everyone.argsort(descending=True).argsort()[before : before + n]
            share = 1.0 / (_RANK_SHARE * len(everyone) + rank.double())
        mass = ranks.stacked(share.sum())
        return share / share.sum(), mass / mass.sum()

    def _relative(self, values: Tensor) -> Tensor:
        """log w or log R (S,) of the states kept, relative to log Z(c) where there are conditions."""
        values = values[: self.size]
        return values if self.offset is None else values - self.offset[: self.size]

    @torch.no_grad()
    def _asked(self, x: Tensor) -> Tensor:
        """log Z(c) of states x (M, D) as it is now."""
        assert self._log_z is not None
        return self._log_z(x)

    def add_descendants(self, parents: Batch, frames: list[tuple[Tensor, Tensor, Tensor]]) -> int:
        """Store what local moves made of M drawn parents: F frames of (x, log_r, score), in the parents' order.

        The M parents, distinct draws of this rank, estimate the measure of all S states stored here with weights
        w / (M a). Their descendants are stored as one batch of M particles, so with mass M / S of that: w / (S a),
        shared among the F frames. (Stored with the full mass, every round of moves would double the buffer's total and
        starve the batches that come after it.)
        """
        if not len(parents.x):
            return 0
        log_w = parents.log_w - parents.log_a - math.log(self.size) - math.log(len(frames))
        return sum(self.add(x, log_r, score, log_w) for x, log_r, score in frames)

    def clear(self) -> None:
        self.size = self.head = 0
        self.log_w.fill_(-torch.inf)
        self._proposal = None

    def state_dict(self) -> dict:
        """The states kept, on this rank, and what the next draw depends on."""
        n = self.size
        return {name: getattr(self, name)[:n].clone() for name in self._columns} | {
            "size": n,
            "head": self.head,
            "rejected": self.rejected,
            "draws": self._draws,
            "exponent": self.exponent,
        }

    @property
    def _columns(self) -> tuple[str, ...]:
        """What is kept of every state."""
        return COLUMNS if self.offset is None else (*COLUMNS, "offset")

    def load_state_dict(self, state: dict) -> None:
        n = state["size"]
        for name in COLUMNS:
            getattr(self, name)[:n] = state[name]
        if self.offset is not None:  # a run of version 0.7 has kept none
            self.offset[:n] = state["offset"] if "offset" in state else self._asked(self.x[:n])
        self.size, self.head, self.rejected = n, state["head"], state["rejected"]
        self._draws, self.exponent, self._proposal = state["draws"], state["exponent"], None


def dealt(states: list[dict], rank: int, size: int, capacity: int) -> dict:
    """The state of shard `rank` of `size` with room for `capacity`, of a buffer whose shards had these states.

    States keep their order of age, taken shard by shard in turn, and are dealt out one by one; where there is less room
    than before the oldest go.
    """
    by_age = [torch.arange(s["size"]).roll(-(s["head"] % s["size"])) if s["size"] else torch.arange(0) for s in states]
    age = torch.cat([(torch.arange(len(order)) + 0.5) / max(len(order), 1) for order in by_age])
    mine = age.argsort(stable=True)[rank::size][-capacity:]
    dealt = {
        name: torch.cat([s[name][order] for s, order in zip(states, by_age, strict=True)])[mine]
        for name in (*COLUMNS, *(["offset"] if "offset" in states[0] else []))
    }
    return dealt | {
        "size": len(mine),
        "head": len(mine) % capacity,
        "rejected": sum(s["rejected"] for s in states) if rank == 0 else 0,
        "draws": states[0]["draws"],
        "exponent": states[0]["exponent"],
    }


def _split(n: int, shares: Tensor, generator: torch.Generator) -> list[int]:
    """How many of n independent draws fall to each of the shares, which sum to one."""
    if len(shares) == 1:
        return [n]
    return multinomial(generator, shares, n).bincount(minlength=len(shares)).tolist()


def _picked(
    resample: Callable[[torch.Generator, Tensor, int], Tensor], generator: torch.Generator, weights: Tensor, n: int
) -> Tensor:
    """n indices by a resampler; none of no weights."""
    return resample(generator, weights, n) if n else torch.zeros(0, dtype=torch.int64, device=weights.device)
