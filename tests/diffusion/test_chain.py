"""Kinds of steps one after the other: one process and one policy whose weights are exact."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from molsampler.basis.space import Space
from molsampler.diffusion.chain import PolicyChain, ProcessChain
from molsampler.diffusion.kinds import apart, make_policy, make_process
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.torsions import TorsionConfig
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.smc.sampler import SMCConfig, SMCPass
from tests.stochastic import seeded
from tests.targets.analytic import TwoWells

SCHEDULE = ScheduleConfig(n_steps=4, torsions="first")
SPACE = Space.of(2, 3)


def process(space: Space = SPACE, schedule: ScheduleConfig = SCHEDULE) -> ProcessChain:
    return make_process(space, schedule)


def policy(space: Space = SPACE, schedule: ScheduleConfig = SCHEDULE) -> PolicyChain:
    """A small policy with weights in its last layers."""
    made = make_policy(process(space, schedule), PolicyConfig(16, 2), TorsionConfig(components=6, width=16), seeded(0))
    with torch.no_grad():
        made.policies[0].density.network.weights[-1].normal_(0.0, 0.2, generator=seeded(1))
        made.policies[1].network.mlp.last.weight.normal_(0.0, 0.05, generator=seeded(2))
    return made


def test_a_schedule_says_which_kinds_there_are():
    chain = process()
    assert isinstance(chain, ProcessChain) and chain.n_steps == 3 + 4
    assert [(link.own, link.start, link.end) for link in chain.links] == [(slice(2, 5), 0, 3), (slice(0, 2), 3, 7)]
    assert type(make_process(SPACE, ScheduleConfig(4))) is NoisingProcess
    assert type(make_process(Space.of(2), SCHEDULE)) is NoisingProcess  # no angles, no steps for them
    assert chain.chunk_ends(2) == (2, 3, 5) and chain.chunk_ends(4) == (3,)
    with pytest.raises(ValueError, match="every column"):
        ProcessChain(SPACE, [(chain.links[0].process, slice(2, 5))])


def test_a_path_noises_the_line_and_then_takes_the_angles_away():
    x = SPACE.sample_prior(5, seeded(3))
    path = process().sample_path(x, seeded(4))
    assert path.shape == (8, 5, 5) and torch.equal(path[-1], x)
    assert torch.equal(path[3:, :, 2:], x[:, 2:].expand(5, -1, -1))  # the angles stay while the line diffuses
    assert torch.equal(path[:4, :, :2], path[3, :, :2].expand(4, -1, -1))  # and the line waits at its prior
    assert [int((path[n, 0, 2:] != 0).sum()) for n in range(4)] == [0, 1, 2, 3]


@torch.no_grad()
def test_many_steps_in_one_call_are_the_steps_one_by_one():
    p = policy()
    states, log_ratio = rollout(p, 6, seeded(5))
    scored = score_states(p, states, torch.zeros(6))
    for n in range(7):
        assert torch.allclose(scored.log_p_f[n], p.log_prob(states[n + 1], states[n], n), atol=1e-5)
        assert torch.allclose(scored.log_p_b[n], p.process.log_prob(states[n], states[n + 1], n), atol=1e-5)
    assert torch.allclose(scored.log_weights(), -log_ratio, atol=1e-4)
    steps = torch.tensor([5, 0, 2])
    again = p.process.sample_step(states[steps + 1], steps, seeded(6))
    assert torch.equal(again[1], states[0]) and torch.equal(again[2], states[2])
    for n in (0, 2, 3, 5):
        one = p.process.log_reference(states[n], n)
        assert torch.allclose(p.process.log_reference(states[[n]], torch.tensor([n]))[0], one)
        line = -0.5 * states[n][:, :2].square().sum(-1) - math.log(2.0 * math.pi)
        assert torch.allclose(one, line - min(n, 3) * math.log(2.0 * math.pi), atol=1e-5)


@pytest.mark.parametrize("line", ["ou", "brownian"])
@pytest.mark.parametrize("kappa", [0.0, 1.1], ids=["importance sampling", "resampling at every end"])
def test_the_mean_weight_is_z(kappa, line):
    """Of a density on line and circle with known Z, by a policy that never saw it; 4.5 standard errors, 7e-6 by chance.
    Resampling uses a twist that is far from good."""
    target = TwoWells(0.6)
    p, z, k = policy(target.space, ScheduleConfig(n_steps=4, torsions="first", process=line)), [], 512
    twist = lambda x, n: p.process.log_reference(x, n) + x[:, 0].clamp(-2, 2)  # noqa: E731
    config = SMCConfig(chunk=2, kappa=kappa, gamma=0.3)
    generator = seeded(7)
    for _ in range(60):
        particles, _ = SMCPass(p, twist, target.log_prob, k, config, generator).run()
        z.append(math.exp(particles.weights.log_mean - 0.6))
    z = torch.tensor(z)
    error = float(z.std()) / math.sqrt(len(z))
    assert error < 0.1 and abs(float(z.mean()) - 1.0) < 4.5 * error


def test_losses_train_each_kind_on_its_own_steps():
    p = policy()
    data = SPACE.sample_prior(14, seeded(8))
    seen = []

    def mix(a, w):
        seen.append(a.shape)
        return a

    losses = p.fit_losses(data, data, mix, seeded(9))
    assert losses.shape == (7,) and seen == [(4, 3, 2)]  # that of the line's four steps, which share the states
    losses[:3].sum().backward(retain_graph=True)
    assert not any(bool(w.grad.any()) for w in p.policies[1].parameters() if w.grad is not None)
    losses[3:].sum().backward()
    assert any(bool(w.grad.any()) for w in p.policies[1].parameters())


@torch.no_grad()
def test_an_accelerated_view_shares_parameters_and_changes_nothing():
    p = policy()
    names = set(p.state_dict())
    calls = []

    def accelerate(network):
        def call(x, n):
            calls.append(network)
            return network(x, n)

        return call

    view = p.evaluated_by(accelerate)
    x = SPACE.sample_prior(4, seeded(10))
    x[:, 3:] = 0.0
    for n in (1, 4):
        y, log_p = view.sample_step(x, n, seeded(11))
        same, log_q = p.sample_step(x, n, seeded(11))
        assert torch.equal(y, same) and torch.equal(log_p, log_q)
        assert torch.equal(view.log_prob(y, x, n), p.log_prob(y, x, n))
    assert set(calls) == {p.policies[0].density, p.policies[1].network}
    assert set(p.state_dict()) == names == set(view.state_dict())
    for parameter, shared in zip(p.parameters(), view.parameters(), strict=True):
        assert parameter is shared
    copied = copy.deepcopy(p)
    copied.policies[1].network.mlp.last.weight.add_(1.0)
    assert not torch.equal(copied.sample_step(x, 4, seeded(12))[0], p.sample_step(x, 4, seeded(12))[0])


@torch.no_grad()
def test_the_line_sees_the_angles():
    """The network of the diffusing coordinates depends on the torsions that were drawn before."""
    p = policy()
    x = SPACE.sample_prior(4, seeded(13))
    turned = x.clone()
    turned[:, 2] += 1.0
    line = p.policies[1]
    assert isinstance(line, DiffusionPolicy)
    assert not torch.allclose(line(x, 1)[0], line(turned, 1)[0])
    y, _ = p.sample_step(x, 4, seeded(14))
    assert torch.equal(y[:, 2:], x[:, 2:]) and not torch.equal(y[:, :2], x[:, :2])


def test_apart_an_objective_trains_the_torsions_alone_and_sees_the_same_numbers():
    p = policy()
    view, diffusions = apart(p)
    assert diffusions == [p.policies[1]]
    states, _ = rollout(p, 5, seeded(12))
    log_r = torch.zeros(5)
    held, whole = (score_states(each, states, log_r) for each in (view, p))
    assert torch.equal(held.log_p_f, whole.log_p_f)
    held.log_weights().sum().backward()
    assert all(w.grad is not None and bool(w.grad.any()) for w in p.policies[0].density.network.weights)
    assert all(w.grad is None for w in p.policies[1].parameters())
    joint = make_policy(make_process(SPACE, ScheduleConfig(4)), PolicyConfig(16, 2), TorsionConfig(), seeded(0))
    assert apart(joint) == (joint, [])


def test_the_density_of_an_angle_sees_those_before_it_alone():
    """Changing later angles of the state that is conditioned on changes nothing, changing earlier ones does."""
    p, steps = policy().policies[0].double(), torch.arange(3)
    x = SPACE.sample_prior(4, seeded(13), dtype=torch.float64)
    path = process().sample_path(x, seeded(14))
    log_p = p.log_prob(path[1:4], path[:3], steps)
    later = path[:3].clone()
    for n in range(3):
        later[n, :, 2 + n :] = 0.3
    assert torch.equal(p.log_prob(path[1:4], later, steps), log_p)
    earlier = path[:3].clone()
    earlier[1:, :, 2] += 0.5
    changed = p.log_prob(path[1:4], earlier, steps) != log_p
    assert not bool(changed[0].any()) and bool(changed[1:].all())
