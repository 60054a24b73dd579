"""A condition, which no step moves: densities given it, networks that see it, weights whose mean is Z(c)."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.space import Circle, Condition, Line, Space
from molsampler.diffusion.conditions import ConditionalLogZ
from molsampler.diffusion.kinds import apart, make_policy, make_process
from molsampler.diffusion.learnt_noising import NoisingConfig
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import Constant, Policy, PolicyConfig
from molsampler.diffusion.torsions import TorsionConfig
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.diffusion.twist import Twist, TwistConfig
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.kernels import kernel_named
from molsampler.smc.sampler import SMCConfig, SMCPass
from molsampler.smc.trained import TrainedSampler
from molsampler.targets.conditional import LinearGaussian
from tests.stochastic import assert_mean, seeded

TARGET = LinearGaussian()
SPACE = TARGET.space
SCHEDULE = ScheduleConfig(6)


def policy(learnt: str = "nothing") -> Policy:
    """A small policy with weights in its last layer."""
    process = make_process(SPACE, SCHEDULE, NoisingConfig(learnt=learnt), seed=0)
    made = make_policy(process, PolicyConfig(16, 2), TorsionConfig(), seeded(0))
    with torch.no_grad():
        made.policies[0].network.mlp.last.weight.normal_(0.0, 0.05, generator=seeded(1))
    return made


def states(n: int) -> torch.Tensor:
    return SPACE.sample_prior(n, seeded(2))


def test_a_condition_is_drawn_from_those_to_train_on_and_counts_nothing():
    x = states(500)
    known = {tuple(row) for row in SPACE.parts[1].values.tolist()}
    assert all(tuple(row) in known for row in SPACE.condition_of(x).tolist())
    torch.testing.assert_close(SPACE.log_prior(x), SPACE.only(Line).log_prior(x[:, :4]))
    moved = SPACE.sample_normal(x, torch.full_like(x, -1.0) + 2.0 * SPACE.max_std.clamp_max(1.0).log(), seeded(3))
    assert torch.equal(moved[:, 4:], x[:, 4:]) and bool((moved[:, :4] != x[:, :4]).all())
    values = SPACE.parts[1].values
    seen = SPACE.only(Condition).features(values)
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=0.03, rtol=0.0)  # bent where they are far out
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(3), atol=0.05, rtol=0.0)
    rare = torch.zeros(2000, 1).index_fill(0, torch.tensor([7]), 1.0)  # a pixel that is on once: 45 spreads out
    assert 4.9 < float(Condition(1, rare).features(rare, 0).max()) <= 5.0
    constant = Condition(2, torch.tensor([[1.0, 3.0], [2.0, 3.0]]))
    assert bool(torch.isfinite(constant.features(torch.tensor([[5.0, 3.0]]), 0)).all())


def test_conditions_are_drawn_in_groups_and_told_apart():
    drawn = SPACE.draw_conditions(10, 4, seeded(4))
    groups = SPACE.by_condition(SPACE.with_condition(states(10), drawn))
    assert drawn.shape == (10, 3) and groups.bincount().tolist().count(4) == 2 and len(groups.unique()) == 3
    assert all(len(groups[k : k + 4].unique()) == 1 for k in (0, 4, 8))
    plain = Space.of(3)
    assert plain.draw_conditions(10, 4, seeded(4)) is None and plain.by_condition(torch.zeros(2, 3)) is None


def test_no_step_belongs_to_the_condition():
    process = make_process(SPACE, SCHEDULE)
    assert process.n_steps == SCHEDULE.n_steps and process.chunk_ends(2) == (2, 4)
    x = states(5)
    path = process.sample_path(x, seeded(5))
    assert bool((path[..., 4:] == x[:, 4:]).all()) and bool((path[0, :, :4] != x[:, :4]).all())
    alone = make_process(SPACE.only(Line), SCHEDULE)
    torch.testing.assert_close(process.log_prob(path[0], path[1], 0), alone.log_prob(path[0, :, :4], path[1, :, :4], 0))
    torch.testing.assert_close(process.log_reference(x, 3), alone.log_reference(x[:, :4], 3))


@pytest.mark.parametrize("learnt", ["nothing", "states", "steps"])
@torch.no_grad()
def test_rollouts_and_their_paths_agree_on_densities(learnt):
    p, given = policy(learnt), TARGET.held_out[:50]
    path, log_ratio = rollout(p, 50, seeded(6), given=given)
    assert bool((SPACE.condition_of(path) == given).all())
    torch.testing.assert_close(-score_states(p, path, torch.zeros(50)).log_weights(), log_ratio, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_networks_see_the_condition():
    x = states(8)
    other = SPACE.with_condition(x, TARGET.held_out[:8])
    path, there = (make_process(SPACE, SCHEDULE).sample_path(y, seeded(7)) for y in (x, other))
    assert torch.equal(path[..., :4], there[..., :4])
    p = policy()
    assert bool((p.log_prob(path[2], path[1], 1) != p.log_prob(there[2], there[1], 1)).all())
    log_z, twist = ConditionalLogZ(SPACE, TwistConfig(16, 2), seeded(8)), Twist(p.process, TwistConfig(), seeded(8))
    assert bool((log_z(x) == 0.0).all())
    for last in (log_z.mlp.last, twist.network.mlp.last):
        last.weight.normal_(0.0, 1.0, generator=seeded(9))
    assert bool((log_z(x) != log_z(other)).all()) and bool((twist(x, 1, 0.0) != twist(other, 1, 0.0)).all())
    moved = x.clone()
    moved[:, :4] += 1.0
    assert torch.equal(log_z(moved), log_z(x))


@torch.no_grad()
def test_mean_weights_are_z_of_each_condition_whatever_the_policy():
    """Three held-out conditions whose log Z differ by nats, 40,000 rollouts each, 4.5 standard errors."""
    p = policy()
    log_z = TARGET.held_out_log_z[:3]
    assert float(log_z.max() - log_z.min()) > 1.0
    for given, expected in zip(TARGET.held_out[:3], log_z, strict=True):
        path, log_ratio = rollout(p, 40_000, seeded(10), given=given.expand(40_000, -1))
        assert_mean((TARGET.log_prob(path[-1]) - log_ratio - expected).double().exp(), 1.0)


def test_passes_of_one_condition_estimate_its_z():
    """150 passes of 64 particles that resample at every chunk end, for each of two conditions, 4.5 standard errors."""
    p, config = policy(), SMCConfig(chunk=2, kappa=2.0, gamma=0.5)

    def log_twist(x: torch.Tensor, n: int) -> torch.Tensor:
        return p.process.log_reference(x, n)

    for given, expected in zip(TARGET.held_out[:2], TARGET.held_out_log_z[:2], strict=True):
        generator, found = seeded(13), []
        for _ in range(150):
            one = SMCPass(p, log_twist, TARGET.log_prob, 64, config, generator, given=given.expand(64, -1))
            particles, info = one.run()
            assert bool((SPACE.condition_of(particles.x) == given).all()) and info.resampled_at
            found.append(particles.weights.log_mean - float(expected))
        assert_mean(torch.tensor(found).double().exp(), 1.0)


ANGLES = Space((Line(2), Circle(2), Condition(1, torch.linspace(300.0, 600.0, 64)[:, None])))


def angles_first() -> Policy:
    """Angles by mixtures that see the condition, then a diffusion, all with weights in their last layers."""
    process = make_process(ANGLES, ScheduleConfig(4, torsions="first"))
    made = make_policy(process, PolicyConfig(16, 2), TorsionConfig(components=6, width=16), seeded(0))
    with torch.no_grad():
        made.policies[0].density.network.weights[-1].normal_(0.0, 0.3, generator=seeded(1))
        made.policies[1].network.mlp.last.weight.normal_(0.0, 0.05, generator=seeded(2))
    return made


@torch.no_grad()
def test_angles_drawn_first_depend_on_the_condition():
    """Every step of mixtures and diffusion does, densities of angles sum to one, and rollouts and their paths agree."""
    p = angles_first()
    assert p.process.n_steps == 2 + 4
    given = torch.linspace(310.0, 590.0, 50)[:, None]
    path, log_ratio = rollout(p, 50, seeded(6), given=given)
    assert bool((ANGLES.condition_of(path) == given).all())
    torch.testing.assert_close(-score_states(p, path, torch.zeros(50)).log_weights(), log_ratio, rtol=1e-4, atol=1e-4)
    other = torch.stack([ANGLES.with_condition(x, 900.0 - given) for x in path])
    for n in range(p.process.n_steps):
        assert bool((p.log_prob(path[n + 1], path[n], n) != p.log_prob(other[n + 1], other[n], n)).any()), n
    grid = torch.linspace(-math.pi, math.pi, 2001)[:-1]
    row = path[1][:1].expand(2000, -1).clone()
    row[:, 3] = grid
    density = p.log_prob(row, path[1][:1].expand(2000, -1), 1).exp()
    assert float(density.mean()) * 2.0 * math.pi == pytest.approx(1.0, abs=1e-4)


def test_balance_may_train_the_angles_alone():
    """What an objective trains then is the mixtures; of a policy without angles it is the whole policy."""
    balanced, denoised = apart(angles_first())
    assert len(denoised) == 1 and isinstance(balanced.views[1], Constant)
    whole = policy()
    assert apart(whole) == (whole, [])


@pytest.mark.parametrize("name", ["mala", "hmc", "random_walk"])
def test_local_moves_leave_the_condition_and_keep_its_posterior(name):
    """20 steps from exact samples of two posteriors: means and second moments, 4.5 standard errors."""
    rows = TARGET.held_out[:2].repeat_interleave(8000, 0)
    x = torch.cat([TARGET.sample_posterior(rows, seeded(11)).float(), rows], 1)
    state = ChainState(x, *TARGET.log_prob_and_score(x))
    moved, _, rate = kernel_named(name, leapfrog_steps=4)(
        TARGET.log_prob_and_score, SPACE, state, ProposalScale.from_scores(state.score), 20, seeded(12)
    )
    assert torch.equal(moved.x[:, 4:], rows) and 0.1 < rate < 0.99
    assert float((moved.x[:, :4] != x[:, :4]).any(1).double().mean()) > 0.9
    miss = moved.x[:, :4].double() - TARGET.posterior_mean(rows)
    for own in miss.split(8000):
        assert_mean(own, 0.0)
        assert_mean(own[:, :, None] * own[:, None, :], TARGET.covariance)


def test_what_has_no_meaning_is_refused():
    p = policy()
    twist = Twist(p.process, TwistConfig(16, 2), seeded(0))
    sampler = TrainedSampler(p, twist, torch.zeros(()), TARGET.log_prob, lambda x: x, SMCConfig(chunk=2))
    with pytest.raises(InputError, match="say for which"):
        sampler.draw(10, seeded(0))
    with pytest.raises(InputError, match="favour"):
        sampler.smc(1000, seeded(0))
    with pytest.raises(InputError, match="favour"):
        sampler.log_twist(states(2), 2)
    drawn = sampler.draw(10, seeded(0), given=TARGET.held_out[:10])
    assert torch.equal(SPACE.condition_of(drawn.x), TARGET.held_out[:10])
    angles = Space((Line(1), Circle(1), Condition(1, torch.zeros(1, 1))))
    assert make_process(angles, ScheduleConfig(4, torsions="joint")).n_steps == 4
    assert make_process(angles, ScheduleConfig(4, torsions="first")).n_steps == 5
    with pytest.raises(ValueError, match="expected"):
        Condition(2, torch.zeros(3, 1))
    assert math.isclose(Condition(1, torch.zeros(1, 1)).prior_norm, 0.0)
