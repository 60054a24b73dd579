"""Networks under policy and twist, made for a space: what they see of a state, and how they depend on the step."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molsampler.basis.space import Space
from molsampler.diffusion.process import Steps, rows


class NetworkConfig(Protocol):
    """width, depth : hidden layers; frequencies : Fourier features of every line coordinate"""

    width: int
    depth: int
    frequencies: int


def make_network(
    space: Space, config: NetworkConfig, n_out: int, n_steps: int, generator: torch.Generator, extra: int = 0
) -> StateNetwork:
    """A network from states of `space` at steps 0..n_steps-1 to n_out numbers, zero before training.

    extra : numbers of order one that stand behind each state and are seen as they are
    What a coordinate is, which atoms and which torsion it belongs to, stands in `space.table`.
    """
    return StateNetwork(space, config, n_out, n_steps, generator, extra)


class StateNetwork(nn.Module):
    """A residual MLP over the space's features: states (..., B, D + extra) at steps n -> (..., B, n_out)."""

    def __init__(
        self,
        space: Space,
        config: NetworkConfig,
        n_out: int,
        n_steps: int,
        generator: torch.Generator,
        extra: int = 0,
    ) -> None:
        super().__init__()
        self.space, self.frequencies, self.extra = space, config.frequencies, extra
        n_in = space.n_features(config.frequencies) + extra
        self.mlp = StepMLP(n_in, n_out, n_steps, config.width, config.depth, generator)

    def forward(self, x: Tensor, n: Steps) -> Tensor:
        if not self.extra:
            return self.mlp(self.space.features(x, self.frequencies), n)
        x, extra = x.split([self.space.dim, self.extra], dim=-1)
        return self.mlp(torch.cat([self.space.features(x, self.frequencies), extra], dim=-1), n)


def linear(n_in: int, n_out: int, generator: torch.Generator, gain: float = 1.0) -> nn.Linear:
    """A linear layer with normal weights of variance gain^2 / n_in from the given generator, and zero bias."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n_out, n_in, generator=generator) * (gain / math.sqrt(n_in)))
        layer.bias.zero_()
    return layer


class StepMLP(nn.Module):
    """Residual MLP over features (..., B, n_in) at steps n -> (..., B, n_out), zero before training.

    Every hidden layer has one learnt scale and shift for each of the `n_steps` steps, a table look-up instead of an
    embedding network; all samples of a slice share a step, so the tables are broadcast and never gathered by sample.
    """

    def __init__(self, n_in: int, n_out: int, n_steps: int, width: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = linear(n_in, width, generator)
        self.hidden = nn.ModuleList(linear(width, width, generator) for _ in range(depth - 1))
        self.last = linear(width, n_out, generator, gain=0.0)
        self.scale = nn.Parameter(torch.zeros(n_steps, depth, width))
        self.shift = nn.Parameter(torch.zeros(n_steps, depth, width))
        self.last_bias = nn.Parameter(torch.zeros(n_steps, n_out))

    def forward(self, x: Tensor, n: Steps) -> Tensor:
        scale, shift = 1.0 + rows(self.scale, n), rows(self.shift, n)
        h = F.silu(self.first(x) * scale[..., 0, :] + shift[..., 0, :])
        for k, layer in enumerate(self.hidden, start=1):
            h = h + F.silu(layer(h) * scale[..., k, :] + shift[..., k, :])
        return self.last(h) + rows(self.last_bias, n)


class StepwiseMLP(nn.Module):
    """A residual MLP of its own for each of `n_steps` steps: features (..., B, n_in) at steps n -> (..., B, n_out),
    zero before training."""

    def __init__(self, n_in: int, n_out: int, n_steps: int, width: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [n_in, *[width] * depth, n_out]
        gains = [1.0] * depth + [0.0]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b, gain in zip(sizes[:-1], sizes[1:], gains, strict=True):
            weight = torch.randn(n_steps, a, b, generator=generator) * (gain / math.sqrt(a))
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(n_steps, 1, b)))

    @property
    def matrices(self) -> list[nn.Parameter]:
        """The stacks of matrices (n_steps, a, b) among the parameters."""
        return list(self.weights)

    def forward(self, x: Tensor, n: Steps) -> Tensor:
        h = F.silu(self._layer(0, x, n))
        for k in range(1, len(self.weights) - 1):
            h = h + F.silu(self._layer(k, h, n))
        return self._layer(len(self.weights) - 1, h, n)

    def _layer(self, k: int, x: Tensor, n: Steps) -> Tensor:
        return x @ self.weights[k][n] + self.biases[k][n]
