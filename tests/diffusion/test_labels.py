"""A label, drawn before all else: densities that sum to one, an exact p_B, networks that see which piece it is."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import Label, Space
from molsampler.diffusion.chain import PolicyChain
from molsampler.diffusion.kinds import make_policy, make_process
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import PolicyConfig
from molsampler.diffusion.torsions import LabelPolicy, Reveal, TorsionConfig
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.kernels import kernel_named
from molsampler.smc.sampler import SMCConfig, SMCPass
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Labelled

SPACE = Space.of(2, 2, choices=3)
KINDS = ("joint", "first")


def policy(torsions: str, space: Space = SPACE) -> PolicyChain:
    """A small policy with weights in its last layers, and labels of unequal probabilities."""
    process = make_process(space, ScheduleConfig(4, torsions=torsions))
    made = make_policy(process, PolicyConfig(16, 2), TorsionConfig(components=6, width=16), seeded(0))
    with torch.no_grad():
        made.policies[0].logits.copy_(torch.tensor([0.05, -0.04, 0.02]))
        made.policies[-1].network.mlp.last.weight.normal_(0.0, 0.05, generator=seeded(2))
        if torsions == "first":
            made.policies[1].density.network.weights[-1].normal_(0.0, 0.3, generator=seeded(1))
    return made


def test_a_label_is_uniform_a_priori_and_no_kernel_moves_it():
    x = SPACE.sample_prior(30_000, seeded(3))
    features = SPACE.only(Label).features(x[:, 4:])
    assert_mean(features, torch.full((3,), 1.0 / 3.0))
    assert torch.equal(features.sum(1), torch.ones(len(x)))
    rest = SPACE.only(*[type(part) for part in SPACE.parts[:2]])
    expected = rest.log_prior(x[:, :4]) - math.log(3.0)
    torch.testing.assert_close(SPACE.log_prior(x), expected)
    std = ProposalScale(torch.ones(5), 2.0).std(SPACE)
    y = SPACE.sample_normal(x, 2.0 * std.log().expand_as(x), seeded(4))
    assert torch.equal(y[:, 4], x[:, 4]) and bool((y[:, :4] != x[:, :4]).any(1).all())
    torch.testing.assert_close(
        SPACE.log_normal(y, x, 2.0 * std.log()), rest.log_normal(y[:, :4], x[:, :4], 2.0 * std[:4].log())
    )
    other = torch.cat([y[:, :4], (y[:, 4:] + 1.0) % 3.0], 1)
    assert bool((SPACE.log_normal(other, x, 2.0 * std.log()) == -torch.inf).all())


@pytest.mark.parametrize(("torsions", "steps"), [("joint", 1 + 4), ("first", 1 + 2 + 4)])
def test_a_label_is_the_first_thing_drawn_and_the_last_taken_away(torsions, steps):
    process = make_process(SPACE, ScheduleConfig(4, torsions=torsions))
    assert process.n_steps == steps and process.links[0].own == slice(4, 5)
    x = SPACE.sample_prior(6, seeded(3))
    x[:, 4] = 2.0
    path = process.sample_path(x, seeded(4))
    assert bool((path[1:, :, 4] == 2.0).all()) and bool((path[0, :, 4] == 0.0).all())
    assert process.chunk_ends(4)[0] == 1
    reference = [process.log_reference(path[n], n) for n in (0, 1)]
    torch.testing.assert_close(reference[1], reference[0] - math.log(3.0))


@torch.no_grad()
def test_draws_follow_the_probabilities_of_labels():
    p = LabelPolicy(Reveal(SPACE.only(Label)), slice(4, 5))
    p.logits.copy_(torch.tensor([0.05, -0.1, 0.0]))
    expected = p.log_probabilities().exp()
    assert float(expected.sum()) == pytest.approx(1.0) and float(expected[0] / expected[1]) == pytest.approx(
        math.exp(1.5), rel=1e-5
    )
    x = torch.zeros(40_000, 5)
    for exploration in (0.0, 1.0):
        y, log_p = p.sample_step(x, 0, seeded(5), exploration)
        drawn = Label(1, 3).features(y[:, 4:], 0)
        assert_mean(drawn, expected if not exploration else (0.5 * expected.log()).softmax(0))
        # the density is that of the kernel that drew: importance weights by it count every label once
        assert_mean(drawn / log_p.exp()[:, None], torch.ones(3))


@pytest.mark.parametrize("torsions", KINDS)
@torch.no_grad()
def test_rollouts_and_their_paths_agree_on_densities(torsions):
    p = policy(torsions)
    states, log_ratio = rollout(p, 50, seeded(6))
    scored = score_states(p, states, torch.zeros(50))
    torch.testing.assert_close(-scored.log_weights(), log_ratio, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("torsions", KINDS)
def test_a_rank_without_a_portion_draws_nothing(torsions):
    """Two samples over three ranks leave none for the last."""
    states, log_ratio = rollout(policy(torsions), 0, seeded(6))
    assert states.shape[1:] == (0, SPACE.dim) and log_ratio.shape == (0,)


@torch.no_grad()
def test_every_later_step_sees_the_label():
    p = policy("first")
    x = SPACE.sample_prior(8, seeded(7))
    other = x.clone()
    other[:, 4] = (x[:, 4] + 1.0) % 3.0
    for n in range(1, p.process.n_steps):
        here, there = p.process.sample_path(x, seeded(8)), p.process.sample_path(other, seeded(8))
        steps = [p.log_prob(path[n + 1], path[n], n) for path in (here, there)]
        assert bool((steps[0] != steps[1]).all()), n
    grid = torch.linspace(-math.pi, math.pi, 2001)[:-1]
    row = x[:1].expand(2000, -1).clone()
    row[:, 2] = grid
    density = p.log_prob(row, x[:1].expand(2000, -1), 1).exp()
    assert float(density.mean()) * 2.0 * math.pi == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("torsions", KINDS)
@torch.no_grad()
def test_weights_and_smc_give_the_pieces_their_shares_whatever_the_policy(torsions):
    """Shares of 0.75, 0.2, 0.05 and log Z by importance weights of a policy that knows nothing of them, 4.5 standard
    errors each; by SMC with an untrained twist, over 60 passes."""
    target = Labelled(1.3)
    p = policy(torsions, target.space)
    states, log_ratio = rollout(p, 60_000, seeded(9))
    x = states[-1]
    w = (target.log_prob(x) - log_ratio).double().exp()
    assert_mean(torch.cat([w[:, None], w[:, None] * target.piece_shares(x)], 1) / math.exp(1.3), _moments(target))

    def log_twist(x, n):
        return 1.3 + p.process.log_reference(x, n)

    found = []
    for seed in range(60):
        one = SMCPass(p, log_twist, target.log_prob, 400, SMCConfig(chunk=2, kappa=1.1), seeded(seed))
        particles, _ = one.run()
        w = particles.log_w.exp()
        found.append(torch.cat([w[:, None], w[:, None] * target.piece_shares(particles.x)], 1).mean(0))
    assert_mean(torch.stack(found) / math.exp(1.3), _moments(target))


def _moments(target: Labelled) -> torch.Tensor:
    return torch.tensor([1.0, *target.share])


def test_fit_losses_have_their_minimum_at_the_shares_of_the_data():
    target = Labelled()
    p = policy("first", target.space)
    label = p.policies[0]
    x = target.sample(seeded(10), 4000)
    counts = target.piece_shares(x).mean(0)
    with torch.no_grad():
        label.logits.copy_(counts.log() / 10.0)
    loss = p.fit_losses(x, torch.zeros_like(x), lambda a, w: a, seeded(11))
    assert loss.shape == (p.process.n_steps,)
    assert loss[0].item() == pytest.approx(float(-(counts * counts.log()).sum()), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss[0], label.logits)
    assert float(gradient.abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["mala", "hmc", "random_walk"])
def test_kernels_stay_in_the_piece_and_keep_its_density(name):
    """Chains from exact samples: after 20 steps labels are as they were, and moments those of the target."""
    target = Labelled()
    x = target.sample(seeded(12), 20_000)
    state = ChainState(x, *target.log_prob_and_score(x))
    moved, _, rate = kernel_named(name, leapfrog_steps=4)(
        target.log_prob_and_score, target.space, state, ProposalScale(torch.ones(3), 0.5), 20, seeded(13)
    )
    assert torch.equal(moved.x[:, 2], x[:, 2]) and 0.1 < rate < 0.99
    assert float((moved.x[:, :2] != x[:, :2]).any(1).double().mean()) > 0.9
    for k, ((m, mu), (s, _)) in enumerate(zip(target.centre, target.spread, strict=True)):
        own = moved.x[x[:, 2] == k].double()
        assert_mean(torch.stack([own[:, 0], (own[:, 0] - m).square()], 1), torch.tensor([m, s * s]))
        assert_mean((own[:, 1] - mu).sin(), 0.0)


def test_annealing_gives_the_pieces_their_shares():
    """By 100 independent annealings: the mean over their estimates of Z, and of Z times each share."""
    target = Labelled(0.7)
    found = []
    for seed in range(100):
        config = AnnealConfig(particles=64, moves=2, last_moves=2)
        one = annealed_smc(target.log_prob_and_score, target.space, config, seeded(seed))
        for log_z, x in ((one.log_z, one.state.x),):
            found.append(math.exp(log_z - 0.7) * torch.cat([torch.ones(1), target.piece_shares(x).mean(0)]))
    # adaptive temperatures bias Z by far less than what 64 particles scatter
    assert_mean(torch.stack(found), _moments(target))
