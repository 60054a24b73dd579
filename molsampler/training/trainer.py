"""The trainer: a denoising warm start, then trajectory balance (or another objective) on policy, replay and SMC, one
update at a time.

Every rank has a trainer; they go through the same updates together, each on its share of every batch (`basis.ranks`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.counter import summed
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights, UnionLogWeights
from molsampler.diffusion.policy import Policy
from molsampler.diffusion.trajectories import Trajectories, differentiable_rollout, score_states
from molsampler.smc.annealed import Prefill
from molsampler.smc.trained import TrainedSampler
from molsampler.targets.target import Target
from molsampler.training import behaviours
from molsampler.training.behaviours import Behaviours
from molsampler.training.budget import plan
from molsampler.training.config import TrainConfig, per_rank
from molsampler.training.learner import Learner
from molsampler.training.objectives import (
    ControlVariate,
    differentiable_log_prob,
    log_variance,
    reverse_kl,
    subtb_lambda,
    trajectory_balance,
)
from molsampler.training.rows import training_row
from molsampler.training.surrogate import FITTED_ON, Surrogate
from molsampler.training.teacher import Teacher
from molsampler.training.twisting import TwistTraining

FIRST_ROLLOUTS = 4096  # of the untrained policy, where training begins from scratch
OWN = ("behaviours", "counter", "generator")
"""What of a trainer's state differs from rank to rank; all else is the same on all of them."""


