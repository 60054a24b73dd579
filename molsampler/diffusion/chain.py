"""Steps of several kinds, one kind after the other, as one process and one policy.

Each link owns some parts of the space: its steps change those coordinates and leave the others as they are. Its policy
may see all of them. Objectives, SMC, replay and twist see N steps of one trajectory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from molsampler.basis.space import Space
from molsampler.diffusion.policy import Mix, Network, Policy
from molsampler.diffusion.process import Process, Steps


@dataclass(frozen=True)
class Link:
    """process : on the coordinates that the link owns; own : their columns in the whole state; start, end : its
    steps"""

    process: Process
    own: slice
    start: int
    end: int


class ProcessChain(Process):
    """The processes of `links` in the order in which the sampler walks through them; together they own every column.
    A link without steps, of a condition, comes last."""

    def __init__(self, space: Space, links: Sequence[tuple[Process, slice]]) -> None:
        super().__init__()
        self.space = space
        self.processes = nn.ModuleList(process for process, _ in links)
        self.n_steps, self.links = 0, []
        for process, own in links:
            self.links.append(Link(process, own, self.n_steps, self.n_steps + process.n_steps))
            self.n_steps += process.n_steps
        owned = sorted((link.own.start, link.own.stop) for link in self.links)
        if [start for start, _ in owned] + [space.dim] != [0] + [stop for _, stop in owned]:
            raise ValueError("the links of a chain must own every column of the space once")

    def at(self, n: int) -> tuple[Link, int]:
        """The link that step n belongs to, and the step within it."""
        link = next(link for link in self.links if n < link.end)
        return link, n - link.start

    def by_link(self, n: Tensor) -> list[tuple[int, Tensor]]:
        """For steps n (S,): (index of a link, positions of its steps among them), for each link that has any."""
        found = [(k, torch.nonzero((n >= link.start) & (n < link.end))[:, 0]) for k, link in enumerate(self.links)]
        return [(k, where) for k, where in found if len(where)]

    def chunk_ends(self, chunk: int) -> tuple[int, ...]:
        ends = [link.start + end for link in self.links for end in (0, *link.process.chunk_ends(chunk))]
        return tuple(end for end in ends if 0 < end < self.n_steps)

    def sample_prior(self, n: int, generator: torch.Generator, dtype=torch.float32) -> Tensor:
        x = torch.zeros(n, self.space.dim, dtype=dtype, device=generator.device)
        for link in self.links:
            x[:, link.own] = link.process.sample_prior(n, generator, dtype)
        return x

    def log_prior(self, x: Tensor) -> Tensor:
        return torch.stack([link.process.log_prior(x[..., link.own]) for link in self.links]).sum(0)

    def log_reference(self, x: Tensor, n: Steps) -> Tensor:
        """Links that are through are at their data's reference, those to come at their prior."""
        total = torch.zeros_like(x[..., 0])
        for link in self.links:
            local = min(max(n - link.start, 0), link.process.n_steps) if isinstance(n, int) else None
            if local is None:
                local = (n - link.start).clamp(0, link.process.n_steps)
            total = total + link.process.log_reference(x[..., link.own], local)
        return total

    def log_prob(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        if isinstance(n, int):
            link, local = self.at(n)
            return link.process.log_prob(x[..., link.own], x_next[..., link.own], local)
        total = torch.zeros_like(x_next[..., 0])
        for k, where in self.by_link(n):
            link = self.links[k]
            own = x[where][..., link.own], x_next[where][..., link.own]
            total = total.index_copy(0, where, link.process.log_prob(*own, n[where] - link.start))
        return total

    def sample_step(self, x_next: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        x = x_next.clone()
        if isinstance(n, int):
            link, local = self.at(n)
            x[..., link.own] = link.process.sample_step(x_next[..., link.own], local, generator)
            return x
        for k, where in self.by_link(n):
            link = self.links[k]
            changed = x[where]
            changed[..., link.own] = link.process.sample_step(changed[..., link.own], n[where] - link.start, generator)
            x[where] = changed
        return x

    def prior_mismatch(self, x_data: Tensor) -> float:
        return sum(link.process.prior_mismatch(x_data[:, link.own]) for link in self.links)


class PolicyChain(Policy):
    """The policies of a `ProcessChain`'s links that make steps; each sees whole states and changes its own columns."""

    def __init__(self, process: ProcessChain, policies: Sequence[Policy]) -> None:
        super().__init__()
        self.process = process
        self.policies = nn.ModuleList(policies)
        self.views: list[Policy] = list(policies)

    def evaluated_by(self, accelerate: Callable[[nn.Module], Network]) -> PolicyChain:
        return self.seen_as(lambda policy: policy.evaluated_by(accelerate))

    def seen_as(self, view: Callable[[Policy], Policy]) -> PolicyChain:
        """The same chain, with the same parameters, its policies replaced by views of them."""
        chain = copy.copy(self)
        chain.views = [view(policy) for policy in self.views]
        return chain

    def log_prob(self, x_next: Tensor, x: Tensor, n: Steps) -> Tensor:
        if isinstance(n, int):
            k, local = self._at(n)
            return self.views[k].log_prob(x_next, x, local)
        total = torch.zeros_like(x_next[..., 0])
        for k, where in self.process.by_link(n):
            own = self.views[k].log_prob(x_next[where], x[where], n[where] - self.process.links[k].start)
            total = total.index_copy(0, where, own)
        return total

    def sample_step(
        self, x: Tensor, n: int, generator: torch.Generator, exploration: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        k, local = self._at(n)
        return self.views[k].sample_step(x, local, generator, exploration)

    def fit_losses(self, x_data: Tensor, score: Tensor, mix: Mix, generator: torch.Generator) -> Tensor:
        return torch.cat([policy.fit_losses(x_data, score, mix, generator) for policy in self.views])

    def _at(self, n: int) -> tuple[int, int]:
        link, local = self.process.at(n)
        return self.process.links.index(link), local
