"""Where training states come from: what enters which buffer, at which weight, at whose cost."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from molsampler.basis.settings import change
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.trajectories import rollout
from molsampler.smc.annealed import Prefill
from molsampler.smc.moves.chain import ProposalScale
from molsampler.targets.target import Target
from molsampler.training.behaviours import Behaviours
from tests.smc.moves.chains import start
from tests.stochastic import seeded
from tests.targets.analytic import Gaussian, TwoWells
from tests.training.small import CONFIG, LOG_Z, SHORT, assert_same, make, train


def policy_for(target: Target, seed: int = 0) -> DiffusionPolicy:
    """With a random output, so that two seeds give two policies."""
    policy = DiffusionPolicy(NoisingProcess(target.space, CONFIG.schedule), PolicyConfig(8, 2), seeded(seed))
    with torch.no_grad():
        policy.network.mlp.last_bias.copy_(
            0.2 * torch.randn(policy.network.mlp.last_bias.shape, generator=seeded(seed))
        )
    return policy


def behaviours(target: Target, policy: DiffusionPolicy | None = None, **changes: Any) -> Behaviours:
    """With a flat twist; `changes` of the configuration's tables."""
    return Behaviours(
        target,
        policy or policy_for(target),
        lambda x, n: target.space.log_prior(x),
        change(SHORT, **changes),
        seeded(1),
    )


