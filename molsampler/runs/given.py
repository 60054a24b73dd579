"""What a run on a target with conditions looks at: samples for conditions that are given, and log Z(c) as learnt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from molsampler.analysis.statistics.conditional import conditional_figures
from molsampler.basis.log_weights import LogWeights
from molsampler.smc.trained import Drawn
from molsampler.training.rows import training_row
from molsampler.training.trainer import Trainer


def draw_given(trainer: Trainer, given: Tensor, n: int, generator: torch.Generator) -> Drawn:
    """n samples of the averaged policy for each of the conditions (G, K), one condition after the other, of all ranks
    (collective)."""
    rows = given.repeat_interleave(n, 0)
    with trainer.target.counter.purpose("analysis"):
        return trainer.sampler().draw(len(rows), generator, given=rows).gathered()


@torch.no_grad()
def learnt_log_z(trainer: Trainer, given: Tensor) -> Tensor:
    """log Z(c) as it was learnt, (G,) float64, of conditions (G, K)."""
    space = trainer.target.space
    x = space.with_condition(torch.zeros(len(given), space.dim, device=given.device), given)
    return trainer.learner.log_z_of(x).double()


@torch.no_grad()
def conditional_row(trainer: Trainer, given: Tensor, drawn: Drawn) -> dict[str, Any]:
    """A row of metrics.csv, as `Trainer.evaluate` gives, of equally many samples for each of the conditions (G, K);
    what belongs to a condition is averaged over them (collective)."""
    log_w = torch.where(torch.isfinite(drawn.log_w), drawn.log_w, -torch.inf)
    figures = conditional_figures(log_w.view(len(given), -1).cpu().numpy())
    row = training_row(trainer, LogWeights(log_w))
    row |= {name: figures[name].value for name in ("ess", "elbo", "log_z_estimate")}
    row["log_z"] = float(learnt_log_z(trainer, given).mean())
    return row
