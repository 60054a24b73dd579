"""What a policy sees of a guide, the score of a cheap stand-in for the target.

Near the data f_n tends to the score of R / p_ref, which depends on the state through contacts between atoms far apart
in the list of coordinates: slow to learn from examples, and known beforehand to a good part. A guide that has the
contacts but not all of R (a molecule's force field with frozen Born radii) is evaluated at the state that the reference
process expects at its end, E[x_N | x_n] = m_n / v_n x_n: less noisy than x_n, so that fewer atoms overlap there. The
network sees it, and the drift has a learnt share of it. Any function would do: the policy's density stays exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from molsampler.basis.space import Space
from molsampler.diffusion.process import NoisingProcess, Steps, rows

ScoreFunction = Callable[[Tensor], Tensor]

LIMIT = 3.0
"""f of a standardised coordinate is of order 0.2; beyond this something overlaps, and the size says nothing more."""
FIRST_SHARE = 1.0 / 3.0
"""Of the steps, that go without: the state is nearly all noise then, and the guide was worth 0.01 of its 0.33 nats."""


class Guidance(nn.Module):
    """grad log (guide / p_ref) at the expected end, bounded: whole states (..., B, D) at steps n -> (..., B, D).

    process : of the columns `own` of `seen`, the space of whole states; guide : the score (B, D) -> (B, D)
    """

    def __init__(self, process: NoisingProcess, seen: Space, own: slice, guide: ScoreFunction) -> None:
        super().__init__()
        self.seen, self.own, self._guide = seen, own, guide
        self.first = int(FIRST_SHARE * process.n_steps)
        ends = process.marginal_scale[:-1] / process.reference_var[:-1].clamp_min(1e-12)
        self.register_buffer("to_end", ends, persistent=False)
        self.gate = nn.Parameter(torch.zeros(process.n_steps, process.space.dim))

    @torch.no_grad()
    def forward(self, x: Tensor, n: Steps) -> Tensor:
        if isinstance(n, int):
            return self._at(x, n) if n >= self.first else torch.zeros_like(x)
        found = torch.zeros_like(x)
        late = (n >= self.first).nonzero()[:, 0]
        if len(late):
            found[late] = self._at(x[late], n[late])
        return found

    def _at(self, x: Tensor, n: Steps) -> Tensor:
        end = x.detach().clone()
        end[..., self.own] *= rows(self.to_end, n)
        score = self._guide(end.flatten(0, -2)).view_as(end) - self.seen.prior_score(end)
        return LIMIT * torch.tanh(torch.nan_to_num(score) / LIMIT)

    def share(self, guided: Tensor, n: Steps) -> Tensor:
        """What of it the drift has, (..., B, d) in the coordinates that the process moves."""
        return rows(self.gate, n) * guided[..., self.own]
