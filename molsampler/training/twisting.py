"""How the twist learns beside the policy, and what it answers while it does.

SMC is exact for every twist; a good one tells early which particles will be worth something. The best is the marginal
of R under the noising process, F_n(x) = E[R p_B / p_F of the steps that are left | x_n = x]. There the losses of
`train.twist_loss` are at rest: regression on the optimal twist and contrast whatever the policy, SubTB where the policy
is right too, since the squares of its tails ask for the mean of a log.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.diffusion.trajectories import Trajectories, rollout, score_states
from molsampler.targets.target import Target
from molsampler.training.behaviours import Behaviours
from molsampler.training.config import TrainConfig
from molsampler.training.learner import Learner
from molsampler.training.objectives import contrastive_twist, optimal_twist, subtb_chunk


class TwistTraining:
    """The twist of a learner, with the energy that it may hold evaluated and booked.

    bounded : log R -> the finite surrogate; config : with a rank's share of the sizes
    """

    def __init__(
        self, learner: Learner, target: Target, bounded: Callable[[Tensor], Tensor], config: TrainConfig
    ) -> None:
        self.learner, self.target, self.bounded, self.config = learner, target, bounded, config

    def log_twist(self, x: Tensor, n: int) -> Tensor:
        """log F_n(x), (B,), of the learning twist at states x (B, D), with a graph where they have one
        and the twist holds no energy."""
        twist = self.learner.twist
        with twist.graph(x):
            return self.learner.log_twist(x, n, self._bounded_log_r(x) if twist.needs_energy else None)

    def with_flow(self, trajectories: Trajectories, ends: tuple[int, ...]) -> Trajectories:
        """The trajectories with the twist's log F at these chunk ends, in one call of its network."""
        if not ends:
            return trajectories
        at = torch.tensor(ends, device=trajectories.states.device)
        states = trajectories.states[at]
        log_r = None
        if self.learner.twist.needs_energy:
            log_r = self._bounded_log_r(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        return trajectories.with_flow(ends, self.learner.log_twist(states, at, log_r))

    def update(self, trajectories: Trajectories, forward: bool, behaviours: Behaviours, rate: float) -> float:
        """One update on trajectories that the policy has walked (`forward`) or that were noised from replayed states;
        the loss over all ranks (collective). A single chunk has no twist: nothing is changed."""
        ends = self.learner.process.chunk_ends(self.config.smc.chunk)
        held, log_z = self.with_flow(trajectories, ends), self.learner.log_z_of(trajectories.states[-1])
        if self.config.twist_loss == "contrastive" and ends:
            other = self.with_flow(self._noised(behaviours) if forward else self._walked(behaviours), ends)
            loss = contrastive_twist(*((other, held) if forward else (held, other)))
        elif self.config.twist_loss == "optimal" and ends:
            loss = optimal_twist(held, log_z, forward)
        else:
            loss = subtb_chunk(held, log_z)
        if ends:
            self.learner.step_twist(loss, rate)
        return float(ranks.mean(loss.detach()))

    @torch.no_grad()
    def _walked(self, behaviours: Behaviours) -> Trajectories:
        """Rollouts of the policy, of whose ends no energy is needed (it counts as zero)."""
        states, _ = rollout(self.learner.policy, self.config.batch.balance, behaviours.generator)
        return score_states(self.learner.policy, states, torch.zeros_like(states[-1, :, 0]))

    @torch.no_grad()
    def _noised(self, behaviours: Behaviours) -> Trajectories:
        """Replayed states, noised."""
        states, log_r = behaviours.replay(self.config.batch.balance)
        return score_states(self.learner.policy, states, log_r)

    def _bounded_log_r(self, x: Tensor) -> Tensor:
        with self.target.counter.purpose("smc"):
            return self.bounded(self.target.log_prob_and_score(x)[0])
