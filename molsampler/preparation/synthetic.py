"""From a synthetic target to one that the sampler can start on, as prepare.py does it for a molecule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from molsampler.smc.annealed import AnnealConfig, Prefill, annealed_smc
from molsampler.smc.moves.mala import ChainState
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.coordinates.heavy_tailed import HeavyTailed
from molsampler.targets.synthetic import SyntheticTarget

Standardise = Literal["prior", "diagonal", "full", "sinh"]


def first_chart(target: SyntheticTarget, standardise: Standardise = "prior") -> Affine:
    """The target in the coordinates whose N(0, I) is the rough location and extent that are known beforehand."""
    if standardise == "sinh":
        return HeavyTailed(target, target.centre, target.extent)
    return Affine(target, target.centre, target.first_scale)


def prepare_synthetic(
    target: SyntheticTarget,
    standardise: Standardise,
    anneal: AnnealConfig,
    generator: torch.Generator,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Affine, Prefill]:
    """Anneal from the first chart's prior, standardise on what it found, and compute log R again on that chart.

    standardise : "prior" keeps the first chart; "diagonal" and "full" take mean and spread, or mean and covariance, of
        the annealed particles; "sinh" is for heavy tails (`HeavyTailed`), and is the first chart's form too
    """
    chart = first_chart(target, standardise)
    with target.counter.purpose("prefill"):
        found = annealed_smc(chart.log_prob_and_score, chart.space, anneal, generator)
        say(
            f"annealing: {len(found.betas)} temperatures, log Z {found.log_z:.3f}, "
            f"{found.distinct_ancestors} of {anneal.particles} prior draws have descendants"
        )
        natural = [chart.to_natural(part.x) for part in (found.state, found.explorers)]
        if standardise == "sinh":
            chart = HeavyTailed.fit(target, natural[0])
        elif standardise != "prior":
            chart = Affine.fit(target, natural[0], standardise)
        states = []
        for x in natural:
            z = chart.to_standard(x)
            states.append(ChainState(z, *chart.log_prob_and_score(z)))
    return chart, Prefill(states[0], found.log_z, states[1], found.explorer_log_w)