class NarrowAndWide(Target):
    """N(-5, 0.05^2) + N(5, 2^2) on the line, times a flat circle."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = (
            Gaussian(torch.tensor([-5.0]), torch.tensor([0.05]), 1),
            Gaussian(torch.tensor([5.0]), torch.tensor([2.0]), 1),
        )
        self.space = self.parts[0].space

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(torch.stack([part.log_prob(x) for part in self.parts]), 0)


def test_the_scale_of_local_moves_is_the_main_buffers_not_the_explorers():
    """The main states lie in a narrow well, the explorers in a wide one; the steps of later moves fit the narrow one,
    and are kept with the state."""
    target = NarrowAndWide()
    main, hot = (start(target, part.sample(seeded(k), 200)) for k, part in enumerate(target.parts))
    own = behaviours(target, moves={"parents": 64, "steps": 20})
    own.prefill(Prefill(main, 0.0, hot, torch.zeros(200, dtype=torch.float64)))
    narrow, wide = (ProposalScale.from_scores(state.score).scale for state in (main, hot))
    assert float(narrow[0]) < 0.06 and float(wide[0]) > 0.7
    kept = own.state_dict()["scale"]
    torch.testing.assert_close(kept["scale"], narrow)
    before = len(own.buffer)
    own.local_moves()
    after = own.state_dict()["scale"]
    torch.testing.assert_close(after["scale"], narrow)
    assert after["step"] != kept["step"]  # it goes on adapting from where it was
    children = own.buffer.x[before : before + 64, 0]
    parents = own.buffer.x[:before, 0]
    moved = (children[:, None] != parents).all(1).double().mean()
    assert float(moved) > 0.9 and float(children.std()) < 0.1
    # the explorers fill a buffer of their own
    assert bool((own.explored.x[: len(own.explored), 0] > -4.0).all()) and bool((parents < -4.0).all())


class Drifting(TwoWells):
    """With dynamics of its own: every second state is taken off the support."""

    def local_moves(self, x, n_steps, generator):
        self.counter.add(len(x) * n_steps)
        return torch.where(torch.arange(len(x))[:, None] % 2 == 0, x + 0.01, x - 100.0)


DYNAMICS = change(
    SHORT,
    warm_updates=9,
    updates=1,
    moves={"kind": "md", "every": 1, "parents": 8, "steps": 4, "limit": 100},
    replay={"capacity": 64},
    batch={"denoising": 16},
    rollouts={"number": 0},
    explorers={"share": 0.0},
)


def test_local_moves_by_the_targets_own_dynamics_stop_at_their_limit():
    """States that the dynamics take off the support are their parents again; once the evaluations granted are spent,
    training goes on without moves. What others booked under the same words does not count: the set-up's MD, above
    all."""
    target = Drifting(wall=-2.0)
    with target.counter.purpose("md"):
        target.counter.add(100_000)
    trainer = make(change(DYNAMICS, prefill={"frames": 1}, anneal={"particles": 32}), target)
    own = trainer.behaviours
    spent = {word: target.counter.by_purpose[word] for word in ("md", "local_moves")}
    stored = len(own.buffer)
    train(trainer, 9)
    # a round is 8 * 4 evaluations of dynamics and 8 of the states reached: three rounds pass 100
    assert target.counter.by_purpose["md"] - spent["md"] == 3 * 32
    assert target.counter.by_purpose["local_moves"] - spent["local_moves"] == 3 * 8
    assert own.moves_spent() and len(own.buffer) == stored + 3 * 8 and own.buffer.rejected == 0
    assert bool((own.buffer.x[: len(own.buffer), 0] > -2.0).all())
    # what is spent stays spent in a run that goes on
    again = make(DYNAMICS, Drifting(wall=-2.0))
    assert not again.behaviours.moves_spent()
    again.load_state_dict(trainer.state_dict())
    assert again.behaviours.moves_spent()


def test_mala_counts_towards_the_limit_too_and_other_evaluations_do_not():
    own = behaviours(TwoWells(), moves={"parents": 8, "steps": 4, "limit": 64})
    own.on_policy(50)
    own.smc()
    for rounds in (0, 1):
        assert not own.moves_spent(), rounds
        own.local_moves()
    assert own.moves_spent() and own.target.counter.by_purpose["local_moves"] == 64
    assert own.target.counter.by_purpose["rollout"] == 50 and own.target.counter.by_purpose["smc"] > 0


def test_the_limit_is_given_out_by_the_root_of_the_updates_made():
    """Rounds of 32 evaluations out of 640: after a share t of 100 updates as many as sqrt(t) allows have been started,
    and all by the end."""
    trainer = make(change(SHORT, warm_updates=60, updates=40, rollouts={"number": 0},
                          moves={"every": 1, "parents": 8, "steps": 4, "limit": 640}), TwoWells())  # fmt: skip
    counter = trainer.target.counter
    for done in range(1, 101):
        trainer.update()
        allowed = 640 * (done / 100) ** 0.5
        rounds = counter.by_purpose["local_moves"] // 32
        assert rounds == min(done, math.ceil(allowed / 32)), done
    assert rounds == 20


def test_rollouts_enter_the_buffer_at_their_weights_by_whichever_policy_they_are():
    target = TwoWells(LOG_Z, wall=-0.5)
    other = policy_for(target, seed=7)
    own = behaviours(target)
    states, log_r = own.on_policy(100, policy=other)
    path, log_ratio = rollout(other, 100, seeded(1))
    assert torch.equal(states, path) and torch.equal(log_r, target.log_prob(path[-1]))
    log_w = log_r.double() - log_ratio.double()
    kept = log_w > -torch.inf
    assert 0 < int(kept.sum()) < 100 and len(own.buffer) == int(kept.sum())
    n = len(own.buffer)
    assert torch.equal(own.buffer.x[:n], path[-1][kept]) and torch.equal(own.buffer.log_w[:n], log_w[kept])
    assert own.log_z.value == pytest.approx(float(log_w.logsumexp(0)) - math.log(100))
    learning, _ = own.on_policy(100)
    assert not torch.equal(learning, path)


def test_passes_enter_the_buffer_and_the_estimate_and_collapsed_ones_do_not():
    target = TwoWells(LOG_Z)
    own = behaviours(target)
    own.smc()
    n = len(own.buffer)
    assert n == CONFIG.passes.particles and own.report.passes == 1 and own.report.collapsed == 0
    assert own.report.log_z == [pytest.approx(own.log_z.value)]
    torch.testing.assert_close(own.buffer.log_r[:n], target.log_prob(own.buffer.x[:n]))
    nowhere = behaviours(TwoWells(wall=9.0))
    nowhere.smc()
    assert len(nowhere.buffer) == 0 and nowhere.report.collapsed == 1 and nowhere.report.passes == 0
    assert nowhere.log_z.value == -math.inf  # a collapsed pass estimates Z to be 0
    value = own.log_z.value
    own.target.wall = 9.0
    own.smc()
    assert own.log_z.value == pytest.approx(value + math.log(own.log_z.discount / (1.0 + own.log_z.discount)))
    broken = behaviours(TwoWells(math.nan))
    broken.smc()
    assert broken.report.collapsed == 1 and math.isnan(broken.log_z.value)  # a broken one estimates nothing
    assert own.take_report().passes == 1 and own.take_report().passes == 0


def test_without_a_buffer_replay_takes_the_last_pass():
    """All of it and nothing of the passes before it, though particles of zero weight leave room."""
    own = behaviours(TwoWells(LOG_Z, wall=-0.5), replay={"draw": "none"}, explorers={"share": 0.0})
    own.on_policy(20)
    assert not own.keeps
    first = {tuple(row) for row in own.draw(200)[0].tolist()}
    n = len(own.buffer)
    assert first <= {tuple(row) for row in own.buffer.x[:n].tolist()}  # nothing fresher yet
    before: set[tuple[float, ...]] = set()
    for _ in range(3):
        own.smc()
        assert 0 < len(own.fresh) < CONFIG.passes.particles and len(own.buffer) == n
        drawn = {tuple(row) for row in own.draw(400)[0].tolist()}
        assert drawn <= {tuple(row) for row in own.fresh.x[: len(own.fresh)].tolist()}
        assert drawn.isdisjoint(before | first)
        before |= drawn


def test_explorers_give_their_share_of_the_training_states():
    own = behaviours(NarrowAndWide(), explorers={"share": 0.25}, prefill={"frames": 1, "steps": 1})
    target = own.target
    main, hot = (start(target, part.sample(seeded(k), 100)) for k, part in enumerate(target.parts))
    own.prefill(Prefill(main, 0.0, hot, torch.zeros(100, dtype=torch.float64)))
    x, log_r, score = own.draw(400)
    rare = x[:, 0] > -4.0
    assert int(rare.sum()) == 100
    assert 20 < int(rare[:200].sum()) < 80  # in random order: 50, within seven standard deviations
    expected = target.log_prob_and_score(x)
    torch.testing.assert_close(log_r, expected[0])
    torch.testing.assert_close(score, expected[1])


def test_state_dict_round_trip():
    trainer = train(make(SHORT), 12)
    state = trainer.behaviours.state_dict()
    again = behaviours(TwoWells(LOG_Z))
    again.load_state_dict(state)
    assert_same(state, again.state_dict())
    one, two = trainer.behaviours, again
    one.generator.set_state(seeded(5).get_state())
    two.generator.set_state(seeded(5).get_state())
    assert torch.equal(one.draw(50)[0], two.draw(50)[0])
    one.local_moves()
    two.local_moves()
    assert torch.equal(one.buffer.x, two.buffer.x)
