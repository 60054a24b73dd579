"""The network under policy and twist: a residual MLP whose layers are scaled and shifted by the step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molsampler.basis.space import Space
from molsampler.diffusion.process import Steps, rows

FREQUENCY_RANGE = 5.0
"""Line coordinates, standardised, are taken to lie within this of 0: the lowest frequency has half a period there."""


class Features:
    """What networks see of a state: the space's own features, and Fourier features of the line coordinates.

    frequencies : sines and cosines a line coordinate, of pi k / (2 FREQUENCY_RANGE), k = 1..frequencies. An MLP finds
        narrow wells hard to see in a bare number (Tancik et al. 2020); on the circle the multiples do the same.
    width : of the features
    """

    def __init__(self, space: Space, frequencies: int) -> None:
        self.space, self.frequencies = space, frequencies
        self.width = space.n_features + 2 * frequencies * space.n_line

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., width)."""
        plain = self.space.features(x)
        if not self.frequencies:
            return plain
        line, _ = self.space.split(x)
        angle = (0.5 * math.pi / FREQUENCY_RANGE) * line
        multiples = torch.cat([k * angle for k in range(1, self.frequencies + 1)], dim=-1)
        return torch.cat([plain, multiples.sin(), multiples.cos()], dim=-1)


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
