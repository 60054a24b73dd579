"""Angles drawn one after the other, each from an exact mixture given those before it.

A step draws one angle: p_F is a mixture of wrapped normals whose parameters a network gives from the angles drawn so
far; p_B takes the angle away again, with probability one. An angle that is not drawn yet is 0 in the state. On the
circle kernels of a diffusion cost 0.02 nats a torsion however well they are trained; a mixture has no such floor.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from molsampler.basis.settings import setting
from molsampler.basis.space import LOG_2PI, MAX_CIRCLE_STD, Circle, Space, log_wrapped_normal, wrap_angle
from molsampler.diffusion.networks import StepwiseMLP
from molsampler.diffusion.policy import Mix, Network, Policy
from molsampler.diffusion.process import Process, Steps

MIN_STD = 0.04
"""Radians, the least spread of a component: a tenth of a soft torsion's narrowest well."""
_FIRST_STD = 0.37  # of components spaced evenly: sixteen of them are uniform to 1e-6


@dataclass(frozen=True)
class TorsionConfig:
    """Soft torsions drawn first, one a step, each from a mixture."""

    components: int = setting(16, "wrapped normals in a mixture", low=1, needs={"train.schedule.torsions": "first"})
    width: int = setting(128, "of a hidden layer", low=1, needs={"train.schedule.torsions": "first"})
    depth: int = setting(2, "hidden layers", low=1, needs={"train.schedule.torsions": "first"})


class Reveal(Process):
    """The backward side of `dim` angles drawn in order: step n takes angle n away. States (..., dim)."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        if space.count(Circle) != space.dim:
            raise ValueError("only angles are drawn from mixtures on the circle")
        self.space, self.n_steps = space, space.dim

    def sample_prior(self, n: int, generator: torch.Generator, dtype=torch.float32) -> Tensor:
        return torch.zeros(n, self.space.dim, dtype=dtype, device=generator.device)

    def log_prior(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def log_reference(self, x: Tensor, n: Steps) -> Tensor:
        """Uniform in the angles drawn so far."""
        drawn = n if isinstance(n, int) else n[:, None].to(x)
        return torch.zeros_like(x[..., 0]) - LOG_2PI * drawn

    def log_prob(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        return torch.zeros_like(x_next[..., 0])

    def sample_step(self, x_next: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        return self.before(x_next, n)

    def before(self, x: Tensor, n: Steps) -> Tensor:
        """x (..., B, dim) with the angles from n on taken away."""
        index = torch.arange(self.space.dim, device=x.device)
        kept = index < (n if isinstance(n, int) else n[:, None, None])
        return torch.where(kept, x, 0.0)

    def prior_mismatch(self, x_data: Tensor) -> float:
        return 0.0


class TorsionPolicy(Policy):
    """The forward side of `Reveal`: one network a step, from the features of the whole state to a mixture.

    own : the columns of the angles in states (..., B, D) of `space`; the features are those of these columns alone
    """

    def __init__(self, process: Reveal, config: TorsionConfig, generator: torch.Generator, own: slice) -> None:
        super().__init__()
        self.process, self.config, self.own = process, config, own
        k = config.components
        n_in = process.space.n_features()
        self.network = StepwiseMLP(n_in, 3 * k, process.n_steps, config.width, config.depth, generator)
        centres = 2.0 * math.pi * (torch.arange(k) + 0.5) / k - math.pi
        first = torch.cat([torch.zeros(k), centres, torch.full((k,), 2.0 * math.log(_FIRST_STD))])
        self.register_buffer("first", first, persistent=False)
        self._evaluate: Network = self.network.forward

    def evaluated_by(self, accelerate: Callable[[nn.Module], Network]) -> TorsionPolicy:
        view = copy.copy(self)
        view._evaluate = accelerate(self.network)
        return view

    def mixture(self, angles: Tensor, n: Steps) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and log-variances (..., B, K) of angle n, given angles (..., B, dim) of which those from n
        on are 0."""
        out = self._evaluate(self.process.space.features(angles), n) + self.first
        log_weight, mean, log_var = out.chunk(3, dim=-1)
        bounds = 2.0 * math.log(MIN_STD), 2.0 * math.log(MAX_CIRCLE_STD)
        return log_weight.log_softmax(-1), mean, log_var.clamp(*bounds)

    def log_prob(self, x_next: Tensor, x: Tensor, n: Steps) -> Tensor:
        mixture = self.mixture(x[..., self.own], n)
        angles = x_next[..., self.own]
        if isinstance(n, int):
            return _log_mixture(angles[..., n], *mixture)
        return _log_mixture(angles[torch.arange(len(n), device=n.device), :, n], *mixture)

    def sample_step(
        self, x: Tensor, n: int, generator: torch.Generator, exploration: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        log_weight, mean, log_var = self.mixture(x[..., self.own], n)
        if exploration:
            log_var = (log_var + 2.0 * math.log1p(exploration)).clamp_max(2.0 * math.log(MAX_CIRCLE_STD))
        picked = torch.multinomial(log_weight.exp(), 1, generator=generator)  # (B, 1)
        noise = torch.randn(picked.shape, generator=generator, dtype=x.dtype, device=x.device)
        angle = wrap_angle(mean.gather(1, picked) + (0.5 * log_var.gather(1, picked)).exp() * noise)[:, 0]
        x_next = x.clone()
        x_next[:, self.own][:, n] = angle
        return x_next, _log_mixture(angle, log_weight, mean, log_var)

    def fit_losses(self, x_data: Tensor, score: Tensor, mix: Mix, generator: torch.Generator) -> Tensor:
        """-log p_F of each angle given those before it, exact, over the states of all steps at once."""
        n_steps = self.process.n_steps
        steps = torch.arange(n_steps, device=x_data.device)
        data = x_data.flatten(0, 1).expand(n_steps, -1, -1)  # (n_steps, n_steps B, D)
        x = data.clone()
        x[..., self.own] = self.process.before(data[..., self.own], steps)
        return -self.log_prob(data, x, steps).mean(-1)


def _log_mixture(angle: Tensor, log_weight: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log density (...) of a mixture (..., K) of wrapped normals at angles (...)."""
    return (log_weight + log_wrapped_normal(angle[..., None] - mean, log_var)).logsumexp(-1)
