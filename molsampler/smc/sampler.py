"""Sequential Monte Carlo with the policy as proposal and the twist as intermediate targets (Choi et al. 2025).

    propagate a chunk of L steps with p_F
    multiply the weights by F_end prod p_B / (F_start prod p_F)
    where ESS < kappa K and n < N: resample from a ~ w^lambda (1 + delta^2)^emphasis, keep w / (K a)
    where n < N and moves are asked for: move by a kernel that leaves F_n invariant, which changes no weight

    at n = N, where an emulator of R is given: multiply by the emulator's value instead of R's, resample K of the
        proposals * K that were walked, and multiply these by R over it

The weights start at 1 from p_0 (F_0 = p_0), end at F_N = R and stay unnormalised, so their mean is an unbiased
estimate of Z for every twist, emulator, kappa, lambda and emphasis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from molsampler.basis.log_weights import LogWeights
from molsampler.basis.resampling import systematic
from molsampler.basis.settings import setting
from molsampler.diffusion.policy import Policy
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.mala import mala

LARGEST_LOSS = 100.0
"""What 1 + delta^2 is cut at: a path that went astray altogether counts as one that is ten units of log w off."""
LARGEST_STEP, STEP_RANGE = 1.5, 30.0  # of moves, in spreads of a standard normal; log-uniform from there down
LogTwist = Callable[[Tensor, int], Tensor]
"""(states (B, D), step n) -> log F_n (B,), finite everywhere, for steps 0 < n < N; with a graph where states have
one."""


@dataclass(frozen=True)
class SMCConfig:
    """Sequential Monte Carlo with policy and twist."""

    chunk: int = setting(6, "steps between two looks at the weights; divides N", low=1)
    kappa: float = setting(0.2, "resample where ESS < kappa K", low=0.0)
    gamma: float = setting(0.05, "temper the resampling weights to an ESS of gamma K", low=0.0, high=1.0)
    emphasis: float = setting(
        0.0,
        "in training, not in sampling: the power of 1 + delta^2 (at most 100) by which resampling prefers particles "
        "whose paths are far from balance, delta being the log-weight of the whole path less that of the mean; 0 for "
        "none",
        low=0.0,
    )
    moves: int = setting(
        0,
        "steps of MALA on the twist's density at every chunk end before the data, after resampling; they cost networks "
        "and no energy; 0 for none",
        low=0,
    )
    proposals: int = setting(
        1,
        "in sampling, not in training: so many times more are walked than are kept, and an emulator of the energy, "
        "fitted to the replay buffer, chooses those whose energy is evaluated",
        low=1,
    )


@dataclass
class SMCInfo:
    """What happened in a pass, one entry a chunk, in order, and where an emulator chose, one for that, with steps N;
    the lists grow as it is stepped.

    steps : chunk ends, the data's N last; increments : (K,) float64, what the chunk added to each particle's log w
    ess : ESS / K at the end, before resampling; exponents : lambda where it resampled, None where not
    accepted : share of the moves that were taken, of every chunk end where there were any
    distinct_ancestors : number of particles at n = 0 with a descendant of positive weight
    """

    steps: list[int] = field(default_factory=list)
    increments: list[Tensor] = field(default_factory=list)
    ess: list[float] = field(default_factory=list)
    exponents: list[float | None] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    distinct_ancestors: int = 0

    @property
    def resampled_at(self) -> list[int]:
        return [n for n, exponent in zip(self.steps, self.exponents, strict=True) if exponent is not None]


@dataclass(frozen=True)
class Particles:
    """x : (K, D) terminal states; log_r : (K,) log R(x); log_w : (K,) unnormalised log-weights, their mean estimates
    Z."""

    x: Tensor
    log_r: Tensor
    log_w: Tensor

    @property
    def weights(self) -> LogWeights:
        return LogWeights(self.log_w)


class SMCPass:
    """One pass of K particles from the prior to the data, walked chunk by chunk.

    log_prob : log R, (B, D) -> (B,), -inf outside the support
    emulator : a cheap log R, finite everywhere; with one, config.proposals K particles are walked, and K are left
    n : the step that the particles are at; x : (K, D) states there; log_w : (K,) float64 unnormalised log-weights;
    log_f : (K,) log F_n(x) (log p_0 at the start, log R at the end); info : what happened so far

    Without resampling (kappa = 0) and emulator this is importance sampling with the policy, whatever the twist.
    """

    def __init__(
        self,
        policy: Policy,
        log_twist: LogTwist,
        log_prob: Callable[[Tensor], Tensor],
        n_particles: int,
        config: SMCConfig,
        generator: torch.Generator,
        emulator: Callable[[Tensor], Tensor] | None = None,
        given: Tensor | None = None,
    ) -> None:
        """given : (K, conditions) one condition for all particles, where states hold one"""
        self.policy, self.log_twist, self.log_prob = policy, log_twist, log_prob
        self.config, self.generator, self.emulator = config, generator, emulator
        self._kept = n_particles
        n_walked = n_particles if emulator is None else n_particles * config.proposals
        n_steps = policy.process.n_steps
        self.ends = (*policy.process.chunk_ends(config.chunk), n_steps)
        self.n = 0
        with torch.no_grad():
            self.x = policy.process.sample_prior(n_walked, generator)
            if given is not None:
                self.x = policy.process.space.with_condition(self.x, given)
            self.log_f = policy.process.log_prior(self.x)
        self.log_w = torch.zeros(n_walked, dtype=torch.float64, device=self.x.device)
        self._log_path = self.log_w  # log F_n prod p_B / (p_0 prod p_F) of each path, whatever was resampled
        self._ancestors = torch.arange(n_walked, device=self.x.device)
        self.info = SMCInfo()

    @property
    def done(self) -> bool:
        return self.n == self.ends[-1]

    @torch.no_grad()
    def step(self) -> None:
        """Walk one chunk: propagate, weigh, and resample where the ESS asks for it."""
        end = next(end for end in self.ends if end > self.n)
        log_ratio = self._propagate(end)
        self.n = end
        if not self.done:
            self._weigh(self.log_twist(self.x, end), log_ratio)
            self._resample()
            self._move()
        else:
            if self.emulator is not None:
                self._weigh(self.emulator(self.x), log_ratio)
                self._choose()
                log_ratio = torch.zeros_like(self.log_w)
            self._weigh(self.log_prob(self.x), log_ratio)
            self._note(self._weights(), None)
        self.info.distinct_ancestors = len(self._ancestors[self.log_w > -torch.inf].unique())

    def run(self) -> tuple[Particles, SMCInfo]:
        """Walk all chunks that are left."""
        while not self.done:
            self.step()
        return Particles(self.x, self.log_f, self.log_w), self.info

    def _propagate(self, end: int) -> Tensor:
        """Steps n..end-1 of the policy; returns sum (log p_F - log p_B), (K,) float64."""
        log_ratio = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        for n in range(self.n, end):
            x_next, log_p_f = self.policy.sample_step(self.x, n, self.generator)
            log_ratio += (log_p_f - self.policy.process.log_prob(self.x, x_next, n)).double()
            self.x = x_next
        return log_ratio

    def _weigh(self, log_f: Tensor, log_ratio: Tensor) -> None:
        """Multiply the weights by F here (K,) over F at the start and the policy's ratio, the log of which is given."""
        increment = log_f.double() - self.log_f.double() - log_ratio
        self.log_w, self._log_path, self.log_f = self.log_w + increment, self._log_path + increment, log_f
        self.info.steps.append(self.n)
        self.info.increments.append(increment)

    def _resample(self) -> None:
        weights = self._weights()
        if weights is None or weights.collapsed or weights.ess_fraction >= self.config.kappa:
            self._note(weights, None)
            return
        exponent = weights.tempering_exponent(self.config.gamma)
        self._note(weights, exponent)
        self._pick(self._emphasised(weights.power(exponent), weights.log_mean), len(weights))

    def _emphasised(self, weights: LogWeights, log_z: float) -> LogWeights:
        """The weights times the bounded power of the paths' loss, log_z being the estimate here."""
        if not self.config.emphasis:
            return weights
        loss = (1.0 + (self._log_path - log_z).square()).clamp_max(LARGEST_LOSS)
        return LogWeights(weights.log_w + self.config.emphasis * loss.log())

    def _move(self) -> None:
        """MALA on F_n. Every particle draws its own steps over a wide range: adapted ones would depend on the others,
        and the estimate of Z were no longer unbiased."""
        if not self.config.moves:
            return
        n, space = self.n, self.policy.process.space

        def log_f_and_score(x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                log_f = self.log_twist(x, n)
                (score,) = torch.autograd.grad(log_f.sum(), x)
            return log_f.detach(), score

        state = ChainState(self.x, *log_f_and_score(self.x))
        scale = ProposalScale(torch.ones_like(self.x[0]), LARGEST_STEP)
        state, _, accepted = mala(
            log_f_and_score, space, state, scale, self.config.moves, self.generator, False, step_range=STEP_RANGE
        )
        self.x, self.log_f = state.x, state.log_r
        self.info.accepted.append(accepted)

    def _choose(self) -> None:
        """As many of the proposals as are to be left, by their whole weight."""
        weights = self._weights()
        if weights is None or weights.collapsed:  # what broke the pass comes first, for those who ask whether it did
            self._note(weights, None)
            whole = ~(self.log_w.isnan() | self.log_w.isposinf())
            self._take(whole.long().argsort(stable=True)[: self._kept])
            return
        self._note(weights, 1.0)
        self._pick(weights, self._kept)

    def _weights(self) -> LogWeights | None:
        """The weights now; None in a broken pass, of which whoever asked for it decides."""
        broken = bool((self.log_w.isnan() | self.log_w.isposinf()).any())
        return None if broken else LogWeights(self.log_w)

    def _note(self, weights: LogWeights | None, exponent: float | None) -> None:
        self.info.ess.append(math.nan if weights is None else weights.ess_fraction)
        self.info.exponents.append(exponent)

    def _pick(self, weights: LogWeights, n: int) -> None:
        """n of the particles by these weights; they keep what they weigh beyond them."""
        proposal = weights.normalised
        picked = systematic(self.generator, proposal, n)
        self._take(picked)
        self.log_w = self.log_w - (len(weights) * proposal[picked]).log()

    def _take(self, index: Tensor) -> None:
        self.x, self.log_w, self.log_f = self.x[index], self.log_w[index], self.log_f[index]
        self._log_path, self._ancestors = self._log_path[index], self._ancestors[index]
