from __future__ import annotations

import io
import math

import pytest
import torch

from molsampler.basis.log_weights import LogWeights
from molsampler.basis.resampling import systematic
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.smc.moves.chain import ChainState, ProposalScale
from molsampler.smc.moves.mala import mala
from molsampler.smc.sampler import SMCConfig, SMCPass
from molsampler.training.buffer import ReplayBuffer
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import TwoWells


def rows(first: int, n: int, log_w: float = 0.0) -> tuple[torch.Tensor, ...]:
    """n states whose every number tells which they are."""
    number = torch.arange(first, first + n).float()
    return number[:, None].expand(n, 2).clone(), -number, 10.0 * number[:, None].expand(n, 2), torch.full((n,), log_w)


def held(buffer: ReplayBuffer) -> list[int]:
    n = len(buffer)
    assert torch.equal(buffer.log_r[:n], -buffer.x[:n, 0]) and torch.equal(buffer.score[:n], 10.0 * buffer.x[:n])
    return sorted(buffer.x[:n, 0].int().tolist())


def test_first_in_first_out():
    buffer = ReplayBuffer(5, 2, gamma=0.05)
    assert buffer.add(*rows(0, 3)) == 3 and held(buffer) == [0, 1, 2]
    assert buffer.add(*rows(3, 3)) == 3 and held(buffer) == [1, 2, 3, 4, 5] and len(buffer) == 5
    buffer.add(*rows(6, 4))
    assert held(buffer) == [5, 6, 7, 8, 9]
    assert buffer.add(*rows(10, 12)) == 5 and held(buffer) == [17, 18, 19, 20, 21]  # a batch larger than the room
    buffer.add(*rows(22, 2))
    assert held(buffer) == [19, 20, 21, 22, 23]
    buffer.clear()
    assert len(buffer) == 0
    with pytest.raises(ValueError, match="the replay buffer is empty"):
        buffer.draw(1, seeded(0))


def test_rows_that_are_not_finite_never_enter():
    buffer = ReplayBuffer(50, 2, gamma=0.05)
    x, log_r, score, log_w = rows(0, 10)
    x[0, 1], x[1, 0], log_r[2], log_r[3] = math.nan, math.inf, math.nan, -math.inf
    score[4, 0], score[5, 1], log_w[6], log_w[7] = math.nan, -math.inf, math.nan, math.inf
    assert buffer.add(x, log_r, score, log_w) == 2
    assert held(buffer) == [8, 9] and buffer.rejected == 8
    drawn = buffer.draw(20, seeded(0))
    values = (drawn.x, drawn.log_r, drawn.score, drawn.log_w, drawn.log_a)
    assert all(bool(torch.isfinite(value).all()) for value in values)


def test_zero_weights_take_no_room_and_are_no_fault():
    buffer = ReplayBuffer(4, 2, gamma=0.05)
    x, log_r, score, log_w = rows(0, 8)
    log_w[2:7] = -math.inf
    log_r[2:5] = -math.inf
    assert buffer.add(x, log_r, score, log_w) == 3
    assert held(buffer) == [0, 1, 7] and buffer.rejected == 0


@pytest.mark.parametrize("distinct", [False, True])
def test_draws_follow_the_tempered_weights(distinct):
    # the ESS of weights 1, exp(-4 lambda) is 1.8 at a ratio of 1/2: probabilities 2/3 and 1/3
    buffer = ReplayBuffer(4, 2, gamma=0.9)
    for k, log_w in ((0, 0.0), (1, -4.0)):
        buffer.add(*rows(k, 1, log_w))
    generator = seeded(1)
    batches = [buffer.draw(10, generator, distinct) for _ in range(400)]
    assert buffer.exponent == pytest.approx(math.log(2.0) / 4.0)
    second = torch.stack([batch.x[:, 0] for batch in batches])  # (400, 10)
    assert_mean(second.mean(1), 1.0 / 3.0)
    assert_mean(second[:, 0], 1.0 / 3.0)  # no place in the batch is special
    for batch in batches[:3]:
        second = batch.x[:, 0] == 1.0
        torch.testing.assert_close(batch.log_a.exp(), torch.where(second, 1.0, 2.0).double() / 3.0)
        torch.testing.assert_close(batch.log_w, torch.where(second, -4.0, 0.0).double())
        torch.testing.assert_close(batch.log_r, -batch.x[:, 0])
        if distinct:
            assert int(second.sum()) in (3, 4)


def test_lambda_is_refreshed_now_and_then():
    buffer = ReplayBuffer(100, 2, gamma=0.5, refresh=3)
    buffer.add(*rows(0, 20))
    for _ in range(2):
        buffer.draw(5, seeded(2))
    assert buffer.exponent == 1.0
    buffer.add(*rows(20, 1, 12.0))  # one state takes nearly all weight
    buffer.draw(5, seeded(2))
    assert buffer.exponent == 1.0
    drawn = buffer.draw(2000, seeded(2))
    assert buffer.exponent < 0.5
    assert float((drawn.x[:, 0] == 20).double().mean()) < 0.5


def test_state_dict_round_trip():
    buffer = ReplayBuffer(6, 2, gamma=0.4, refresh=4)
    for k in range(8):
        buffer.add(*rows(k, 1, 0.9 * k))
    buffer.add(torch.full((1, 2), math.nan), torch.zeros(1), torch.zeros(1, 2), torch.zeros(1))
    buffer.draw(3, seeded(3))
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    again = ReplayBuffer(6, 2, gamma=0.4, refresh=4)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert len(again) == 6 and again.rejected == 1
    one, two = seeded(4), seeded(4)
    for k in range(6):  # across refreshes and the ring's seam
        first, second = buffer.draw(5, one), again.draw(5, two)
        assert torch.equal(first.x, second.x) and torch.equal(first.log_a, second.log_a)
        for b in (buffer, again):
            b.add(*rows(20 + 2 * k, 2, -1.0 * k))
    assert held(buffer) == held(again) and torch.equal(buffer.log_w, again.log_w)


