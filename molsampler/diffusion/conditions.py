"""What a sampler of log R(z; c) has besides: steps that leave c alone, and a log Z that depends on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from molsampler.basis.space import Condition, Space
from molsampler.diffusion.networks import NetworkConfig, StepMLP
from molsampler.diffusion.process import Process, Steps


class Given(Process):
    """The link of a chain that owns the condition: it draws one at the start, and makes no step."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space, self.n_steps = space, 0

    def sample_prior(self, n: int, generator: torch.Generator, dtype=torch.float32) -> Tensor:
        return self.space.sample_prior(n, generator, dtype)

    def log_prior(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def log_reference(self, x: Tensor, n: Steps) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def log_prob(self, x: Tensor, x_next: Tensor, n: Steps) -> Tensor:
        raise ValueError("a condition has no steps")

    def sample_step(self, x_next: Tensor, n: Steps, generator: torch.Generator) -> Tensor:
        raise ValueError("a condition has no steps")

    def prior_mismatch(self, x_data: Tensor) -> float:
        return 0.0


class ConditionalLogZ(nn.Module):
    """log Z(c) less a constant that is learnt beside it: states (..., D) -> (...), 0 before training."""

    def __init__(self, space: Space, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.space, self.condition = space, space.only(Condition)
        self.mlp = StepMLP(self.condition.n_features(), 1, 1, config.width, config.depth, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.condition.features(self.space.condition_of(x)), 0)[..., 0]
