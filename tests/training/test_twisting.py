"""The twist's losses against closed forms: where they are stationary, what they train, and that they help SMC."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.settings import change
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.trajectories import Trajectories, score_states
from molsampler.training.objectives import contrastive_twist, optimal_twist, subtb_chunk
from tests.diffusion.exact import ExactReversal
from tests.stochastic import BOUND, assert_mean, seeded
from tests.targets.analytic import Gaussian
from tests.training.small import CONFIG, SHORT, make, train
from tests.training.test_objectives import LOG_Z, some_trajectories, with_flow

TARGET = Gaussian(torch.tensor([0.7, -1.2]).double(), torch.tensor([0.5, 1.6]).double(), 1, 1.3)
ENDS = (2, 4)
LOG_Z_TRUE = 1.3
M = 20_000


def blunt_policy() -> ExactReversal:
    """Of TARGET, with kernels 15 % too wide and means a little off, so that its weights scatter."""
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=6))
    with torch.no_grad():
        policy.log_var[:, :2] += 2.0 * math.log(1.15)
        policy.bias[:, :2] += 0.1
    return policy


@torch.no_grad()
def walked_and_noised() -> tuple[ExactReversal, Trajectories, Trajectories]:
    """Trajectories of the policy and of the target, with the true log F at the chunk ends."""
    policy = blunt_policy()
    start = policy.log_marginal
    found = []
    for states in (policy.walk(M, seeded(1)), policy.process.sample_path(TARGET.sample(seeded(2), M), seeded(3))):
        t = score_states(policy, states, TARGET.log_prob(states[-1]))
        t = replace(t, log_p_0=start(states[0], 0))
        found.append(with_flow(t, lambda x, n: 1.3 + policy.log_marginal(x, n), 2))
    return policy, *found


def residuals(t: Trajectories) -> Tensor:
    """v - log F (2, B) by a loop."""
    rows = [t.log_r + (t.log_p_b - t.log_p_f)[end:].sum(0) - log_f for end, log_f in zip(t.ends, t.log_f, strict=True)]
    return torch.stack(rows)


def test_optimal_twist_is_what_it_says():
    """Against a loop, the tangent beyond the limit included."""
    _, twist, t = some_trajectories()
    t = with_flow(t, lambda x, n: twist(x, n, LOG_Z.detach()), 2)
    r = residuals(t).detach()
    for forward in (True, False):
        for limit in (100.0, 0.5):
            expected = 0.0
            for value in (r if forward else -r).flatten().tolist():
                top = math.exp(min(value, limit)) * (1.0 + max(value - limit, 0.0))
                expected += (top - value - 1.0) / r.numel()
            assert optimal_twist(t, LOG_Z, forward, limit).item() == pytest.approx(expected, rel=1e-4)
    exact = t.with_flow(t.ends, t.log_f + r)
    assert optimal_twist(exact, LOG_Z, True).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("forward", [True, False], ids=["rollouts", "noised"])
def test_optimal_twist_is_stationary_at_the_marginal_of_r(forward):
    """Towards a constant and a slope at each chunk end, within 4.5 standard errors (7e-6 each by chance); where F is
    ten per cent too large it pulls back, and squares of the residual do not vanish at F (Jensen)."""
    policy, walked, noised = walked_and_noised()
    t = walked if forward else noised
    r = residuals(t)
    pull = 1.0 - r.exp() if forward else (-r).exp() - 1.0  # d loss / d log F of each residual
    for k, end in enumerate(ENDS):
        assert_mean(pull[k], 0.0)
        assert_mean(pull[k] * t.states[end, :, 0], 0.0)
    shift = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(optimal_twist(t.with_flow(ENDS, t.log_f + shift), LOG_Z, forward, 50.0), shift)
    torch.testing.assert_close(found[:, 0], pull.mean(1) / 2.0, rtol=1e-6, atol=1e-9)
    high = t.with_flow(ENDS, t.log_f + shift + 0.1)
    (back,) = torch.autograd.grad(optimal_twist(high, LOG_Z, forward, 50.0), shift)
    assert bool((back > 0.02).all())
    assert bool((r.mean(1).abs() > BOUND * r.std(1) / M**0.5).all())


def test_contrast_is_stationary_at_the_marginal_of_r_up_to_a_factor():
    """Towards slopes and squares, by the scatter of 20 batches; a wrong F feels a pull; a factor feels none."""
    _, walked, noised = walked_and_noised()

    def pull(k: int, bend: float) -> Tensor:
        """d loss / d (slope, square, constant) (3,) of batch k, with log F bent by `bend` x."""
        own = slice(k * M // 20, (k + 1) * M // 20)
        turn = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        bent = []
        for t in (noised, walked):
            part = Trajectories(*(x[:, own] for x in (t.states, t.log_p_f, t.log_p_b)), t.log_r[own], t.log_p_0[own])
            x = part.states[list(ENDS), :, 0]
            along = torch.stack([x, x.square(), torch.ones_like(x)], -1)
            bent.append(part.with_flow(ENDS, t.log_f[:, own] + bend * x + along @ turn))
        return torch.autograd.grad(contrastive_twist(*bent), turn)[0]

    right = torch.stack([pull(k, 0.0) for k in range(20)])
    # with 19 degrees of freedom 6 standard errors are as rare as 4.5 of a normal variable
    assert_mean(right[:, :2], 0.0, bound=6.5)
    assert float(right[:, 2].abs().max()) < 1e-12
    wrong = torch.stack([pull(k, 0.2) for k in range(20)])
    assert bool((wrong[:, 0] > 0.05).all())


@pytest.mark.parametrize("name", ["optimal", "contrastive"])
def test_a_loss_of_the_twist_trains_the_twist_alone(name):
    policy, twist, t = some_trajectories()
    t = with_flow(t, lambda x, n: twist(x, n, LOG_Z.detach()), 2)
    (contrastive_twist(t, t) if name == "contrastive" else optimal_twist(t, LOG_Z, True)).backward()
    assert LOG_Z.grad is None and all(p.grad is None for p in policy.parameters())
    assert float(twist.network.mlp.last.weight.grad.abs().sum()) > 0.0


def test_contrast_needs_the_twist():
    _, _, t = some_trajectories()
    with pytest.raises(ValueError, match="^the trajectories hold no log F"):
        contrastive_twist(t, t)


# in training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["subtb", "optimal", "contrastive"])
def test_every_loss_finds_the_marginal_of_r(name):
    """For Gaussian data log F is known: on states noised from it the scatter of what is left of log F falls to a third
    of what an untrained twist leaves, with each loss."""
    target = Gaussian(torch.tensor([0.6]), torch.tensor([0.5]), 1, LOG_Z_TRUE)
    config = change(
        CONFIG, twist_loss=name, warm_updates=100, updates=200, twist={"width": 32}, passes={"every": 0},
        moves={"every": 0}, optimiser={"twist_rate": 1e-2},
    )  # fmt: skip
    trainer = make(config, target)
    exact = ExactReversal(target, config.schedule)
    x = exact.process.sample_path(target.sample(seeded(4), 4000).double(), seeded(5))[2]

    def scatter() -> float:
        return float((trainer.twisting.log_twist(x.float(), 2) - exact.log_marginal(x, 2)).std())

    before = scatter()
    train(trainer)
    assert math.isfinite(trainer.last_twist_loss) and not trainer.learner.skipped
    assert before > 0.3 and scatter() < before / 3.0, (before, scatter())


def test_no_energy_is_spent_on_a_twist():
    """The contrast's own rollouts and replays ask for none."""
    counts = {}
    for name in ("subtb", "contrastive"):
        trainer = train(make(change(SHORT, twist_loss=name)))
        counts[name] = dict(trainer.target.counter.by_purpose)
    assert counts["subtb"] == counts["contrastive"]