def test_state_dict_is_a_copy_of_what_is_held():
    buffer = ReplayBuffer(6, 2, gamma=0.4)
    buffer.add(*rows(0, 3))
    state = buffer.state_dict()
    assert len(state["x"]) == 3
    buffer.add(*rows(3, 6))
    assert state["x"][:, 0].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("distinct", [False, True])
def test_descendants_carry_their_share_of_the_mass(distinct):
    """M draws of S states store, on average, M / S of the total weight, shared equally among the frames."""
    generator, shares = seeded(5), []
    log_w = 1.5 * torch.randn(60, generator=generator)
    for _ in range(300):
        buffer = ReplayBuffer(1000, 2, gamma=0.8)
        x, log_r, score, _ = rows(0, 60)
        buffer.add(x, log_r, score, log_w)
        parents = buffer.draw(24, generator, distinct)
        frames = [(parents.x, parents.log_r, parents.score)] * 3
        assert buffer.add_descendants(parents, frames) == 72
        new = buffer.log_w[60:132].exp().view(3, 24)
        torch.testing.assert_close(new[0], new[2])
        shares.append(new.sum() / buffer.log_w[:60].exp().sum())
    assert 0.0 < buffer.exponent < 1.0
    assert_mean(torch.stack(shares), 24 / 60)


TARGET = TwoWells(log_z=0.9, wall=-0.5)


def importance_batch(k: int, centre: float, spread: float, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    space = TARGET.space
    x = space.sample_prior(k, generator)
    log_q = space.log_prior(x) - math.log(spread)
    x[:, 0] = centre + spread * x[:, 0]
    log_r, score = TARGET.log_prob_and_score(x)
    return x, log_r, score, log_r - log_q


def fill(buffer: ReplayBuffer, policy: DiffusionPolicy, generator: torch.Generator) -> int:
    """Batches of every kind, 470 particles in all; returns that number."""
    buffer.add(*importance_batch(150, 0.0, 1.5, generator))
    buffer.add(*importance_batch(40, 0.7, 1.0, generator))
    # a batch that has been resampled: equal weights, the estimate of Z each
    x, log_r, score, log_w = importance_batch(120, 0.4, 1.3, generator)
    weights = LogWeights(log_w)
    picked = systematic(generator, weights.normalised, 80)
    buffer.add(x[picked], log_r[picked], score[picked], torch.full((80,), weights.log_mean))
    # sequential Monte Carlo with a useless twist, whose weights are anything but equal
    smc = SMCConfig(chunk=2, kappa=0.9, gamma=0.6)
    particles, _ = SMCPass(policy, lambda x, n: x[:, 1].sin() - 5.0, TARGET.log_prob, 200, smc, generator).run()
    buffer.add(particles.x, *TARGET.log_prob_and_score(particles.x), particles.log_w)
    return 470


def test_batches_of_different_kinds_and_sizes_estimate_one_measure():
    """Importance samples from two proposals, a resampled batch, SMC and the descendants of local moves, 150 times over:
    sum w = K Z, and sum w (f - E f) = 0 over the stored states and over tempered draws, within their errors."""
    process = NoisingProcess(TARGET.space, ScheduleConfig(4, circle_min=0.8))
    policy, generator = DiffusionPolicy(process, PolicyConfig(4, 1, log_var_range=1.0), seeded(6)), seeded(7)
    with torch.no_grad():
        policy.network.mlp.last_bias[:, 2:] = 0.8  # wider than the reversal: weights of finite variance
    exact = TARGET.sample(seeded(8), 400_000)

    def functions(x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        return torch.stack([x[:, 0], x[:, 0].square(), x[:, 1].cos(), x[:, 1].sin()], 1)

    moments = functions(exact).mean(0)
    scale = ProposalScale(torch.tensor([0.5, 0.6]), 1.2)
    mass, stored, drawn, moved = [], [], [], []
    for _ in range(150):
        buffer = ReplayBuffer(4000, 2, gamma=0.5)
        k = fill(buffer, policy, generator)
        s = len(buffer)
        assert s < k  # zero weights took no room
        w = buffer.log_w[:s].exp()
        mass.append(w.sum() / k)
        stored.append((w[:, None] * (functions(buffer.x[:s]) - moments)).sum(0) / k)
        parents = buffer.draw(100, generator)
        share = (parents.log_w - parents.log_a).exp() / k
        drawn.append((share[:, None] * (functions(parents.x) - moments)).mean(0))
        frames, state = [], ChainState(parents.x, parents.log_r, parents.score)
        for _ in range(2):
            state, *_ = mala(TARGET.log_prob_and_score, TARGET.space, state, scale, 2, generator, adapt=False)
            frames.append((state.x, state.log_r, state.score))
        buffer.add_descendants(parents, frames)
        assert len(buffer) == s + 200
        w = buffer.log_w[s : s + 200].exp()
        moved.append((w[:, None] * (functions(buffer.x[s : s + 200]) - moments)).sum(0) / w.sum())
    z = math.exp(TARGET.log_z)
    assert_mean(torch.stack(mass), z)
    for values in (stored, drawn, moved):
        values = torch.stack(values)
        assert_mean(values, 0.0)
        assert float(values.std(0).max() / 150**0.5) < 0.03 * z  # small enough to see a wrong weight
