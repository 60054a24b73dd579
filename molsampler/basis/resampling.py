"""Resamplers: pure functions (generator, weights, n) -> indices.

weights : (K,) normalised, float64. A particle of zero weight is never picked: cumulative sums are float64, indices
are found among the particles of positive weight only.
"""

from __future__ import annotations

import torch
from torch import Tensor


def systematic(generator: torch.Generator, weights: Tensor, n: int) -> Tensor:
    """One uniform offset for n evenly spaced points; index (n,) int64, sorted. Particle k is picked n w_k times on
    average, and never fewer than floor(n w_k) or more than ceil(n w_k) times."""
    offset = torch.rand(1, generator=generator, dtype=torch.float64, device=weights.device)
    return _invert(weights, (torch.arange(n, dtype=torch.float64, device=weights.device) + offset) / n)


def multinomial(generator: torch.Generator, weights: Tensor, n: int) -> Tensor:
    """n independent draws; index (n,) int64."""
    return _invert(weights, torch.rand(n, generator=generator, dtype=torch.float64, device=weights.device))


def _invert(weights: Tensor, points: Tensor) -> Tensor:
    """Indices of the particles whose share of the cumulative weight holds the points in [0, 1)."""
    positive = torch.nonzero(weights > 0.0).squeeze(-1)
    if len(positive) == 0:
        raise ValueError("all weights are zero; there is nothing to resample from")
    cumulative = weights[positive].double().cumsum(0)
    found = torch.searchsorted(cumulative, points * cumulative[-1], right=True)
    # points * total can round up to the total; the last positive particle is then the right one
    return positive[found.clamp_(max=len(positive) - 1)]
