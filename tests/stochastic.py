"""Means against closed forms, with standard errors: how every stochastic test of the mathematics decides."""

from __future__ import annotations

import torch
from torch import Tensor

BOUND = 4.5
"""Standard errors allowed between a mean and its closed form. By chance a right program fails with probability 7e-6 a
mean (normal errors, which all tests come close to by the number of values they average); seeds are fixed."""


def standard_errors(values: Tensor, expected: float | Tensor) -> Tensor:
    """(mean - expected) / standard error of independent values (M, ...), elementwise over the rest."""
    values = values.double()
    error = (values.std(0) / len(values) ** 0.5).clamp_min(1e-9)  # what does not scatter is right but for rounding
    return (values.mean(0) - torch.as_tensor(expected, dtype=torch.float64)) / error


def assert_mean(values: Tensor, expected: float | Tensor, bound: float = BOUND) -> None:
    """The mean of independent values (M, ...) is `expected` within `bound` standard errors, elementwise."""
    z = standard_errors(values, expected)
    found = values.double().mean(0)
    assert bool((z.abs() < bound).all()), f"{z.abs().max():.1f} standard errors: {found} for {expected}"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
