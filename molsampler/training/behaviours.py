"""Behaviours: where training states come from, and how they reach the replay buffer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.log_weights import LogWeights
from molsampler.diffusion.policy import Policy
from molsampler.diffusion.trajectories import rollout
from molsampler.smc.annealed import Prefill
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.mala import mala
from molsampler.smc.sampler import LogTwist, SMCInfo, SMCPass
from molsampler.targets.target import Target
from molsampler.training import buffer as buffers
from molsampler.training.buffer import ReplayBuffer
from molsampler.training.config import TrainConfig
from molsampler.training.log_z import RunningLogZ

PREFILL_SCALE = 0.8  # of MALA's steps when the prefill begins, relative to the spread that the scores suggest


@dataclass
class SMCReport:
    """What the SMC passes since the last row of metrics.csv did: resampling counts by step, lambdas, distinct
    ancestors, estimates of log Z; passes that collapsed stay out of the buffer."""

    resampled: dict[int, int] = field(default_factory=dict)
    exponents: list[float] = field(default_factory=list)
    ancestors: list[int] = field(default_factory=list)
    log_z: list[float] = field(default_factory=list)
    passes: int = 0
    collapsed: int = 0

    @staticmethod
    def merged(reports: list[SMCReport]) -> SMCReport:
        """What several ranks' passes did."""
        whole = SMCReport()
        for report in reports:
            for n, times in report.resampled.items():
                whole.resampled[n] = whole.resampled.get(n, 0) + times
            whole.exponents += report.exponents
            whole.ancestors += report.ancestors
            whole.log_z += report.log_z
            whole.passes += report.passes
            whole.collapsed += report.collapsed
        return whole

    def add(self, info: SMCInfo, log_z: float) -> None:
        self.passes += 1
        for n in info.resampled_at:
            self.resampled[n] = self.resampled.get(n, 0) + 1
        self.exponents += [e for e in info.exponents if e is not None]
        self.ancestors.append(info.distinct_ancestors)
        self.log_z.append(log_z)


