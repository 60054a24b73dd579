"""A planar robot arm that reaches one of four goals: thin curved modes with different weights."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from scipy.optimize import brentq
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.basis.space import LOG_2PI, wrap_angle
from molsampler.targets.proposal import StudentProposal, by_rejection
from molsampler.targets.synthetic_target import SyntheticTarget, nearest

LOG_Z, LOG_Z_ERROR = -10.6127, 0.0002
"""`PlanarArm().estimate_log_z(torch.Generator().manual_seed(1), 4_000_000)`"""
_DEGREES = 8  # of freedom, of the proposal: tails wider than the target's
_CAP = 4.0  # times the mean weight
_PILOT = 8192
_PILOT_ROUNDS = 6


class PlanarArm(SyntheticTarget):
    """Angles x (D,) of an arm with D links of length 1, each relative to the link before; it starts at the origin.

    log R(x) = log N(x; 0, diag(first_std^2, other_std^2, ...)) + max over goals of log N(end(x); goal, goal_std^2 I_2).
    Arenz, Zhong and Neumann, "Trust-region variational inference with Gaussian mixture models" (JMLR 21, 2020), and
    Choi et al., arXiv 2510.11711 (robot4): ten links, four goals at distance 7, spreads 1, 0.2 and 0.01; the authors'
    programs take the largest of the goals, not their sum. Goals are so far apart that the two agree to rounding
    wherever there is mass. Angles are on the line, so that turning the first joint by 2 pi is another state of lower
    weight.

    A mode is a goal, found by an arm that ends within five goal_std of it. Within a goal the arm can bend either way,
    and reach the goal opposite to its start from either side.
    """

    def __init__(
        self,
        joints: int = 10,
        goal_distance: float = 7.0,
        goal_std: float = 0.01,
        first_std: float = 1.0,
        other_std: float = 0.2,
    ) -> None:
        """log_z is set for the default only; `estimate_log_z` gives it for others."""
        if joints < 3 or not 0.0 < goal_distance < joints:
            raise InputError(
                f"an arm of {joints} links cannot bend towards a goal at distance {goal_distance}; take three links or "
                "more, and a distance below their number"
            )
        self.prior_std = torch.tensor([first_std] + [other_std] * (joints - 1), dtype=torch.float64)
        super().__init__("robot-arm-4", torch.zeros(joints), 2.0 * self.prior_std, limits=(-4.0, 4.0))
        self.goal_distance, self.goal_std = goal_distance, goal_std
        self.goal_angles = 0.5 * math.pi * torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64)
        self.goals = goal_distance * torch.stack([self.goal_angles.cos(), self.goal_angles.sin()], 1).round()
        self.mode_radius = 5.0 * goal_std
        if (joints, goal_distance, goal_std, first_std, other_std) == (10, 7.0, 0.01, 1.0, 0.2):
            self.log_z, self.log_z_error = LOG_Z, LOG_Z_ERROR

    def end_effector(self, x: Tensor) -> Tensor:
        """Where arms x (B, D) end, (B, 2)."""
        heading = x.cumsum(-1)
        return torch.stack([heading.cos().sum(-1), heading.sin().sum(-1)], -1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of x (B, D)."""
        std = self.prior_std.to(x)
        log_prior = -0.5 * (x / std).square().sum(-1) - std.log().sum() - 0.5 * self.space.dim * LOG_2PI
        distance = (self.end_effector(x)[:, None, :] - self.goals.to(x)).square().sum(-1)  # (B, goals)
        return log_prior - 0.5 * distance.amin(-1) / self.goal_std**2 - 2.0 * math.log(self.goal_std) - LOG_2PI

    @property
    def n_modes(self) -> int:
        return len(self.goals)

    def mode_of(self, x: Tensor) -> Tensor:
        """(B,) index of the goal that each arm x (B, D) reaches, -1 for none."""
        return nearest(self.end_effector(x), self.goals.to(x), self.mode_radius)

    @cached_property
    def elbow(self) -> Elbow:
        """The proposal that solves for the middle joint."""
        return Elbow(self, self.space.dim // 2)

    def estimate_log_z(self, generator: torch.Generator, n: int) -> tuple[float, float]:
        """log Z and its standard error from n weighted arms."""
        weights = LogWeights(
            torch.cat([self.elbow.weighted(generator, len(p))[1] for p in torch.arange(n).split(100_000)])
        )
        return weights.log_mean, weights.log_mean_stderr

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) float64 independent samples on the generator's device, by rejection from weighted arms.

        Weights have no proven bound, so those above the cap of four times their mean are accepted as if they were at
        it, which is all that is not exact: of a million default arms none was above, the heaviest at 0.71 of the cap.
        """
        return by_rejection(self.elbow.weighted, self.elbow.log_mean, _CAP, generator, n)


class Elbow:
    """Arms with importance weights, whose ends are drawn first, near a goal, and reached by solving for two joints.

    With every joint but the first and joint j given, the arm is two rigid pieces of lengths a and b about a hinge. The
    distance rho of its end from the origin gives the hinge's angle gamma by the law of cosines, two mirror images; its
    direction gives the first joint, up to a turn of 2 pi. The end has the Jacobian a b |sin gamma| in these two joints.

    A shape (all joints but the first) with gamma > 0 is drawn; the weight sums over its mirror image, the four goals
    and three turns of the first joint, and one of these 24 arms is picked by its share. So the weights see the shape
    only, and are close to even: a multivariate Student-t, fitted to pilot draws, has an ESS of 84 %. Left out are turns
    of the first joint beyond 3 pi and of joint j beyond pi: below e^-40 of the mass.
    """

    def __init__(self, arm: PlanarArm, joint: int) -> None:
        """joint : index of joint j, from 1 on"""
        self.arm, self.joint = arm, joint
        links, width = arm.space.dim, arm.space.dim - 2
        even_bend = brentq(  # of a polygon whose ends are as far apart as the goal
            lambda bend: math.sin(0.5 * links * bend) / math.sin(0.5 * bend) - arm.goal_distance,
            1e-6,
            2.0 * math.pi / links,
        )
        even = torch.full((width,), even_bend, dtype=torch.float64)
        spread = float(arm.prior_std[1]) * torch.eye(width, dtype=torch.float64)
        self.proposal = StudentProposal(even, spread, _DEGREES)
        generator = torch.Generator().manual_seed(0)  # the fit moves the ESS, never the measure
        for _ in range(_PILOT_ROUNDS):
            given = self.proposal.draw(generator, _PILOT)
            weights = LogWeights(self._close(given, generator)[3])
            self.proposal = self.proposal.fitted(given, weights)
        self.log_mean = weights.log_mean

    def weighted(self, generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
        """(n, D) float64 arms and their log-weights (n,) for R: the mean weight is an unbiased estimate of Z."""
        shape, first, log_first, log_w = self._close(self.proposal.draw(generator, n), generator)
        if not n:
            return torch.cat([first[:, :1], shape], 1), log_w
        picked = torch.multinomial(log_first.softmax(-1), 1, generator=generator)
        bend = torch.where(picked % 2 == 0, 1.0, -1.0).to(shape)
        return torch.cat([first.gather(1, picked), bend * shape], 1), log_w

    def _close(self, given: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw an end near the goal for each row of given joints (n, D - 2), and solve for the other two.

        Returns the shapes (n, D - 1) with gamma > 0; the first joints (n, 24) and their log prior densities, over
        goals, turns and the two mirror images, fastest last; and the log-weights (n,).
        """
        arm, before = self.arm, self.joint - 1
        noise = torch.randn(len(given), 2, generator=generator, dtype=torch.float64, device=given.device)
        along, across = arm.goal_distance + arm.goal_std * noise[:, 0], arm.goal_std * noise[:, 1]
        a, a_angle, heading = _rigid(given[:, :before])
        b, b_angle, _ = _rigid(given[:, before:])
        cosine = (along.square() + across.square() - a.square() - b.square()) / (2.0 * a * b)
        gamma = cosine.clamp(-1.0, 1.0).arccos()
        hinge = wrap_angle(gamma + a_angle - b_angle - heading)
        shape = torch.cat([given[:, :before], hinge[:, None], given[:, before:]], 1)
        # direction of the end of an arm whose first joint is at 0, for the shape and for its mirror image
        direction = a_angle + torch.atan2(b * gamma.sin(), a + b * gamma.cos())
        goals = arm.goal_angles.to(given)[:, None] + torch.atan2(across, along)[:, None, None]  # (n, goals, 1)
        first = wrap_angle(goals - torch.stack([direction, -direction], 1)[:, None, :])  # (n, goals, mirror)
        turns = 2.0 * math.pi * torch.tensor([-1.0, 0.0, 1.0]).to(given)[:, None]
        first = (first[:, :, None, :] + turns).flatten(1)
        std = arm.prior_std.to(given)
        log_first = -0.5 * (first / std[0]).square() - std[0].log() - 0.5 * LOG_2PI
        log_shape = -0.5 * (shape / std[1:]).square().sum(1) - std[1:].log().sum() - 0.5 * shape.shape[1] * LOG_2PI
        log_w = log_shape + log_first.logsumexp(1) - (a * b * gamma.sin()).log() - self.proposal.log_density(given)
        return shape, first, log_first, torch.where(cosine.abs() < 1.0, log_w, -torch.inf)


def _rigid(joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Length (n,), direction (n,) of the end and heading (n,) of the last link of arms whose first link lies along the
    axis and whose other joints are (n, m)."""
    heading = torch.cat([joints.new_zeros(len(joints), 1), joints], 1).cumsum(1)
    x, y = heading.cos().sum(1), heading.sin().sum(1)
    return torch.hypot(x, y), torch.atan2(y, x), heading[:, -1]
