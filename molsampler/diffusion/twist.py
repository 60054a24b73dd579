"""The twist log F_n(x): the learnt intermediate targets of SMC.

log F_n = log p_ref(x) + [beta_n (log R(x) - log Z - log p_ref(x))] + network + log Z: at zero output, and without the
partial energy in brackets, F_n is the reference marginal times Z. The network is regressed on the rest. Where the
partial energy is used, log R is the bounded surrogate, so that F stays finite (DESIGN: twist).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from molsampler.diffusion.networks import Features, StepMLP
from molsampler.diffusion.process import NoisingProcess


@dataclass(frozen=True)
class TwistConfig:
    """width, depth : hidden layers of the twist network
    frequencies : Fourier features of every line coordinate (`networks.Features`)
    partial_energy : include (1 - beta_n) log p_ref + beta_n log R, beta_n = (n / N)^partial_power
    """

    width: int = 128
    depth: int = 3
    frequencies: int = 0
    partial_energy: bool = False
    partial_power: float = 4.0


class Twist(nn.Module):
    """log F_n(x; phi) at chunk ends n, a network with one scalar output."""

    def __init__(self, process: NoisingProcess, config: TwistConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.process = process
        self.space = process.space
        self.config = config
        self.n_steps = process.n_steps
        self.features = Features(self.space, config.frequencies)
        self.network = StepMLP(self.features.width, 1, process.n_steps, config.width, config.depth, generator)

    def beta(self, n: int) -> float:
        """Share of the energy in log F_n; 0 without the partial energy."""
        return (n / self.n_steps) ** self.config.partial_power if self.config.partial_energy else 0.0

    def forward(self, x: Tensor, n: int, log_z: Tensor, log_r: Tensor | None = None) -> Tensor:
        """log F_n(x), (B,), of states x (B, D) at step 0 < n < N.

        log_z : scalar, detached; the learnt log Z
        log_r : (B,) bounded log R(x), needed where `beta(n)` is positive
        """
        reference = self.process.log_reference(x, n)
        value = reference + log_z + self.network(self.features(x), n)[..., 0]
        beta = self.beta(n)
        if beta > 0.0:
            if log_r is None:
                raise ValueError(f"the twist at step {n} holds a share {beta:.3g} of the energy; log_r is missing")
            value = value + beta * (log_r - log_z - reference)
        return value
