"""The one bounded stand-in for exploding energies, used in balance and in the twist and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor

FITTED_ON = 16384  # states, the last ones


class Surrogate:
    """log R above a knee; below it bends, monotone and smooth, towards knee - cap, which also stands for R = 0.

    margin : the knee lies so far below the lowest per cent of the states that training begins with
    """

    def __init__(self, margin: float, cap: float, knee: float = 0.0) -> None:
        self.margin, self.cap, self.knee = margin, cap, knee

    def fit(self, log_r: Tensor) -> None:
        """Set the knee by log R (M,) of states that training begins with."""
        self.knee = float(torch.quantile(log_r[-FITTED_ON:], 0.01)) - self.margin

    def __call__(self, log_r: Tensor) -> Tensor:
        """log R (B,), -inf allowed -> finite (B,); NaN stays, so that the update that meets it is skipped."""
        depth = (self.knee - log_r).clamp_min(0.0)
        return torch.where(log_r >= self.knee, log_r, self.knee - self.cap * torch.tanh(depth / self.cap))

    def always_finite(self, log_r: Tensor) -> Tensor:
        """The same, where NaN and infinities of both signs count as R = 0."""
        return self(torch.where(torch.isfinite(log_r), log_r, -torch.inf))

    def state_dict(self) -> dict:
        return {"knee": self.knee}

    def load_state_dict(self, state: dict) -> None:
        self.knee = state["knee"]
