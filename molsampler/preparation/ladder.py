"""From a molecule prepared at one temperature to states at every temperature of a range.

Sequential Monte Carlo from rung to rung of a ladder, up and down from the molecule's own temperature: particles keep
their stretched coordinates, are weighed by what the density changes there, resampled, and moved by MALA.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.basis.resampling import systematic
from molsampler.basis.settings import setting
from molsampler.smc.annealed import Prefill
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.mala import mala
from molsampler.targets.temperatures import TemperatureTarget


@dataclass(frozen=True)
class LadderConfig:
    """A range of temperatures for one policy, which is then told the temperature."""

    hottest: float = setting(
        0.0, "the policy is trained for all temperatures up to this one; 0 for the system's own alone", low=0.0,
        unit="K",
    )  # fmt: skip
    coldest: float = setting(0.0, "and down to this one; 0 for the system's own", low=0.0, unit="K")
    ratio: float = setting(
        1.1, "of the temperatures of two rungs, by which states for training are made", above=1.0, high=2.0
    )
    states: int = setting(
        8192, "that training begins with, over all rungs, of each at most as many as annealing has particles", low=2
    )
    moves: int = setting(10, "steps of MALA at a rung", low=1)
    looked_at: int = setting(7, "temperatures, evenly spaced in log T, at which the policy is judged at the end", low=2)
    samples: int = setting(4000, "samples at each of these", low=2)

    @property
    def asked(self) -> bool:
        """Whether there is a range at all."""
        return self.hottest > 0.0 or self.coldest > 0.0

    def bounds(self, own: float) -> tuple[float, float]:
        """Coldest and hottest temperature in kelvin, of a molecule whose own is `own`."""
        return self.coldest or own, self.hottest or own


@dataclass(frozen=True)
class Rung:
    """state : equally weighted states (K, D) of one temperature in kelvin; log_z : log Z there by this rank's ladder,
    of the target without a guess"""

    temperature: float
    state: ChainState
    log_z: float


@torch.no_grad()
def climb(
    target: TemperatureTarget,
    start: Prefill,
    config: LadderConfig,
    generator: torch.Generator,
    say: Callable[[str], None] = lambda text: None,
) -> Prefill:
    """States of all temperatures, from states `start` of the molecule's own on `target.single`; sets the guess of
    log Z(T) of the target's coordinates (collective).

    Their weights are Z(T) over the guess, as the ladder estimates it. Each rank climbs with islands of its own.
    """
    coordinates, reference = target.coordinates, target.coordinates.reference
    with target.counter.purpose("prefill"):
        coordinates.guess = torch.zeros_like(coordinates.guess)
        own = Rung(reference, _evaluated(target, coordinates.at(start.state.x, reference)), start.log_z)
        found = [own]
        least = 1.0
        for end in (coordinates.coldest, coordinates.hottest):
            rung = own
            for temperature in _rungs(reference, end, config.ratio):
                rung, ess = _climbed(target, rung, temperature, config.moves, generator)
                least = min(least, ess)
                found.append(rung)
        found.sort(key=lambda rung: rung.temperature)
        state, log_w = _spread(target, found, config, generator)
        temperatures, log_z = (
            torch.tensor(one) for one in zip(*((r.temperature, r.log_z) for r in found), strict=True)
        )
        coordinates.fit_guess(*ranks.from_first((temperatures, log_z - start.log_z)))
        guessed = coordinates.log_z_guess(state.x[:, -1])
        state = ChainState(state.x, state.log_r - guessed, state.score)
    say(
        f"ladder: {len(found)} temperatures from {found[0].temperature:.0f} to {found[-1].temperature:.0f} K, log Z "
        f"{found[0].log_z:.2f} to {found[-1].log_z:.2f}, least ESS {100 * least:.0f} %"
    )
    explorers = start.explorers
    hot = ChainState(
        coordinates.at(explorers.x, reference), explorers.log_r, torch.nn.functional.pad(explorers.score, (0, 1))
    )
    return Prefill(state, start.log_z, hot, start.explorer_log_w, log_w=log_w - guessed.double())


def _rungs(own: float, end: float, ratio: float) -> list[float]:
    """Temperatures from the next after `own` to `end`, evenly spaced in log T, no further apart than `ratio`."""
    n = math.ceil(abs(math.log(end / own)) / math.log(ratio) - 1e-9)
    return [own * (end / own) ** ((k + 1) / n) for k in range(n)]


def _climbed(
    target: TemperatureTarget, rung: Rung, temperature: float, moves: int, generator: torch.Generator
) -> tuple[Rung, float]:
    """The rung at another temperature, and the ESS, a fraction, of the way there."""
    moved = _evaluated(target, _heated(rung.state.x, temperature))
    weights = LogWeights(moved.log_r.double() - rung.state.log_r.double())
    if weights.collapsed:
        raise InputError(
            f"no state of {rung.temperature:.0f} K is on the support at {temperature:.0f} K: make ladder.ratio smaller"
        )
    picked = systematic(generator, weights.normalised, len(moved.x))
    state = ChainState(moved.x[picked], moved.log_r[picked], moved.score[picked])
    scale = ProposalScale.from_scores(state.score)
    state, _, _ = mala(target.log_prob_and_score, target.space, state, scale, moves, generator)
    return Rung(temperature, state, rung.log_z + weights.log_mean), weights.ess_fraction


def _spread(
    target: TemperatureTarget, rungs: list[Rung], config: LadderConfig, generator: torch.Generator
) -> tuple[ChainState, Tensor]:
    """States of the rungs, each at a temperature of its own between them, and their log-weights (M,): a part Z of the
    rung, and what its density changes on the way."""
    coordinates, parts, log_w = target.coordinates, [], []
    size = max(config.states // (len(rungs) * ranks.size()), 1)
    for rung in rungs:
        picked = torch.randperm(len(rung.state.x), generator=generator, device=rung.state.x.device)[:size]
        u = torch.rand(len(picked), generator=generator, device=picked.device) - 0.5
        temperature = rung.temperature * config.ratio**u
        temperature = temperature.clamp(coordinates.coldest, coordinates.hottest)
        parts.append(_evaluated(target, _heated(rung.state.x[picked], temperature)))
        log_w.append(rung.log_z + (parts[-1].log_r - rung.state.log_r[picked]).double())
    state = ChainState(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "log_r", "score")))
    weights = torch.cat(log_w)
    kept = torch.isfinite(state.log_r).nonzero()[:, 0]  # a conformation may be stretched off the support
    # in no order, for a buffer that forgets the oldest
    kept = kept[torch.randperm(len(kept), generator=generator, device=kept.device)]
    return ChainState(state.x[kept], state.log_r[kept], state.score[kept]), weights[kept]


def _heated(x: Tensor, temperature: Tensor | float) -> Tensor:
    """States (K, D) with another temperature, their other coordinates as they are."""
    x = x.clone()
    x[:, -1] = temperature
    return x


def _evaluated(target: TemperatureTarget, x: Tensor) -> ChainState:
    return ChainState(x, *target.log_prob_and_score(x))
