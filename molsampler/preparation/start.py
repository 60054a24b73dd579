"""From a target to one that training can begin on: annealed from the prior, standardised on what was found.

One algorithm for every kind of coordinates: it knows nothing of the target but its density.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.coordinates import Coordinates
from molsampler.basis.errors import InputError
from molsampler.smc.annealed import AnnealConfig, Prefill, annealed_smc
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.mala import mala
from molsampler.targets.charted import Charted
from molsampler.targets.molecule import MoleculeTarget

REFINING_FRAMES, REFINING_STEPS = 10, 5
"""Frames of every chain that coordinates are refined by, and the steps of MALA between two of them."""


def prepare(
    target: Charted | MoleculeTarget,
    anneal: AnnealConfig,
    generator: torch.Generator,
    say: Callable[[str], None] = lambda text: None,
    *,
    fit: bool = True,
) -> Prefill:
    """Weighted states of the target on its final coordinates, which stand for R (collective).

    Annealed SMC from the prior of the target's first coordinates reaches every basin; the coordinates are then fitted
    to what it found, in place (unless `fit` is False), and log R of its particles computed again there. The integral
    of R is the same on both charts. Ranks anneal islands of their own, with path and estimate of log Z of their own,
    and fit the coordinates to the states of all of them.

    anneal : with a rank's share of the particles
    """
    coordinates = target.coordinates
    if target.space.conditional:
        raise InputError("annealing resamples, which would favour some conditions: begin from scratch")
    with target.counter.purpose("prefill"):
        found = annealed_smc(target.log_prob_and_score, target.space, anneal, generator)
        say(
            f"annealing: {len(found.betas)} temperatures, log Z {found.log_z:.3f}, "
            f"{found.distinct_ancestors} of {anneal.particles} prior draws have descendants{_islands()}"
        )
        with torch.no_grad():
            natural, hot = (coordinates.to_natural(part.x)[0] for part in (found.state, found.explorers))
        if fit:
            coordinates.fit(ranks.gathered(natural))
            agree(coordinates)
        state, _ = _standardised(target, natural)
        if fit and coordinates.refines:
            state = _refined(target, state, anneal, generator)
        explorers, inside = _standardised(target, hot)
    return Prefill(state, found.log_z, explorers, found.explorer_log_w[inside])


def _refined(
    target: Charted | MoleculeTarget, state: ChainState, anneal: AnnealConfig, generator: torch.Generator
) -> ChainState:
    """Fits the coordinates once more, to frames of chains from the annealed states and their scores; the ends of the
    chains on the new coordinates (collective).

    A covariance of d coordinates from M states has a noise of d^2 / M in the Fisher divergence from a standard normal,
    which for the annealed states alone is more than what a good covariance leaves.
    """
    coordinates, frames = target.coordinates, []
    scale = ProposalScale.from_scores(state.score)
    for _ in range(REFINING_FRAMES):
        state, scale, _ = mala(
            target.log_prob_and_score,
            target.space,
            state,
            scale,
            REFINING_STEPS,
            generator,
            step_range=anneal.step_range,
        )
        frames.append(state)
    with torch.no_grad():
        natural, _ = coordinates.to_natural(state.x)
    x, score = (torch.cat([getattr(frame, name) for frame in frames]) for name in ("x", "score"))
    coordinates.refine(ranks.gathered(x), ranks.gathered(score))
    agree(coordinates)
    return _standardised(target, natural)[0]


def agree(coordinates: Coordinates) -> None:
    """Coordinates that were fitted to the same states are the first rank's to the last bit (collective)."""
    coordinates.load_state_dict(ranks.from_first(coordinates.state_dict()))


def _islands() -> str:
    return f", in the first of {ranks.size()} islands" if ranks.size() > 1 else ""


def _standardised(target: Charted | MoleculeTarget, natural: Tensor) -> tuple[ChainState, Tensor]:
    """States (M, D) of natural states (B, ...) on the target's coordinates, and which of the B are on its support."""
    x = target.coordinates.to_standard(natural)
    log_r, score = target.log_prob_and_score(x)
    inside = torch.isfinite(log_r)
    return ChainState(x[inside], log_r[inside], score[inside]), inside