class Behaviours:
    """Draws training states for one target and policy, booking every evaluation by purpose.

    Of every batch a rank makes its own: rollouts, passes and chains are islands, whose particles stay with the rank in
    its shard of the buffer, with their unnormalised weights.

    config : at one rank's share of all sizes (`per_rank`)
    policy : the learning one; log_twist : log F_n of the learning twist
    buffer, explored : replayed states, and those of the annealing's explorers; fresh : the particles of the last SMC
        pass, for a configuration that keeps no buffer
    log_z_of : the learnt log Z(c) of states (S, D), for a target with conditions
    log_z : running estimate of log Z from rollouts and passes; none is made where there are conditions, each with its
        own
    """

    def __init__(
        self,
        target: Target,
        policy: Policy,
        log_twist: LogTwist,
        config: TrainConfig,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        log_z_of: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.target, self.policy, self.log_twist = target, policy, log_twist
        self.config, self.generator = config, generator
        dim, replay, explorers = target.space.dim, config.replay, config.explorers
        self.keeps = replay.draw != "none"
        priority = replay.draw if self.keeps else "importance"
        self.buffer = ReplayBuffer(replay.capacity, dim, replay.gamma, device=device, priority=priority, log_z=log_z_of)
        self.explored = ReplayBuffer(explorers.capacity, dim, explorers.gamma, device=device)
        # one condition a pass, but a pass on every rank
        self.fresh = ReplayBuffer(config.passes.particles, dim, replay.gamma, 1, device=device, log_z=log_z_of)
        self.log_z = RunningLogZ()
        self.report = SMCReport()
        self._scale: ProposalScale | None = None
        self._moves_evaluations = 0

    def prefill(self, start: Prefill) -> None:
        """MALA chains from annealed states: each frame of K chains is a batch with weight Z a state, or with their own
        weights, as is each frame of the explorers."""
        log_w = start.log_w
        if log_w is None:
            log_w = torch.full_like(start.state.log_r, start.log_z, dtype=torch.float64)
        self._scale = self._chains(start.state, log_w, self.buffer)
        self._chains(start.explorers, start.explorer_log_w, self.explored)

    def _chains(self, state: ChainState, log_w: Tensor, buffer: ReplayBuffer) -> ProposalScale:
        scale = ProposalScale(ProposalScale.from_scores(state.score).scale, PREFILL_SCALE)
        with self.target.counter.purpose("prefill"):
            for _ in range(min(self.config.prefill.frames, max(buffer.capacity // max(len(state.x), 1), 1))):
                state, scale = self._mala(state, scale, self.config.prefill.steps)
                buffer.add(state.x, state.log_r, state.score, log_w)
        return scale

    def _mala(self, state: ChainState, scale: ProposalScale, steps: int) -> tuple[ChainState, ProposalScale]:
        target, step_range = self.target, self.config.moves.step_range
        state, scale, _ = mala(
            target.log_prob_and_score, target.space, state, scale, steps, self.generator, step_range=step_range
        )
        return state, scale

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """n states to train on, x (n, D), log R (n,) and score (n, D), in random order (collective).

        A share comes from the explored states, whose weights are tempered further, so that rare basins are never
        forgotten.
        """
        explored, fresh = ranks.any_of(len(self.explored) > 0, len(self.fresh) > 0)
        rare = round(self.config.explorers.share * n) if explored else 0
        buffer = self.fresh if fresh and not self.keeps else self.buffer
        batches = [buffer.draw(n - rare, self.generator)]
        if rare:
            batches.append(self.explored.draw(rare, self.generator))
        order = torch.randperm(n, generator=self.generator, device=batches[0].x.device)
        x, log_r, score = (
            torch.cat([getattr(batch, name) for batch in batches])[order] for name in ("x", "log_r", "score")
        )
        if self.config.replay.symmetries:
            x, log_r, score = self.target.symmetrised(x, log_r, score, self.generator)
        return x, log_r, score

    def on_policy(self, n: int, exploration: float = 0.0, policy: Policy | None = None) -> tuple[Tensor, Tensor]:
        """n rollouts, states (N+1, n, D) and log R (n,); their terminal states enter the buffer with their weights
        (collective).

        policy : another than the learning one, such as the averaged one
        """
        with self.target.counter.purpose("rollout"):
            given = self.target.space.draw_conditions(n, self.config.batch.per_condition, self.generator)
            states, log_ratio = rollout(policy or self.policy, n, self.generator, exploration, given)
            log_r, score = self.target.log_prob_and_score(states[-1])
        log_w = log_r.double() - log_ratio.double()
        self.buffer.add(states[-1], log_r, score, log_w)
        if not self.target.space.conditional:
            self.log_z.add(None if _broken(log_w) else LogWeights(log_w))
        return states, log_r

    @property
    def replays(self) -> bool:
        """Whether there is anything to replay (collective)."""
        return self.keeps or ranks.any_of(len(self.fresh) > 0)[0]

    def replay(self, n: int) -> tuple[Tensor, Tensor]:
        """n states from the buffer, noised to trajectories (N+1, n, D), with their log R (n,) (collective)."""
        x, log_r, _ = self.draw(n)
        return self.policy.process.sample_path(x, self.generator), log_r

    def smc(self) -> None:
        """One SMC pass of every rank, an island, of one condition where there are some; its terminal states enter the
        buffer with their unnormalised weights, whose mean estimates Z on every island (collective)."""
        scores: list[Tensor] = []

        def log_prob(x: Tensor) -> Tensor:
            log_r, score = self.target.log_prob_and_score(x)
            scores.append(score)
            return log_r

        config = self.config
        size, space = config.passes.particles, self.target.space
        given = space.draw_conditions(size, size, self.generator)
        with self.target.counter.purpose("smc"):
            one = SMCPass(self.policy, self.log_twist, log_prob, size, config.smc, self.generator, given=given)
            particles, info = one.run()
        broken = _broken(particles.log_w)
        if not space.conditional:
            self.log_z.add(None if broken else particles.weights)  # a collapsed pass too: its estimate of Z is 0
        if broken or particles.weights.collapsed:
            self.report.collapsed += 1  # a collapsed or broken set stays out of the buffer
            return
        self.report.add(info, particles.weights.log_mean)
        if not self.keeps:
            self.fresh.clear()
        (self.buffer if self.keeps else self.fresh).add(particles.x, particles.log_r, scores[-1], particles.log_w)

    def moves_spent(self, progress: float = 1.0) -> bool:
        """Whether local moves have used up the evaluations that the configuration grants them by now (collective).

        progress : share of the run's updates that are done; the square root of it is the share of the evaluations, for
            states are scarcest at the beginning
        """
        return ranks.total(self._moves_evaluations) >= math.sqrt(progress) * self.config.moves.limit

    def local_moves(self) -> None:
        """MALA (or the target's own dynamics) from drawn states of each rank; descendants inherit their parents'
        weights (collective)."""
        before = self.target.counter.total
        parents = self.buffer.draw(self.config.moves.parents, self.generator, distinct=True)
        if not len(parents.x):
            return
        state = ChainState(parents.x, parents.log_r, parents.score)
        dynamics = getattr(self.target, "local_moves", None) if self.config.moves.kind == "md" else None
        if dynamics is not None:
            state = self._dynamics(dynamics, state)
        else:
            scale = self._scale or ProposalScale.from_scores(parents.score)
            with self.target.counter.purpose("local_moves"):
                state, self._scale = self._mala(state, scale, self.config.moves.steps)
        self.buffer.add_descendants(parents, [(state.x, state.log_r, state.score)])
        self._moves_evaluations += self.target.counter.total - before

    def _dynamics(self, dynamics: Callable[[Tensor, int, torch.Generator], Tensor], state: ChainState) -> ChainState:
        """The target's own dynamics; off the support the parent stays, as where a proposal is rejected."""
        with self.target.counter.purpose("md"):
            x = dynamics(state.x, self.config.moves.steps, self.generator)
        with self.target.counter.purpose("local_moves"):
            log_r, score = self.target.log_prob_and_score(x)
        left = ~torch.isfinite(log_r)
        return ChainState(
            torch.where(left[:, None], state.x, x),
            torch.where(left, state.log_r, log_r),
            torch.where(left[:, None], state.score, score),
        )

    def take_report(self) -> SMCReport:
        """What the passes since the last call did."""
        report, self.report = self.report, SMCReport()
        return report

    def state_dict(self) -> dict:
        """Tensors and plain Python, to go on from."""
        scale = self._scale
        return {
            "buffer": self.buffer.state_dict(),
            "explored": self.explored.state_dict(),
            "fresh": self.fresh.state_dict(),
            "log_z": self.log_z.state_dict(),
            "report": asdict(self.report),
            "scale": None if scale is None else {"scale": scale.scale, "step": scale.step},
            "moves_evaluations": self._moves_evaluations,
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave."""
        for name in ("buffer", "explored", "fresh", "log_z"):
            getattr(self, name).load_state_dict(state[name])
        report = {key: value.copy() if hasattr(value, "copy") else value for key, value in state["report"].items()}
        self.report = SMCReport(**report)
        scale = state["scale"]
        self._scale = None if scale is None else ProposalScale(scale["scale"].to(self.buffer.x.device), scale["step"])
        self._moves_evaluations = state["moves_evaluations"]


def dealt(states: list[dict], rank: int, size: int, config: TrainConfig) -> dict:
    """The state of rank `rank` of `size` of behaviours that were divided over ranks with these states.

    config : at the rank's share of all sizes
    """
    room = {
        "buffer": config.replay.capacity,
        "explored": config.explorers.capacity,
        "fresh": config.passes.particles,
    }
    reports = [SMCReport(**state["report"]) for state in states]
    return {
        **{name: buffers.dealt([state[name] for state in states], rank, size, room[name]) for name in room},
        "log_z": states[0]["log_z"],  # the same on all of them
        "report": asdict(SMCReport.merged(reports) if rank == 0 else SMCReport()),
        "scale": states[rank % len(states)]["scale"],
        "moves_evaluations": sum(state["moves_evaluations"] for state in states) if rank == 0 else 0,
    }


def _broken(log_w: Tensor) -> bool:
    return bool((log_w.isnan() | log_w.isposinf()).any())
