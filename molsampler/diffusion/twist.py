"""The twist log F_n(x): the learnt intermediate targets of SMC.

log F_n = log p_ref(x) + [beta_n (log R(x) - log Z - log p_ref(x))] + network + log Z: at zero output, and without the
partial energy in brackets, F_n is the reference marginal times Z. The network is regressed on the rest. Where the
partial energy is used, log R is the bounded surrogate, so that F stays finite (DESIGN: twist).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from molsampler.basis.settings import setting
from molsampler.diffusion.networks import make_network
from molsampler.diffusion.process import Process, Steps


@dataclass(frozen=True)
class TwistConfig:
    """The twist and its network."""

    width: int = setting(128, "of a hidden layer", low=1)
    depth: int = setting(3, "hidden layers", low=1)
    frequencies: int = setting(0, "Fourier features of every line coordinate", low=0)
    partial_energy: bool = setting(
        False, "include (1 - beta_n) log p_ref + beta_n log R, with beta_n = (n / N)^partial_power"
    )
    partial_power: float = setting(4.0, "the power in beta_n", above=0.0, needs={"partial_energy": True})


class Twist(nn.Module):
    """log F_n(x; phi) at steps 0 < n < N, a network with one scalar output."""

    def __init__(self, process: Process, config: TwistConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.process, self.config = process, config
        self.n_steps = process.n_steps
        self.network = make_network(process.space, config, 1, process.n_steps, generator)

    @property
    def needs_energy(self) -> bool:
        """Whether log F_n holds a share of log R, which `forward` is then to be given."""
        return self.config.partial_energy

    def graph(self, x: Tensor) -> torch.set_grad_enabled:
        """A context in which log F_n of states x has a graph where they have one and F_n holds no energy."""
        return torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled() and not self.needs_energy)

    def forward(self, x: Tensor, n: Steps, log_z: Tensor, log_r: Tensor | None = None) -> Tensor:
        """log F_n(x), (..., B), of states x (..., B, D) at steps 0 < n < N.

        log_z : scalar, detached; the learnt log Z
        log_r : (..., B) bounded log R(x), where `needs_energy`
        """
        reference = self.process.log_reference(x, n)
        value = reference + log_z + self.network(x, n)[..., 0]
        if not self.needs_energy:
            return value
        if log_r is None:
            raise ValueError("the twist holds a share of the energy; log_r is missing")
        share = n / self.n_steps if isinstance(n, int) else (n / self.n_steps).unsqueeze(1)
        return value + share**self.config.partial_power * (log_r - log_z - reference)