class Trainer:
    """Training of one target; `update()` is one step of it, `state_dict()` everything to go on from.

    config : with numbers of updates once `plan` has turned the budget into them; its sizes are of all ranks together
    sizes : the configuration with a rank's share of them
    teacher : a second policy, where the configuration has one; twisting : the training of the twist
    generator : of this rank (`ranks.generator`)
    done : updates made; seconds : training time so far
    """

    def __init__(
        self,
        target: Target,
        config: TrainConfig,
        generator: torch.Generator,
        device: str = "cpu",
        say: Callable[[str], None] = print,
    ) -> None:
        config.check(target.space)
        self.target, self.config, self.generator = target, config, generator
        self.sizes = per_rank(config)
        score = self._score if config.policy.langevin else None
        guide = target.guide() if config.policy.guide else None
        if guide is None and config.policy.guide:
            say("the policy goes without a guide: the target has no stand-in")

        def make_learner(config: TrainConfig) -> Learner:
            return Learner(target.space, config, device, score, say, guide=guide)

        self.learner = make_learner(self.sizes)
        self.teacher = Teacher(self.sizes, make_learner) if config.teacher.every else None
        self.surrogate = Surrogate(config.surrogate_margin, config.surrogate_cap)
        self.twisting = TwistTraining(self.learner, target, self.surrogate.always_finite, self.sizes)
        parts = target, self.learner.policy, self.twisting.log_twist, self.sizes, generator, device
        self.behaviours = Behaviours(*parts, log_z_of=self.learner.log_z_of if target.space.conditional else None)
        self.control_variate = ControlVariate()
        self.done, self.last_loss, self.last_twist_loss = 0, math.nan, math.nan
        self.phase_seconds = {"denoising": 0.0, "balance": 0.0}

    def _score(self, x: Tensor) -> Tensor:
        counter = self.target.counter
        with counter.purpose("guidance" if counter.training else counter.current):  # in a rollout's stead, say
            return self.target.log_prob_and_score(x)[1]

    @property
    def seconds(self) -> float:
        return sum(self.phase_seconds.values())

    @property
    def warm_updates(self) -> int:
        return self.config.warm_updates or 0

    @property
    def updates(self) -> int:
        return self.config.updates or 0

    @property
    def total(self) -> int:
        return self.warm_updates + self.updates

    @property
    def _progress(self) -> float:
        """Share of the updates that are done with the one that is being made; 1 where their number is not known yet."""
        return (self.done + 1) / self.total if self.total > self.done else 1.0

    @property
    def denoises(self) -> bool:
        """Whether the next update is one of denoising."""
        return self.done < self.warm_updates

    @property
    def phase(self) -> str:
        after = {"tb": "trajectory balance"}.get(self.config.objective, self.config.objective)
        return "denoising" if self.denoises else after

    def begin(self, start: Prefill | None = None) -> None:
        """Fill the buffers, from the prefill or by the untrained policy; set log Z and the surrogate's knee by that.

        start : this rank's; the estimates of log Z of all ranks, of equally many particles, are one by their mean Z
        """
        buffer = self.behaviours.buffer
        if start is None:
            self.behaviours.on_policy(ranks.share(FIRST_ROLLOUTS))
            if not ranks.total(len(buffer)):
                raise InputError(
                    f"none of {FIRST_ROLLOUTS} rollouts of the untrained policy lies on the target's support: begin "
                    'with start = "annealed"'
                )
            log_z = self.behaviours.log_z.value
            if math.isnan(log_z):  # no estimate where a rollout broke, or for many conditions: a place to begin
                log_z = UnionLogWeights(buffer.log_w[: len(buffer)]).log_mean
        else:
            self.behaviours.prefill(start)
            log_z = UnionLogWeights(torch.tensor([start.log_z])).log_mean
        self.learner.set_log_z(log_z)
        self.surrogate.fit(ranks.gathered(buffer.log_r[: len(buffer)][-ranks.share(FITTED_ON) :]))

    # one update ------------------------------------------------------------------------------------------------------

    def update(self) -> float:
        """One update of whichever phase it is; returns its loss (NaN where it was skipped)."""
        start = time.perf_counter()
        phase = "denoising" if self.denoises else "balance"
        with self.target.counter.purpose("guidance"):  # of what says no purpose: scores that a policy asks for
            loss = self._denoising_update() if self.denoises else self._balance_update()
            every = self.config.moves.every
            if every and self.done % every == every - 1 and not self.behaviours.moves_spent(self._progress):
                self.behaviours.local_moves()
        self.done += 1
        self.last_loss = loss
        self.phase_seconds[phase] += time.perf_counter() - start
        return loss

    def _denoising_update(self) -> float:
        loss = self.denoise(self._share())
        if self.config.rollouts.number and self.done % self.config.rollouts.every == self.config.rollouts.every - 1:
            self.rollouts()
        return loss

    def _balance_update(self) -> float:
        if self.done == self.warm_updates and self.done > 0 and not self.learner.denoised:
            self.learner.start_phase()
        return self.balance(self.done - self.warm_updates, self._share())

    def _share(self) -> float:
        """Share of the peak rates in the next update: a ramp and a cosine for each phase; where the diffusion goes on
        with denoising, one ramp from the start and the cosine for the second, whose optimisers are not new."""
        learner, k = self.learner, self.done - self.warm_updates
        if not learner.denoised:
            return learner.rate(self.done, self.warm_updates) if self.denoises else learner.rate(k, self.updates)
        ramp, risen = learner.config.ramp, learner.ramp(self.done)
        return risen if self.denoises else risen * learner.rate(k + ramp, self.updates + ramp)

    def denoise(self, share: float) -> float:
        """One update of denoising at this share of the peak learning rate; its loss, NaN where it was skipped."""
        (loss,) = self._denoising_losses([self.learner.training_policy])
        made = self.learner.step_policy(loss, share * self.config.optimiser.warm_rate, with_log_z=False)
        return _told(loss, made)

    def _denoising_losses(self, policies: list[Policy]) -> list[Tensor]:
        """The loss () of each policy, on the same states from the buffer."""
        x, _, score = self.behaviours.draw(max(self.sizes.batch.denoising, self.learner.process.n_steps))
        return [policy.fit_losses(x, score, self.control_variate.mix, self.generator).mean() for policy in policies]

    def rollouts(self) -> None:
        """Weighted rollouts of the averaged policy for the buffer."""
        self.behaviours.on_policy(self.sizes.rollouts.number, policy=self.learner.averaged)

    def balance(self, k: int, share: float) -> float:
        """Update k of the objective at this share of the peak learning rate; its loss, NaN where it was skipped."""
        if self.config.objective == "reverse_kl":
            return self._reverse_kl(share)
        states, log_r, forward = self._training_states(k)
        trajectories = score_states(self.learner.balanced_policy, states, self.surrogate(log_r))
        log_z = self.learner.log_z_of(states[-1])
        if self.teacher is not None:
            self.teacher.learn(trajectories, log_z, share)
        if self.config.objective in ("subtb", "db"):
            return self._subtrajectory_balance(trajectories, share)
        optimiser = self.config.optimiser
        if self.config.objective == "tb":
            loss = trajectory_balance(trajectories, log_z, optimiser.residual_limit).mean()
        else:
            groups = self.target.space.by_condition(states[-1])
            loss = log_variance(trajectories, optimiser.residual_limit, groups).mean()
            # log Z follows without a say in the policy; twist and reports need it
            loss = loss + (log_z - trajectories.log_weights().detach()).square().mean()
        if self.learner.denoised:
            fits = self._denoising_losses(self.learner.denoised)
            rates = {"rate": share * optimiser.warm_rate, "mixtures": share * optimiser.rate}
            made = self.learner.step_policy(torch.stack([loss, *fits]).sum(), with_log_z=True, **rates)
        else:
            made = self.learner.step_policy(loss, share * optimiser.rate, with_log_z=True)
        self.last_twist_loss = self.twisting.update(
            trajectories, forward, self.behaviours, share * optimiser.twist_rate
        )
        return _told(loss, made)

    def _training_states(self, k: int) -> tuple[Tensor, Tensor, bool]:
        """States (N+1, B, D) and log R (B,) of update k: rollouts, or noised states of SMC and replay; and whether they
        are rollouts."""
        batch, behaviours = self.sizes.batch, self.behaviours
        cycle = batch.replay_updates + 1
        replay = k % cycle > 0
        if replay:
            replays = k - k // cycle
            if self.config.passes.every and replays % self.config.passes.every == 0:
                behaviours.smc()
            replay = behaviours.replays
        if replay:
            return *behaviours.replay(batch.balance), False
        teacher = self.teacher
        if teacher is not None and teacher.draws(k // cycle):
            return *behaviours.on_policy(batch.balance, policy=teacher.policy), True
        left = max(1.0 - 2.0 * k / max(self.updates, 1), 0.0)
        return *behaviours.on_policy(batch.balance, batch.exploration * left), True

    def _subtrajectory_balance(self, trajectories: Trajectories, share: float) -> float:
        """SubTB(lambda) or detailed balance: policy, twist (as flow) and log Z by one loss."""
        single = self.config.objective == "db"
        chunk, lam = (1, 0.0) if single else (self.config.smc.chunk, self.config.subtb_lambda)
        trajectories = self.twisting.with_flow(trajectories, self.learner.process.chunk_ends(chunk))
        loss = subtb_lambda(trajectories, self.learner.log_z_of(trajectories.states[-1]), lam)
        optimiser = self.config.optimiser
        made = self.learner.step_both(loss, share * optimiser.rate, share * optimiser.twist_rate)
        self.last_twist_loss = _told(loss)
        return _told(loss, made)

    def _reverse_kl(self, share: float) -> float:
        with self.target.counter.purpose("rollout"):
            policy = self.learner.policy
            states, log_ratio = differentiable_rollout(policy, self.sizes.batch.balance, self.generator)
            log_r = differentiable_log_prob(self.target.log_prob_and_score, states[-1])
        bounded = self.surrogate(log_r)
        loss = reverse_kl(bounded, log_ratio)
        loss = loss + (self.learner.log_z_of(states[-1].detach()) - (bounded - log_ratio).detach()).square().mean()
        made = self.learner.step_policy(loss, share * self.config.optimiser.rate, with_log_z=True)
        return _told(loss, made)

    # the budget ------------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Turn the budget in minutes into numbers of updates, once; numbers that are given stand (collective)."""
        self.config = plan(self)

    def extend(self, minutes: float) -> None:
        """Train for `minutes` in all; what is added goes to the objective, or to denoising where that is all there is,
        at the pace that it had so far (collective, by the first rank's clock).

        Raises InputError where the run trains for as long already.
        """
        made = self.done - self.warm_updates
        pace = self.phase_seconds["balance"] / made if made > 0 else self.seconds / max(self.done, 1)
        planned = self.seconds + (self.total - self.done) * pace
        extra = ranks.from_first(round((60.0 * minutes - planned) / pace) if pace > 0.0 else 0)
        if extra < 1:
            raise InputError(
                f"minutes = {minutes:g} adds nothing: this run trains for {planned / 60.0:.3g} minutes already; give "
                "more to train on, or leave it out"
            )
        phase = {"updates": self.updates + extra} if self.updates else {"warm_updates": self.warm_updates + extra}
        self.config = dataclasses.replace(self.config, minutes=minutes, **phase)

    # looking ---------------------------------------------------------------------------------------------------------

    def sampler(self) -> TrainedSampler:
        """What has been learnt so far, with the averaged parameters: to draw from and to weigh with.

        It sees later updates; whatever is done with it changes none.
        """
        return TrainedSampler(
            self.learner.averaged,
            self.learner.twist,
            self.learner.log_z.detach(),
            lambda x: self.target.log_prob_and_score(x)[0],
            self.surrogate.always_finite,
            self.config.smc,
            twist_trained=self.config.objective != "reverse_kl",
        )

    def evaluation_generator(self) -> torch.Generator:
        """Of the row that is due now, and of nothing else."""
        return ranks.generator(1_000_003 * (self.config.seed + 1) + self.done, self.generator.device)

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        """One row of metrics.csv: figures of the averaged policy on samples of its own, and what happened since the
        last row, on all ranks together (collective). It draws from a generator of its own and keeps nothing, so that
        looking more often changes no number."""
        with self.target.counter.purpose("analysis"):
            drawn = self.sampler().draw(self.config.evaluation_samples, self.evaluation_generator())
        log_w = ranks.gathered(torch.where(torch.isfinite(drawn.log_w), drawn.log_w, -torch.inf))
        return training_row(self, LogWeights(log_w))

    # keeping ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """This rank's: tensors and plain Python only, so that torch.load(weights_only=True) reads it."""
        state = {
            "learner": self.learner.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "behaviours": self.behaviours.state_dict(),
            "control_variate": self.control_variate.state_dict(),
            "surrogate": self.surrogate.state_dict(),
            "counter": self.target.counter.state_dict(),
            "generator": self.generator.get_state(),
            "done": self.done,
            "phase_seconds": self.phase_seconds,
            "last_loss": self.last_loss,
            "last_twist_loss": self.last_twist_loss,
        }
        return _copy(state)

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave on this rank; training then goes on as if it had never stopped."""
        state = _copy(state)
        for name in ("learner", "behaviours", "control_variate", "surrogate"):
            getattr(self, name).load_state_dict(state[name])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.target.counter.load_state_dict(state["counter"])
        ranks.restore(self.generator, state["generator"], self.config.seed, after=state["done"] + 1)
        self.done, self.phase_seconds = state["done"], state["phase_seconds"]
        self.last_loss, self.last_twist_loss = state["last_loss"], state["last_twist_loss"]

    def gathered_state(self) -> dict:
        """The state of all ranks, on the first one: its own, and under "others" what the others hold otherwise
        (collective)."""
        state = self.state_dict()
        others = ranks.collected({name: state[name] for name in OWN})[1:]
        return state | {"others": others} if others else state

    def load_gathered_state(self, state: dict) -> None:
        """Takes over this rank's part of what `gathered_state` gave. Where there were fewer ranks or more, what they
        held is dealt out anew."""
        held = [{name: state[name] for name in OWN}, *state.get("others", [])]
        self.load_state_dict(
            state | (held[ranks.rank()] if len(held) == ranks.size() else self._dealt(held, state["done"]))
        )

    def agree(self) -> None:
        """Where rounding has told what the ranks learn apart, it becomes the first one's again (collective)."""
        self.learner.agree()
        if self.teacher is not None:
            self.teacher.learner.agree()

    def _dealt(self, held: list[dict], done: int) -> dict:
        """This rank's part of what another number of ranks held."""
        rank, size = ranks.rank(), ranks.size()
        generator = ranks.generator(self.config.seed, self.generator.device, after=done + 1)
        return {
            "behaviours": behaviours.dealt([part["behaviours"] for part in held], rank, size, self.sizes),
            "counter": summed([part["counter"] for part in held] if rank == 0 else []).state_dict(),
            "generator": held[rank]["generator"] if rank < len(held) else generator.get_state(),
        }


def _told(loss: Tensor, made: bool = True) -> float:
    """The loss over all ranks; NaN where its update was skipped."""
    return float(ranks.mean(loss.detach())) if made else math.nan


def _copy(state: Any) -> Any:
    """A deep copy of nested containers of tensors, so that training on does not change what was saved."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copy(value) for value in state]
    return state
