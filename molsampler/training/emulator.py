"""An emulator of log R at the data: a cheap guess at what an evaluation of the energy would say, learnt from states
whose log R is known.

The last twist of sequential Monte Carlo (smc/sampler.py): it chooses among many proposals those whose energy is worth
asking for. log R = base + residual, with the target's stand-in as the base, where it has one, and a network for the
rest. Weights make up for every mistake of it, as for those of any twist.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from molsampler.diffusion.networks import StateNetwork, make_network
from molsampler.targets.target import Target

LEAST = 2000
"""States below which nothing is fitted."""
HELD_OUT = 0.1  # of the states, to say how good it is
UPDATES, BATCH, RATE = 2000, 1024, 1.5e-3
_FRINGE = 0.001  # of the residuals, on either side, that the network's guess may not go beyond
_LINEAR = 1.0  # nats, residuals beyond which count linearly: states that overlap are not to lead


class TooFewStates(ValueError):
    """There are not enough states to learn from."""


@dataclass(frozen=True)
class EmulatorNetwork:
    """Of the residual; wider than a twist's, which sees noise where this has data."""

    width: int = 256
    depth: int = 3
    frequencies: int = 0


class Emulator:
    """log R (B,) of states (B, D), finite everywhere.

    error : standard deviation (nats) of what is left on the target's own scale, over held-out states of the fit that
        lie within the fringe
    """

    def __init__(
        self, target: Target, bounded: Callable[[Tensor], Tensor], x: Tensor, log_r: Tensor, generator: torch.Generator
    ) -> None:
        """Fit to log R (M,) at states x (M, D).

        bounded : log R -> a finite surrogate, for bases that are not finite
        Raises TooFewStates for fewer than LEAST whose base is finite.
        """
        self._base = target.stand_in() or target.space.log_prior
        self._bounded = bounded
        residual = log_r - self._base(x)
        x, residual = x[torch.isfinite(residual)], residual[torch.isfinite(residual)]
        if len(x) < LEAST:
            raise TooFewStates(f"{len(x):,} replayed states are too few to fit an emulator to, which takes {LEAST:,}")
        ordered = residual.sort().values  # torch.quantile refuses many values
        self.low, self.middle, self.high = (
            float(ordered[round(share * (len(ordered) - 1))]) for share in (_FRINGE, 0.5, 1.0 - _FRINGE)
        )
        self.network = make_network(target.space, EmulatorNetwork(), 1, 1, torch.Generator().manual_seed(0))
        self.network.to(x.device)
        shuffled = torch.randperm(len(x), generator=generator, device=x.device)
        held = shuffled[: int(HELD_OUT * len(x))]
        known = residual.clamp(self.low, self.high) - self.middle
        _regress(self.network, x, known, shuffled[len(held) :], generator)
        usual = held[(residual[held] >= self.low) & (residual[held] <= self.high)]
        self.error = float((residual[usual] - self._residual(x[usual])).std())

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self._bounded(self._base(x) + self._residual(x))

    def _residual(self, x: Tensor) -> Tensor:
        return (self.middle + self.network(x, 0)[:, 0]).clamp(self.low, self.high)


def _regress(network: StateNetwork, x: Tensor, y: Tensor, rows: Tensor, generator: torch.Generator) -> None:
    """Huber regression of y (M,) on x (M, D), on the given rows, along a cosine."""
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    for k in range(UPDATES):
        index = rows[torch.randint(len(rows), (BATCH,), generator=generator, device=x.device)]
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1.0 + math.cos(math.pi * k / UPDATES))
        loss = F.huber_loss(network(x[index], 0)[:, 0], y[index], delta=_LINEAR)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.requires_grad_(False)
