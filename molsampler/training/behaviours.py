"""Behaviours: where training states come from, and how they reach the replay buffer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from molsampler.diffusion.trajectories import rollout
from molsampler.smc.annealed import Prefill
from molsampler.smc.moves.mala import ChainState, MalaScale, mala
from molsampler.smc.sampler import SMCInfo, run_smc
from molsampler.targets.target import Target
from molsampler.training.buffer import ReplayBuffer
from molsampler.training.config import BehaviourConfig, TrainConfig
from molsampler.training.learner import Learner


class Surrogate:
    """The one bounded stand-in for exploding energies, used in TB and in the twist and nowhere else.

    Above `knee` it is log R itself; below it bends, monotone and smooth, towards knee - cap, which also stands for R
    = 0.
    """

    def __init__(self, knee: float, cap: float) -> None:
        self.knee, self.cap = knee, cap

    def __call__(self, log_r: Tensor) -> Tensor:
        """log R (B,), -inf allowed -> finite (B,)."""
        depth = (self.knee - log_r).clamp_min(0.0)
        return torch.where(log_r >= self.knee, log_r, self.knee - self.cap * torch.tanh(depth / self.cap))


class LocalMoves(Protocol):
    """What a target may offer besides MALA: dynamics of its own from states x (M, D), M evaluations a step."""

    def __call__(self, x: Tensor, n_steps: int, generator: torch.Generator) -> Tensor: ...


@dataclass
class SMCReport:
    """What the SMC runs since the last look did: resampling counts by step, last lambda, distinct ancestors, ESS."""

    resampled: dict[int, int] = field(default_factory=dict)
    exponents: list[float] = field(default_factory=list)
    ancestors: list[int] = field(default_factory=list)
    log_z: list[float] = field(default_factory=list)
    runs: int = 0
    collapsed: int = 0

    def add(self, info: SMCInfo, log_z: float) -> None:
        self.runs += 1
        for n in info.resampled_at:
            self.resampled[n] = self.resampled.get(n, 0) + 1
        self.exponents += [e for e in info.exponents if e is not None]
        self.ancestors.append(info.distinct_ancestors)
        self.log_z.append(log_z)


class Behaviours:
    """Draws training states for one target and learner, booking every evaluation by purpose."""

    def __init__(
        self, target: Target, learner: Learner, buffer: ReplayBuffer, config: TrainConfig, generator: torch.Generator
    ) -> None:
        self.target, self.learner, self.buffer = target, learner, buffer
        self.config: BehaviourConfig = config.behaviour
        self.explored = ReplayBuffer(
            self.config.explore_capacity, target.space.dim, self.config.explore_gamma, device=buffer.x.device
        )
        # the particles of the last SMC run, for replay = "none"
        self.fresh = ReplayBuffer(
            self.config.smc_particles, target.space.dim, self.config.gamma, refresh=1, device=buffer.x.device
        )
        self.smc_config = config.smc
        self.generator = generator
        self.scale: MalaScale | None = None
        self.report = SMCReport()

    def prefill(self, start: Prefill) -> None:
        """MALA chains from annealed states: each frame of K equally weighted chains is a batch with weight Z a
        state, each frame of the explorers one with their own weights."""
        equal = torch.full_like(start.state.log_r, start.log_z, dtype=torch.float64)
        self._chains(start.state, equal, self.buffer)
        self._chains(start.explorers, start.explorer_log_w, self.explored)

    def _chains(self, state: ChainState, log_w: Tensor, buffer: ReplayBuffer) -> None:
        self.scale = MalaScale(MalaScale.from_scores(state.score).scale, 0.8)
        with self.target.counter.purpose("prefill"):
            for _ in range(min(self.config.prefill_frames, max(buffer.capacity // len(state.x), 1))):
                state, self.scale, _ = mala(
                    self.target.log_prob_and_score,
                    self.target.space,
                    state,
                    self.scale,
                    self.config.prefill_steps,
                    self.generator,
                    step_range=self.config.moves_step_range,
                )
                buffer.add(state.x, state.log_r, state.score, log_w)

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """n states to train on, x (n, D), log R (n,) and score (n, D), in random order.

        A share comes from the explored states, whose weights are tempered further, so that rare basins are never
        forgotten.
        """
        rare = round(self.config.explore_share * n) if len(self.explored) else 0
        buffer = self.fresh if self.config.replay == "none" and len(self.fresh) else self.buffer
        batches = [buffer.draw(n - rare, self.generator)]
        if rare:
            batches.append(self.explored.draw(rare, self.generator))
        order = torch.randperm(n, generator=self.generator, device=batches[0].x.device)
        x, log_r, score = (
            torch.cat([getattr(batch, name) for batch in batches])[order] for name in ("x", "log_r", "score")
        )
        return x, log_r, score

    def on_policy(self, n: int, exploration: float = 0.0) -> tuple[Tensor, Tensor]:
        """n rollouts, states (N+1, n, D) and log R (n,); their terminal states enter the buffer with their weights."""
        with self.target.counter.purpose("rollout"):
            states, log_ratio = rollout(self.learner.policy, n, self.generator, exploration)
        with self.target.counter.purpose("rollout"):
            log_r, score = self.target.log_prob_and_score(states[-1])
        self.buffer.add(states[-1], log_r, score, log_r.double() - log_ratio.double())
        return states, log_r

    def replay(self, n: int) -> tuple[Tensor, Tensor]:
        """n states from the buffer, noised to trajectories (N+1, n, D), with their log R (n,)."""
        x, log_r, _ = self.draw(n)
        return self.learner.process.sample_path(x, self.generator), log_r

    def smc(self, twist_log_r) -> None:
        """One SMC run; its terminal states enter the buffer with their unnormalised weights."""
        scores: list[Tensor] = []

        def log_prob(x: Tensor) -> Tensor:
            log_r, score = self.target.log_prob_and_score(x)
            scores.append(score)
            return log_r

        with self.target.counter.purpose("smc"):
            particles, info = run_smc(
                self.learner.policy,
                lambda x, n: self.learner.log_twist(x, n, twist_log_r(x, n)),
                log_prob,
                self.config.smc_particles,
                self.smc_config,
                self.generator,
            )
        if bool((particles.log_w.isnan() | particles.log_w.isposinf()).any()) or particles.weights.collapsed:
            self.report.collapsed += 1  # a collapsed or broken set stays out of the buffer
            return
        self.report.add(info, particles.weights.log_mean)
        buffer = self.buffer
        if self.config.replay == "none":
            buffer = self.fresh
            buffer.clear()
        buffer.add(particles.x, particles.log_r, scores[-1], particles.log_w)

    @property
    def moves_spent(self) -> bool:
        """Whether local moves have used up the evaluations that the configuration grants them."""
        spent = self.target.counter.by_purpose
        dynamics = spent["md"] if self.config.moves == "md" else 0
        return spent["local_moves"] + dynamics >= self.config.moves_limit

    def local_moves(self) -> None:
        """MALA (or the target's own dynamics) from drawn states; descendants inherit their parents' weights."""
        parents = self.buffer.draw(self.config.moves_parents, self.generator, distinct=True)
        offered: LocalMoves | None = getattr(self.target, "local_moves", None)
        if self.config.moves == "md" and offered is not None:
            with self.target.counter.purpose("md"):
                x = offered(parents.x, self.config.moves_steps, self.generator)
            with self.target.counter.purpose("local_moves"):
                log_r, score = self.target.log_prob_and_score(x)
            left = ~torch.isfinite(log_r)  # off the support: the parent stays, as where a proposal is rejected
            x = torch.where(left[:, None], parents.x, x)
            log_r = torch.where(left, parents.log_r, log_r)
            score = torch.where(left[:, None], parents.score, score)
        else:
            state = ChainState(parents.x, parents.log_r, parents.score)
            scale = self.scale or MalaScale.from_scores(parents.score)
            with self.target.counter.purpose("local_moves"):
                state, self.scale, _ = mala(
                    self.target.log_prob_and_score,
                    self.target.space,
                    state,
                    scale,
                    self.config.moves_steps,
                    self.generator,
                    step_range=self.config.moves_step_range,
                )
            x, log_r, score = state.x, state.log_r, state.score
        self.buffer.add_descendants(parents, [(x, log_r, score)])
