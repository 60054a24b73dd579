"""The adaptive teacher: a second policy of the same kind, trained to go where the student's loss is large.

Kim et al. 2025, arXiv 2410.01432. It learns by trajectory balance as the student does, on the same trajectories, but
for a reward of its own, which the student's residuals make; what it draws is training material for the student and
enters the replay buffer with the weights of its own kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.log_weights import UnionLogWeights
from molsampler.basis.settings import change
from molsampler.diffusion.policy import Policy
from molsampler.diffusion.trajectories import Trajectories, score_states
from molsampler.training.config import TeacherConfig, TrainConfig
from molsampler.training.learner import Learner
from molsampler.training.objectives import trajectory_balance

_SEED = 1_000_003
"""Added to the seed, so that the teacher's first parameters are not the student's."""


def teacher_log_reward(residual: Tensor, log_r: Tensor, config: TeacherConfig) -> Tensor:
    """log (floor + (1 + emphasis [residual > 0]) residual^2) + power log R, (B,).

    residual : (B,) log w - log Z of the student, above zero where it comes too rarely; log_r : (B,) bounded log R
    """
    weight = torch.where(residual > 0.0, 1.0 + config.emphasis, 1.0)
    return (config.floor + weight * residual.square()).log() + config.power * log_r


class Teacher:
    """The second policy with its log Z, its optimiser and its averages; alike on every rank, as the student is.

    learner : holds them (its twist is idle); last_loss : of the last update, NaN before the first and where it was
        skipped
    """

    def __init__(self, config: TrainConfig, make_learner: Callable[[TrainConfig], Learner]) -> None:
        """config : with a rank's share of the sizes; make_learner : what makes a learner by a configuration"""
        self.config = config
        self.learner = make_learner(change(config, seed=config.seed + _SEED, twist={"width": 1, "depth": 1}))
        self.begun, self.last_loss = False, math.nan

    @property
    def policy(self) -> Policy:
        """The one that draws states for the student."""
        return self.learner.policy

    def draws(self, rollout: int) -> bool:
        """Whether the states of this batch of rollouts, counted from 0, are the teacher's: the last of every
        `every`."""
        every = self.config.teacher.every
        return rollout % every == every - 1

    def learn(self, trajectories: Trajectories, log_z: Tensor, share: float) -> None:
        """One update at this share of the peak learning rate (collective).

        trajectories : scored by the student, whoever drew them, with bounded log R; log_z : the student's, () or (B,)
        """
        residual = (trajectories.log_weights() - log_z).detach()
        reward = teacher_log_reward(residual, trajectories.log_r, self.config.teacher)
        own = score_states(self.learner.training_policy, trajectories.states, reward)
        if not self.begun:
            self._begin(own)
        optimiser = self.config.optimiser
        log_z = self.learner.log_z_of(own.states[-1])
        loss = trajectory_balance(own, log_z, optimiser.residual_limit).mean()
        made = self.learner.step_policy(loss, share * optimiser.rate, with_log_z=True)
        self.last_loss = float(ranks.mean(loss.detach())) if made else math.nan

    def _begin(self, trajectories: Trajectories) -> None:
        """log Z begins at the mean weight of the first batch, where that is a number."""
        log_w = trajectories.log_weights().detach()
        (broken,) = ranks.any_of(not bool(torch.isfinite(log_w).all()))
        if not broken:
            self.learner.set_log_z(UnionLogWeights(log_w).log_mean)
            self.begun = True

    def state_dict(self) -> dict:
        return {"learner": self.learner.state_dict(), "begun": self.begun, "last_loss": self.last_loss}

    def load_state_dict(self, state: dict) -> None:
        self.learner.load_state_dict(state["learner"])
        self.begun, self.last_loss = state["begun"], state["last_loss"]
