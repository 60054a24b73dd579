"""The trainer: a denoising warm start, then trajectory balance (or another objective) on policy, replay and SMC, one
update at a time."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.diffusion.policy import Policy
from molsampler.diffusion.trajectories import Trajectories, differentiable_rollout, rollout, score_states
from molsampler.smc.annealed import Prefill
from molsampler.smc.moves.mala import MalaScale
from molsampler.smc.sampler import LogTwist
from molsampler.targets.target import Target
from molsampler.training.behaviours import Behaviours, SMCReport, Surrogate
from molsampler.training.buffer import ReplayBuffer
from molsampler.training.config import TrainConfig
from molsampler.training.learner import Learner
from molsampler.training.objectives import (
    ControlVariate,
    denoising,
    differentiable_log_prob,
    log_variance,
    reverse_kl,
    subtb_chunk,
    subtb_lambda,
    trajectory_balance,
)

PROBE_UPDATES = 12  # updates timed to turn minutes into numbers of updates
FIRST_ROLLOUTS = 4096  # of the untrained policy, where training begins from scratch


class Trainer:
    """Training of one target; `update()` is one step of it, `state_dict()` everything to go on from.

    warm_updates, updates : lengths of the two phases; 0 until `plan` has measured them
    done : updates made; seconds : training time so far
    """

    def __init__(self, target: Target, config: TrainConfig, generator: torch.Generator, device: str = "cpu") -> None:
        chunk, n_steps = config.smc.chunk, config.schedule.n_steps
        if chunk < 1 or n_steps % chunk:
            raise InputError(f"the SMC chunk of {chunk} steps does not divide the {n_steps} steps: change one of them")
        self.target, self.config, self.generator = target, config, generator
        self.learner = Learner(target.space, config, generator, device)
        behaviour = config.behaviour
        priority = "importance" if behaviour.replay == "none" else behaviour.replay
        self.buffer = ReplayBuffer(
            behaviour.capacity, target.space.dim, behaviour.gamma, device=device, priority=priority
        )
        self.behaviours = Behaviours(target, self.learner, self.buffer, config, generator)
        n = config.schedule.n_steps
        self.control_variate = ControlVariate(n, target.space.dim)
        self.control_variate.cross = self.control_variate.cross.to(device)
        self.control_variate.square = self.control_variate.square.to(device)
        self.surrogate = Surrogate(0.0, config.surrogate_cap)
        self.warm_updates, self.updates = config.warm_updates, config.updates
        self.done, self.seconds, self.last_loss, self.last_twist_loss = 0, 0.0, math.nan, math.nan
        self.learner.accelerate(config.precision, config.compile)
        if config.policy.langevin:
            self.learner.policy.score = self._score

    def _score(self, x: Tensor) -> Tensor:
        counter = self.target.counter
        with counter.purpose("analysis" if counter.current == "analysis" else "guidance"):
            return self.target.log_prob_and_score(x)[1]

    @property
    def total(self) -> int:
        return self.warm_updates + self.updates

    @property
    def phase(self) -> str:
        after = {"tb": "trajectory balance"}.get(self.config.objective, self.config.objective)
        return "denoising" if self.done < self.warm_updates else after

    def begin(self, start: Prefill | None = None) -> None:
        """Fill the buffers, from the prefill or by the untrained policy; set log Z and the surrogate's knee by that."""
        if start is None:
            self.behaviours.on_policy(FIRST_ROLLOUTS)
            if not len(self.buffer):
                raise InputError(
                    f"none of {FIRST_ROLLOUTS} rollouts of the untrained policy lies on the target's support: begin "
                    'with start = "annealed"'
                )
            kept = self.buffer.log_w[: len(self.buffer)]  # rollouts off the support count with weight zero
            log_z = LogWeights(kept).log_mean + math.log(len(kept) / min(FIRST_ROLLOUTS, self.buffer.capacity))
        else:
            self.behaviours.prefill(start)
            log_z = start.log_z
        with torch.no_grad():
            self.learner.log_z.fill_(log_z)
        log_r = self.buffer.log_r[: len(self.buffer)]
        self.surrogate.knee = float(torch.quantile(log_r[-16384:], 0.01)) - self.config.surrogate_margin

    # one update ------------------------------------------------------------------------------------------------------

    def update(self) -> float:
        """One update of whichever phase it is; returns its loss (NaN where it was skipped)."""
        start = time.perf_counter()
        if self.done < self.warm_updates:
            loss = self._denoise(self.learner.rate(self.done, self.warm_updates))
            behaviour = self.config.behaviour
            if behaviour.warm_rollouts and self.done % behaviour.warm_every == behaviour.warm_every - 1:
                # weighted rollouts correct what annealing got wrong, before trajectory balance takes over
                self.learner.with_averaged(lambda policy: self.behaviours.on_policy(behaviour.warm_rollouts))
        else:
            if self.done == self.warm_updates and self.done > 0:
                self.learner.start_phase()
            k = self.done - self.warm_updates
            loss = self._balance(k, self.learner.rate(k, self.updates))
        every = self.config.behaviour.moves_every
        if every and self.done % every == every - 1 and not self.behaviours.moves_spent:
            self.behaviours.local_moves()
        self.done += 1
        self.last_loss = loss
        self.seconds += time.perf_counter() - start
        return loss

    def _denoise(self, share: float) -> float:
        n = self.config.schedule.n_steps
        size = max(self.config.behaviour.warm_batch // n, 1)
        x, _, score = self.behaviours.draw(n * size)
        x, score = x.unflatten(0, (n, size)), score.unflatten(0, (n, size))
        losses = denoising(self.learner.policy, x, score, self.control_variate.mix, self.generator)
        loss = losses.mean()
        made = self.learner.step_policy(loss, share * self.config.optimiser.warm_rate, with_log_z=False)
        return float(loss.detach()) if made else math.nan

    def _balance(self, k: int, share: float) -> float:
        if self.config.objective == "reverse_kl":
            return self._reverse_kl(share)
        states, log_r = self._training_states(k)
        trajectories = score_states(self.learner.policy, states, self.surrogate(log_r))
        if self.config.objective in ("subtb", "db"):
            return self._subtrajectory_balance(trajectories, share)
        optimiser, log_z = self.config.optimiser, self.learner.log_z
        if self.config.objective == "tb":
            loss = trajectory_balance(trajectories, log_z, optimiser.residual_limit).mean()
        else:
            loss = log_variance(trajectories, optimiser.residual_limit).mean()
            # log Z follows without a say in the policy; twist and reports need it
            loss = loss + (log_z - trajectories.log_weights().detach()).square().mean()
        made = self.learner.step_policy(loss, share * optimiser.rate, with_log_z=True)
        twist_loss = subtb_chunk(trajectories, self._flow(states, self._chunk_ends()), log_z, self.config.smc.chunk)
        self.learner.step_twist(twist_loss, share * optimiser.twist_rate)
        self.last_twist_loss = float(twist_loss.detach())
        return float(loss.detach()) if made else math.nan

    def _training_states(self, k: int) -> tuple[Tensor, Tensor]:
        """States (N+1, B, D) and log R (B,) of update k: rollouts, or noised states of SMC and replay."""
        config, behaviours = self.config.behaviour, self.behaviours
        cycle = config.replay_updates + 1
        replay = k % cycle > 0
        if replay:
            replays = k - k // cycle
            if config.smc_every and replays % config.smc_every == 0:
                behaviours.smc(self.twist_log_r)
            replay = config.replay != "none" or len(behaviours.fresh) > 0
        if replay:
            return behaviours.replay(config.batch)
        left = max(1.0 - 2.0 * k / max(self.updates, 1), 0.0)
        return behaviours.on_policy(config.batch, config.exploration * left)

    def _subtrajectory_balance(self, trajectories: Trajectories, share: float) -> float:
        """SubTB(lambda) or detailed balance: policy, twist (as flow) and log Z by one loss."""
        single = self.config.objective == "db"
        chunk, lam = (1, 0.0) if single else (self.config.smc.chunk, self.config.subtb_lambda)
        flow = self._flow(trajectories.states, range(chunk, self.config.schedule.n_steps, chunk))
        loss = subtb_lambda(trajectories, flow, self.learner.log_z, chunk, lam)
        optimiser = self.config.optimiser
        made = self.learner.step_both(loss, share * optimiser.rate, share * optimiser.twist_rate)
        self.last_twist_loss = float(loss.detach())
        return float(loss.detach()) if made else math.nan

    def _reverse_kl(self, share: float) -> float:
        with self.target.counter.purpose("rollout"):
            states, log_ratio = differentiable_rollout(self.learner.policy, self.config.behaviour.batch, self.generator)
            log_r = differentiable_log_prob(self.target.log_prob_and_score, states[-1])
        bounded = self.surrogate(log_r)
        loss = reverse_kl(bounded, log_ratio)
        loss = loss + (self.learner.log_z - (bounded - log_ratio).detach()).square().mean()
        made = self.learner.step_policy(loss, share * self.config.optimiser.rate, with_log_z=True)
        return float(loss.detach()) if made else math.nan

    def _flow(self, states: Tensor, ends: range) -> LogTwist:
        """The twist at the states of a batch, with the energies that it holds evaluated beforehand."""
        with torch.no_grad():
            at_ends = {n: self.twist_log_r(states[n], n) for n in ends}
        return lambda x, n: self.learner.log_twist(x, n, at_ends[n])

    def _chunk_ends(self) -> range:
        return range(self.config.smc.chunk, self.config.schedule.n_steps, self.config.smc.chunk)

    def twist_log_r(self, x: Tensor, n: int) -> Tensor | None:
        """The bounded log R that the twist's partial energy needs at step n, or None where it holds no energy."""
        if self.learner.twist.beta(n) == 0.0:
            return None
        with self.target.counter.purpose("smc"):
            log_r = self.target.log_prob_and_score(x)[0]
        return self.surrogate(torch.where(torch.isfinite(log_r), log_r, -torch.inf))

    # the budget ------------------------------------------------------------------------------------------------------

    def plan(self) -> tuple[float, float]:
        """Turn the budget in minutes into numbers of updates, once; returns seconds an update of the two phases.

        Both kinds of update run a few times, on a state that is put back afterwards. Where the configuration gives
        numbers, they stand.
        """
        if self.config.warm_updates or self.config.updates:
            return math.nan, math.nan
        before = self.state_dict()
        cycle = 2 * (self.config.behaviour.replay_updates + 1)
        warm_share = 0.0 if self.config.start == "scratch" else self.config.warm_share
        seconds = []
        for phase, wanted in (
            (lambda k: self._denoise(1e-3), warm_share > 0.0),
            (lambda k: self._balance(k, 1e-3), True),
        ):
            if not wanted:
                seconds.append(math.inf)
                continue
            for k in range(3):
                phase(k + 1)
            repeats = PROBE_UPDATES // cycle * cycle or cycle
            start = time.perf_counter()
            for k in range(repeats):
                phase(k)
            seconds.append((time.perf_counter() - start) / repeats)
        self.load_state_dict(before)
        budget, every, moves = 60.0 * self.config.minutes, self.config.behaviour.moves_every, 0.0
        if every:
            start = time.perf_counter()
            self.behaviours.local_moves()
            moves = (time.perf_counter() - start) / every
            self.load_state_dict(before)
        self.warm_updates = round(budget * warm_share / (seconds[0] + moves))
        self.updates = max(1, round(budget * (1.0 - warm_share) / (seconds[1] + moves)))
        return seconds[0], seconds[1]

    # looking ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        """One row of metrics.csv: figures of the averaged policy on fresh samples, and what happened since the last
        row."""
        n = self.config.evaluation_samples
        states, log_ratio = self.learner.with_averaged(lambda policy: rollout(policy, n, self.generator))
        with self.target.counter.purpose("rollout"):
            log_r, score = self.target.log_prob_and_score(states[-1])
        log_w = log_r.double() - log_ratio.double()
        self.buffer.add(states[-1], log_r, score, log_w)
        log_w = torch.where(torch.isfinite(log_w), log_w, -torch.inf)
        weights = LogWeights(log_w)
        inside = log_w > -torch.inf
        smc, self.behaviours.report = self.behaviours.report, SMCReport()
        counter = self.target.counter
        row = {
            "update": self.done,
            "seconds": round(self.seconds, 2),
            "phase": self.phase,
            "denoising_loss": self.last_loss if self.done <= self.warm_updates else math.nan,
            "loss": self.last_loss if self.done > self.warm_updates else math.nan,
            "twist_loss": self.last_twist_loss,
            "elbo": float(log_w[inside].mean()) if bool(inside.any()) else math.nan,
            "elbo_median": float(log_w[inside].median()) if bool(inside.any()) else math.nan,
            "ess": weights.ess_fraction,
            "log_z": float(self.learner.log_z),
            "log_z_estimate": weights.log_mean,
            "outside_support": 1.0 - float(inside.double().mean()),
            "replay_lambda": self.buffer.exponent,
            "replay_size": len(self.buffer),
            "replay_rejected": self.buffer.rejected,
            "smc_runs": smc.runs,
            "smc_collapsed": smc.collapsed,
            "smc_resampled_at": " ".join(f"{k}:{v}" for k, v in sorted(smc.resampled.items())),
            "resampling_steps": sum(smc.resampled.values()) / smc.runs if smc.runs else math.nan,
            "smc_lambda": _mean(smc.exponents),
            "distinct_ancestors": _mean(smc.ancestors),
            "smc_log_z": _mean(smc.log_z),
            "skipped": sum(self.learner.skipped.values()),
            "energy_evaluations": counter.total,
            "evaluations_non_finite": counter.non_finite,
        }
        for word in ("md", "prefill", "rollout", "smc", "local_moves", "guidance", "analysis"):
            row[f"evaluations_{word}"] = counter.by_purpose.get(word, 0)
        return row

    # keeping ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Tensors and plain Python only, so that torch.load(weights_only=True) reads it."""
        scale = self.behaviours.scale
        return {
            "learner": _copy(self.learner.state_dict()),
            "buffer": self.buffer.state_dict(),
            "explored": self.behaviours.explored.state_dict(),
            "fresh": self.behaviours.fresh.state_dict(),
            "control_variate": _copy(self.control_variate.state_dict()),
            "counter": self.target.counter.state_dict(),
            "generator": self.generator.get_state(),
            "knee": self.surrogate.knee,
            "scale": None if scale is None else {"scale": scale.scale, "step": scale.step},
            "smc": asdict(self.behaviours.report),
            "done": self.done,
            "seconds": self.seconds,
            "last_loss": self.last_loss,
            "last_twist_loss": self.last_twist_loss,
            "warm_updates": self.warm_updates,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave; training then goes on as if it had never stopped."""
        self.learner.load_state_dict(_copy(state["learner"]))
        self.buffer.load_state_dict(state["buffer"])
        self.behaviours.explored.load_state_dict(state["explored"])
        self.behaviours.fresh.load_state_dict(state["fresh"])
        self.control_variate.load_state_dict(_copy(state["control_variate"]))
        self.target.counter.load_state_dict(state["counter"])
        self.generator.set_state(state["generator"])
        self.surrogate.knee = state["knee"]
        self.behaviours.scale = None if state["scale"] is None else MalaScale(**state["scale"])
        self.behaviours.report = SMCReport(**_copy(state["smc"]))
        self.done, self.seconds = state["done"], state["seconds"]
        self.last_loss, self.last_twist_loss = state["last_loss"], state["last_twist_loss"]
        self.warm_updates, self.updates = state["warm_updates"], state["updates"]


def averaged_policy(trainer: Trainer) -> Policy:
    """The policy that samples: the averaged parameters, for good."""
    trainer.learner.adopt_averaged()
    return trainer.learner.policy


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _copy(state: Any) -> Any:
    """A deep copy of nested containers of tensors, so that training on does not change what was saved."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copy(value) for value in state]
    return state