def test_what_spoils_a_twists_loss_is_refused():
    for parts, words in (
        ({"teacher": {"every": 2}}, r"teacher.every = 2 or batch.exploration = 0 gives others"),
        ({"batch": {"exploration": 0.5}}, r"batch.exploration = 0.5 gives others"),
        ({"replay": {"draw": "rank"}}, r'replay.draw = "rank" does not give'),
    ):
        for name in ("optimal", "contrastive"):
            with pytest.raises(InputError, match=f'^twist_loss = "{name}" needs .*{words}'):
                change(CONFIG, twist_loss=name, **parts).check()
            change(CONFIG, twist_loss="subtb", **parts).check()
            change(CONFIG, twist_loss=name, objective="db", **parts).check()  # without effect there


def test_squares_and_regression_agree_on_small_residuals():
    """Near zero both directions are half the square that SubTB's tails take, here of one chunk to the end."""
    _, twist, t = some_trajectories()
    t = with_flow(t, lambda x, n: twist(x, n, LOG_Z.detach()), 3)
    r = residuals(t)
    near = t.with_flow(t.ends, t.log_f + r - 1e-2)
    for forward in (True, False):
        assert optimal_twist(near, LOG_Z, forward).item() == pytest.approx(0.5e-4, rel=0.02)
    assert subtb_chunk(near, LOG_Z).item() > 0.0
