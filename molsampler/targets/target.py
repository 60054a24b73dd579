"""The target contract: an unnormalised density R on a Space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis.counter import EvaluationCounter
from molsampler.basis.space import Space


class Target(ABC):
    """An unnormalised density R(x) on `space`; log R = -inf outside its support.

    `log_z` is the known log of its integral, or None; `counter` counts evaluations by purpose.
    """

    space: Space
    log_z: float | None = None

    def __init__(self) -> None:
        self.counter = EvaluationCounter()

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log R, (B,), of states x (B, D), differentiable."""

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log R (B,) and its gradient (B, D), both without graph, booked as B evaluations.

        The gradient is zero where log R is not finite.
        """
        self.counter.add(len(x))
        return self._differentiate(x)

    def _differentiate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_r = self.log_prob(x)
            (score,) = torch.autograd.grad(log_r.sum(), x)
        good = torch.isfinite(log_r) & torch.isfinite(score).all(-1)
        return log_r.detach(), torch.where(good[:, None], score, 0.0)

    def symmetrised(
        self, x: Tensor, log_r: Tensor, score: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States (B, D), each of x under a random element of a group that leaves the measure R dx as it is, with log R
        (B,) and its gradient (B, D) there; x, log_r and score themselves where no such group is known."""
        return x, log_r, score

    def guide(self) -> Callable[[Tensor], Tensor] | None:
        """The score (B, D) -> (B, D) of a cheap stand-in for R, for policies to see, booked as no evaluation of R; None
        where the target knows of none."""
        return None

    def stand_in(self) -> Callable[[Tensor], Tensor] | None:
        """The logarithm of that stand-in, (B, D) -> (B,), up to a constant, where there is one."""
        return None

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) exact or high-accuracy samples, where the target can give them."""
        raise TypeError(f"{type(self).__name__} cannot be sampled directly")
