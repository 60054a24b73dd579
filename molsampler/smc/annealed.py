"""Classical SMC from the prior to the target along a geometric path, with Markov moves and adaptive temperatures.

Del Moral, Doucet and Jasra (2006); temperatures as in Jasra et al. (2011). It knows nothing of policy or twist: it
fills the replay buffer before there is any policy, with every basin that the prior reaches and at the weight that the
path gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from molsampler.basis.bisection import last_where
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.basis.resampling import systematic
from molsampler.basis.settings import setting
from molsampler.basis.space import Space
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.kernels import Kernel, KernelName, kernel_named


@dataclass(frozen=True)
class AnnealConfig:
    """Annealed SMC from the prior, before training."""

    particles: int = setting(4096, "K", low=2)
    ess: float = setting(0.6, "the next inverse temperature keeps the ESS at this share of K", above=0.0, below=1.0)
    moves: int = setting(8, "steps of the kernel at a temperature", low=1)
    last_moves: int = setting(40, "steps of the kernel at the target itself", low=1)
    max_temperatures: int = setting(400, "more than these are refused: the path does not get through", low=1)
    kernel: KernelName = setting("mala", "MALA, Hamiltonian Monte Carlo or random-walk Metropolis")
    step_range: float = setting(
        1.0, "MALA's steps vary log-uniformly over this factor", low=1.0, needs={"kernel": "mala"}
    )
    leapfrog_steps: int = setting(8, "evaluations a step of HMC", low=1, needs={"kernel": "hmc"})


@dataclass(frozen=True)
class Prefill:
    """What training starts from. state : states of R, equally weighted; log_z : estimate of log Z.

    log_w : (K,) float64, the log-weights of the states where they are not equal; None: Z for each
    explorers, explorer_log_w : the particles of the hottest temperature, moved along the same path without
    resampling, and their log-weights by annealed importance sampling (Neal 2001): the same measure, with as many
    particles in the rare basins as the hot ensemble has there.
    """

    state: ChainState
    log_z: float
    explorers: ChainState
    explorer_log_w: Tensor
    log_w: Tensor | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Annealed(Prefill):
    """betas : the path; acceptance : the kernel's at each temperature; distinct_ancestors : prior draws that have
    descendants; ancestors, explorer_ancestors : the prior draw that each particle descends from. What descends from one
    is dependent, what descends from different ones is not (Chan and Lai, Ann. Statist. 41, 2877 (2013))."""

    betas: list[float]
    acceptance: list[float]
    distinct_ancestors: int
    ancestors: Tensor
    explorer_ancestors: Tensor


@torch.no_grad()
def annealed_smc(
    log_prob_and_score: Callable[[Tensor], tuple[Tensor, Tensor]],
    space: Space,
    config: AnnealConfig,
    generator: torch.Generator,
    on_temperature: Callable[[float], None] | None = None,
    explore: bool = True,
) -> Annealed:
    """Particles from p_0 to R through p_0^(1 - beta) R^beta, resampled at every temperature.

    R = 0 at a draw of the prior is a particle of weight zero, which the first resampling removes.
    explore : walk the explorers too, at the same cost again; without it there are none
    """
    k, kernel = config.particles, kernel_named(config.kernel, config.leapfrog_steps, config.step_range)
    x = space.sample_prior(k, generator)
    log_r, score = log_prob_and_score(x)
    if not bool(torch.isfinite(log_r).any()):
        raise InputError(
            f"none of {k} draws from the prior lies on the support of the target: standardise the chart on more "
            "frames, or anneal with more particles"
        )
    state = ChainState(x, log_r, score)
    ancestors = torch.arange(k, device=x.device)
    scale = ProposalScale(torch.ones(space.dim, device=x.device), 0.5)
    beta, log_z, betas, acceptance = 0.0, 0.0, [], []
    while beta < 1.0:
        if len(betas) >= config.max_temperatures:
            raise InputError(
                f"annealing from the prior reached only beta = {beta:.3g} after {len(betas)} temperatures; "
                "the chart's standardisation does not fit the target"
            )
        log_ratio = state.log_r.double() - space.log_prior(state.x).double()
        step = _next_step(log_ratio, 1.0 - beta, config.ess)
        weights = LogWeights(log_ratio).power(step)
        log_z += weights.log_mean
        beta = 1.0 if step >= 1.0 - beta else beta + step
        picked = systematic(generator, weights.normalised, k)
        state = ChainState(state.x[picked], state.log_r[picked], state.score[picked])
        ancestors = ancestors[picked]
        moves = config.moves if beta < 1.0 else config.last_moves
        state, scale, rate = _move(kernel, log_prob_and_score, space, state, scale, beta, moves, generator)
        betas.append(beta)
        acceptance.append(rate)
        if len(betas) == 1:
            hot, hot_log_z, hot_scale, hot_ancestors = state, log_z, scale, ancestors
        if on_temperature is not None:
            on_temperature(beta)
    path = betas if explore else []
    if not explore:
        hot, hot_ancestors = ChainState(hot.x[:0], hot.log_r[:0], hot.score[:0]), ancestors[:0]
    log_w = torch.full((len(hot.x),), hot_log_z, dtype=torch.float64, device=x.device)
    for before, beta in zip(path, path[1:], strict=False):
        log_w += (beta - before) * (hot.log_r.double() - space.log_prior(hot.x).double())
        moves = config.moves if beta < 1.0 else config.last_moves
        hot, hot_scale, _ = _move(kernel, log_prob_and_score, space, hot, hot_scale, beta, moves, generator)
    return Annealed(state, log_z, hot, log_w, betas, acceptance, len(ancestors.unique()), ancestors, hot_ancestors)


def _next_step(log_ratio: Tensor, largest: float, ess: float) -> float:
    """The largest step of beta, at most `largest`, that keeps ESS at `ess` of the particles that have weight at all."""
    alive = LogWeights(log_ratio[log_ratio > -torch.inf])
    if alive.power(largest).ess_fraction >= ess:
        return largest
    return last_where(lambda step: alive.power(step).ess_fraction >= ess, 0.0, largest)


def _move(
    kernel: Kernel,
    log_prob_and_score: Callable[[Tensor], tuple[Tensor, Tensor]],
    space: Space,
    state: ChainState,
    scale: ProposalScale,
    beta: float,
    moves: int,
    generator: torch.Generator,
) -> tuple[ChainState, ProposalScale, float]:
    """The kernel at inverse temperature beta, carrying log R and score of the target itself along with the state."""
    carried: list[tuple[Tensor, Tensor]] = []

    def tempered(x: Tensor, log_r: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.where(log_r > -torch.inf, (1.0 - beta) * space.log_prior(x) + beta * log_r, -torch.inf)
        return log_p, (1.0 - beta) * space.prior_score(x) + beta * score

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        carried.append(log_prob_and_score(x))
        return tempered(x, *carried[-1])

    chain = ChainState(state.x, *tempered(state.x, state.log_r, state.score))
    scale = ProposalScale(ProposalScale.from_scores(chain.score).scale, scale.step)
    total = 0.0
    for _ in range(moves):
        before = chain
        chain, scale, rate = kernel(evaluate, space, chain, scale, 1, generator)
        log_r, score = carried[-1]
        carried.clear()
        moved = (chain.x != before.x).any(-1)
        state = ChainState(
            chain.x, torch.where(moved, log_r, state.log_r), torch.where(moved[:, None], score, state.score)
        )
        total += rate
    return state, scale, total / max(moves, 1)
