"""Bisection: where a condition that holds on one side of a threshold ceases to hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)
STEPS = 60  # halves an interval down to the spacing of float64


def last_where(holds: Callable[[Number], bool | Tensor], low: Number, high: Number, steps: int = STEPS) -> Number:
    """The largest number in [low, high] at which `holds`, which holds below some threshold and not above it.

    Tensors are searched element by element; `holds` then gives a bool tensor. Where it holds nowhere, `low` comes back.
    """
    for _ in range(steps):
        middle = 0.5 * (low + high)
        there = holds(middle)
        if isinstance(there, Tensor):
            low, high = torch.where(there, middle, low), torch.where(there, high, middle)
        elif there:
            low = middle
        else:
            high = middle
    return low
