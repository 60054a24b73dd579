"""An estimate of log Z that training makes on the way, without the bias of the learnt one.

The learnt log Z minimises the residuals of balance over all that is trained on. Rollouts alone would draw it to the
ELBO, below log Z; states replayed by their weights draw it towards the EUBO, above: it ends between the two, 0.1 to 0.5
above log Z for molecules. The mean weight of rollouts and of SMC passes is an unbiased estimate of Z whatever the
policy, so their running mean is one too.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from molsampler.basis import ranks
from molsampler.basis.log_weights import LogWeights


class RunningLogZ:
    """log of a discounted mean of weights: each batch counts by its particles, and `discount` times less with every
    batch after it. The discount is fixed beforehand, so that the mean stays unbiased."""

    def __init__(self, discount: float = 0.98) -> None:
        self.discount = discount
        self.log_sum, self.particles = -math.inf, 0.0

    def add(self, weights: LogWeights | None) -> None:
        """One batch of independent unnormalised weights, or one SMC pass, of every rank, as one batch (collective).

        None from a rank whose batch broke; where all broke nothing is added.
        """
        own = (-math.inf, 0) if weights is None else (weights.log_mean + math.log(len(weights)), len(weights))
        parts = ranks.stacked(torch.tensor(own, dtype=torch.float64))
        total, particles = float(torch.logsumexp(parts[:, 0], 0)), int(parts[:, 1].sum())
        if not particles:
            return
        self.log_sum = float(np.logaddexp(total, self.log_sum + math.log(self.discount)))
        self.particles = self.discount * self.particles + particles

    @property
    def value(self) -> float:
        """The estimate of log Z; NaN before the first batch, -inf where no weight was positive."""
        return self.log_sum - math.log(self.particles) if self.particles else math.nan

    def state_dict(self) -> dict:
        return {"log_sum": self.log_sum, "particles": self.particles}

    def load_state_dict(self, state: dict) -> None:
        self.log_sum, self.particles = state["log_sum"], state["particles"]
