"""Training divided over real processes, against one process on the union of what they train on."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch

from molsampler.basis import ranks
from molsampler.basis.log_weights import LogWeights
from molsampler.basis.settings import change
from molsampler.training.buffer import Priority, ReplayBuffer, dealt
from molsampler.training.config import TrainConfig, per_rank
from molsampler.training.log_z import RunningLogZ
from molsampler.training.objectives import ControlVariate
from molsampler.training.trainer import Trainer
from tests.ranked import on_ranks
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import TwoWells
from tests.training.small import CONFIG, LOG_Z, SHORT, assert_same, make, train

BATCH = 63  # three equal portions: then the mean of the means is the mean
DRAWS = 4000
STOP = 11  # in balance, with a pass, moves and rollouts behind
OBJECTIVES = ("tb", "log_variance", "subtb", "db")
STEPS: dict[str, dict[str, Any]] = {objective: {"objective": objective} for objective in OBJECTIVES} | {
    "soap": {"objective": "tb", "method": "soap"},
    "learnt noising": {"objective": "tb", "noising": {"learnt": "states"}},
    "optimal twist": {"objective": "tb", "twist_loss": "optimal"},
}
PRIORITIES: tuple[Priority, ...] = ("importance", "uniform", "rank")


def own(x: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """This rank's portion of what all have."""
    part = ranks.portion(x.shape[dim])
    return x.narrow(dim, part.start, len(part))


# one update on a fixed batch ------------------------------------------------------------------------------------------


def stepped(objective: str, method: str = "adam", poison: bool = False, **parts: Any) -> dict[str, Any]:
    """Two updates of the objective on this rank's portion of fixed trajectories, and the gradients of the first.

    poison : the last trajectory of the batch has no density, on one rank; parts : of the configuration, changed
    """
    config = change(CONFIG, objective=objective, optimiser={"method": method}, **parts)
    trainer = Trainer(TwoWells(LOG_Z), config, seeded(0))
    learner = trainer.learner
    learner.set_log_z(1.0)
    x = trainer.target.sample(seeded(3), BATCH).float()
    log_r = trainer.target.log_prob(x)
    if poison:
        log_r[-1] = torch.nan
    states = own(learner.process.sample_path(x, seeded(4)), dim=1)
    trainer._training_states = lambda k: (states, own(log_r), False)
    before, loss = learner.fingerprint(), trainer.balance(1, 1.0)
    parameters = [*learner.policy.parameters(), *learner.twist.parameters(), learner.log_z]
    gradient = torch.cat([torch.zeros(0), *(p.grad.flatten() for p in parameters if p.grad is not None)])
    second = trainer.balance(2, 1.0)
    after = learner.fingerprint()
    return {
        "loss": (loss, second, trainer.last_twist_loss),
        "gradient": gradient,
        "print": after,
        "moved": before != after,
        "skipped": dict(learner.skipped),
    }


def broken() -> dict[str, Any]:
    """An update whose gradient is no number on the last rank alone, where the loss is one."""
    learner = Trainer(TwoWells(LOG_Z), CONFIG, seeded(0)).learner
    before, last = learner.fingerprint(), ranks.rank() == ranks.size() - 1
    total = sum(p.sum() for p in learner.policy.parameters())
    made = learner.step_policy((0.0 * total).sqrt() if last else total, 1e-3, with_log_z=True)
    return {"made": made, "moved": before != learner.fingerprint(), "skipped": dict(learner.skipped)}


def mixed() -> dict[str, Any]:
    """Denoising's control variate, and the running log Z, fed with this rank's portion of fixed batches."""
    variate, mixtures = ControlVariate(), []
    for k in range(3):
        a, w = torch.randn(2, 3, 9, 5, generator=seeded(k)).unbind(0)
        mixtures.append(ranks.gathered(variate.mix(own(a, 1), own(w, 1)).transpose(0, 1)).transpose(0, 1))
    running = RunningLogZ()
    for k in range(3):
        running.add(LogWeights(own(torch.randn(10, generator=seeded(k)))))
    running.add(None)
    return {"mixtures": mixtures, "variate": variate.state_dict(), "running": running.state_dict()}


# the buffer -----------------------------------------------------------------------------------------------------------

SHARDS = [(0, 12), (12, 12), (12, 30)]  # states of three ranks, of which the second has none


def filled(priority: Priority, first: int, last: int) -> ReplayBuffer:
    """Of states first..last-1, whose every number tells which they are, with weights and densities of no order."""
    buffer = ReplayBuffer(30, 1, gamma=0.5, priority=priority, refresh=3)
    number = torch.arange(30.0)
    log_r, log_w = torch.randn(2, 30, generator=seeded(1)).unbind(0)
    rows = (number[:, None], log_r, 10.0 * number[:, None], 2.0 * log_w)
    buffer.add(*(part[first:last] for part in rows))
    return buffer


def drawn(priority: Priority) -> dict[str, Any]:
    """Draws of every rank from the union, and from its own shard; one without descendants before, one after."""
    buffer = filled(priority, *SHARDS[ranks.rank()])
    generator = ranks.generator(7)
    union = buffer.draw(DRAWS, generator)
    parents = buffer.draw(6, generator, distinct=True)
    exponent, held = buffer.exponent, len(buffer)
    buffer.add_descendants(parents, [(parents.x, parents.log_r, parents.score)])
    again = buffer.draw(50, generator)
    lengths = ranks.stacked(torch.tensor(len(buffer))).tolist()
    return {
        "union": union, "parents": parents, "exponent": exponent, "held": held,
        "descendants": buffer.log_w[held : len(buffer)], "again": again, "lengths": lengths,
    }  # fmt: skip


def once() -> dict[str, Any]:
    return {
        "steps": {name: stepped(**said) for name, said in STEPS.items()},
        "poisoned": stepped("tb", poison=True),
        "broken": broken(),
        "mixed": mixed(),
        "drawn": {priority: drawn(priority) for priority in PRIORITIES},
        "sizes": per_rank(TrainConfig()),
    }


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return on_ranks(3, once)


@pytest.mark.parametrize("name", STEPS)
def test_the_gradient_is_that_of_the_union(name, found):
    """After an update all learners are alike, to the last bit."""
    one = stepped(**STEPS[name])
    steps = [answer["steps"][name] for answer in found]
    assert len({step["print"] for step in steps}) == 1 and all(step["moved"] for step in steps)
    for step in steps:
        assert step["loss"][:2] == steps[0]["loss"][:2] and not step["skipped"]
        assert step["loss"][0] == pytest.approx(one["loss"][0], rel=1e-5)
        scale = float(one["gradient"].abs().max())
        torch.testing.assert_close(step["gradient"], one["gradient"], rtol=1e-3, atol=1e-5 * scale)


def test_what_breaks_on_one_rank_is_skipped_on_all(found):
    for answer in found:
        step = answer["poisoned"]
        assert math.isnan(step["loss"][0]) and not step["moved"]
        assert step["skipped"] == {"policy: loss not finite": 2, "twist: loss not finite": 2}
        assert answer["broken"] == {"made": False, "moved": False, "skipped": {"policy: gradient not finite": 1}}


def test_control_variate_and_running_log_z_are_those_of_the_union(found):
    one = mixed()
    for answer in found:
        for got, expected in zip(answer["mixed"]["mixtures"], one["mixtures"], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert answer["mixed"]["variate"]["seen"] == 3
        assert torch.equal(answer["mixed"]["variate"]["cross"], found[0]["mixed"]["variate"]["cross"])
        assert answer["mixed"]["running"] == pytest.approx(one["running"], rel=1e-6)
    # a rank whose batch broke leaves the others' in; here all broke, and nothing was added
    assert one["running"]["particles"] == pytest.approx(10 * (1 + 0.98 + 0.98**2))


def test_sizes_are_divided_and_nothing_else(found):
    """On three ranks a third, rounded up."""
    config = TrainConfig()
    expected = change(
        config,
        anneal={"particles": 1366},
        batch={"denoising": 1360, "balance": 86},
        torsions={"states": 340},
        replay={"capacity": 40_000},
        passes={"particles": 86},
        moves={"parents": 683},
        rollouts={"number": 683},
        explorers={"capacity": 10_000},
    )
    assert [answer["sizes"] for answer in found] == [expected] * 3 and per_rank(config) == config


@pytest.mark.parametrize("priority", PRIORITIES)
def test_draws_are_those_of_the_union(priority, found):
    """One lambda, the probability of one process for every state, whichever rank draws and whichever holds it; means
    within 4.5 standard errors (7e-6 each by chance, of 3 x 30)."""
    union = filled(priority, 0, 30)
    union.draw(1, seeded(0))
    probability = union._proposal
    for rank, answer in enumerate(found):
        got = answer["drawn"][priority]
        assert got["exponent"] == pytest.approx(union.exponent, rel=1e-9)
        batch = got["union"]
        number = batch.x[:, 0].long()
        assert torch.equal(batch.score[:, 0], 10.0 * batch.x[:, 0]) and torch.equal(batch.log_r, union.log_r[number])
        assert torch.equal(batch.log_w, union.log_w[number])
        torch.testing.assert_close(batch.log_a, probability[number].log(), rtol=1e-9, atol=1e-9)
        assert_mean(torch.nn.functional.one_hot(number, 30), probability)
        assert_mean((number < 12).double(), probability[:12].sum())  # the first shard's share, which is sharper
        # distinct parents are the rank's own, at the weights of its shard
        first, last = SHARDS[rank]
        parents = got["parents"]
        assert len(parents.x) == (6 if last > first else 0)
        chosen = parents.x[:, 0].long()
        assert bool(((chosen >= first) & (chosen < last)).all())
        within = probability[first:last] / probability[first:last].sum()
        torch.testing.assert_close(parents.log_a, within[chosen - first].log(), rtol=1e-9, atol=1e-9)
        held = max(got["held"], 1)
        torch.testing.assert_close(got["descendants"], parents.log_w - parents.log_a - math.log(held))
        assert got["lengths"] == [18, 0, 24] and len(got["again"].x) == 50


def test_shards_are_dealt_out_by_age():
    """Three shards, one of them past its room and one empty, to two ranks and to one: nothing is lost or doubled, and
    the oldest go first where there is less room."""
    states = []
    for first, last in ((0, 7), (7, 7), (7, 11)):
        buffer = ReplayBuffer(5, 1, gamma=0.5)
        for k in range(first, last):  # one by one, so that the first shard has gone round: 2..6
            number = torch.tensor([float(k)])
            buffer.add(number[:, None], -number, 10.0 * number[:, None], number)
        buffer.rejected = 2
        states.append(buffer.state_dict())
    whole = dealt(states, 0, 1, 100)
    assert whole["x"][:, 0].tolist() == [2, 7, 3, 8, 4, 9, 5, 10, 6] and whole["rejected"] == 6
    assert torch.equal(whole["log_r"], -whole["x"][:, 0]) and torch.equal(whole["score"], 10.0 * whole["x"])
    pair = [dealt(states, rank, 2, 100) for rank in (0, 1)]
    assert sorted(x for part in pair for x in part["x"][:, 0].tolist()) == list(range(2, 11))
    assert [part["rejected"] for part in pair] == [6, 0] and [part["size"] for part in pair] == [5, 4]
    small = dealt(states, 0, 1, 4)
    assert small["x"][:, 0].tolist() == [9, 5, 10, 6]
    # and a buffer goes on with it: the next state takes the oldest one's place
    buffer = ReplayBuffer(4, 1, gamma=0.5)
    buffer.load_state_dict(small)
    buffer.add(torch.tensor([[11.0]]), torch.zeros(1), torch.zeros(1, 1), torch.zeros(1))
    assert sorted(buffer.x[:, 0].tolist()) == [5, 6, 10, 11]


# whole runs -----------------------------------------------------------------------------------------------------------


def whole() -> dict[str, Any]:
    """A whole short run on two ranks."""
    trainer = make()
    begun = trainer.learner.log_z.item()
    train(trainer)
    counted = trainer.target.counter.state_dict()
    drawn = trainer.sampler().draw(10_001, ranks.generator(5)).gathered()
    row = trainer.evaluate()
    return {
        "print": trainer.learner.fingerprint(), "row": row, "counted": counted, "log_w": drawn.log_w, "begun": begun,
        "held": len(trainer.behaviours.buffer), "smc": trainer.sampler().smc(130, ranks.generator(6)).gathered(),
        "knee": trainer.surrogate.knee, "first": trainer.behaviours.buffer.x[0],
    }  # fmt: skip


def stored(trainer: Trainer) -> bytes:
    """The state of all ranks as a checkpoint holds it, on the first one."""
    file = io.BytesIO()
    torch.save(trainer.gathered_state(), file)
    return file.getvalue()


def restored(state: bytes, config: TrainConfig = SHORT) -> Trainer:
    trainer = Trainer(TwoWells(LOG_Z), config, torch.Generator())
    trainer.load_gathered_state(torch.load(io.BytesIO(state), weights_only=True))
    return trainer


def gone_on(state: bytes) -> dict[str, Any]:
    """A run of one process that two go on with, and a run of two, stopped, that two go on with."""
    joined = restored(state)
    union = ranks.gathered(joined.behaviours.buffer.log_w[: len(joined.behaviours.buffer)])
    counted, moves = joined.target.counter.state_dict(), joined.behaviours._moves_evaluations
    begins = joined.generator.get_state()
    train(joined)
    unbroken = train(make(SHORT), STOP)
    kept = ranks.from_first(stored(unbroken))
    train(unbroken)
    broken = train(restored(kept))
    assert_same(unbroken.state_dict(), broken.state_dict())
    assert_same(unbroken.evaluate(), broken.evaluate())
    planned = make(change(SHORT, warm_updates=None, updates=None, minutes=0.01))
    before = planned.state_dict()
    planned.plan()
    assert_same(before, planned.state_dict())
    split = make(SHORT)
    with torch.no_grad():
        next(split.learner.policy.parameters()).add_(0.1 * ranks.rank())
    apart = split.learner.fingerprint()
    split.agree()
    return {
        "union": union, "counted": counted, "moves": moves, "generator": begins, "print": joined.learner.fingerprint(),
        "kept": kept, "log_w": unbroken.sampler().draw(50, ranks.generator(1)).log_w, "plan": planned.total,
        "agreed": (apart, split.learner.fingerprint()),
    }  # fmt: skip


@pytest.fixture(scope="module")
def alone() -> Trainer:
    """One process, stopped."""
    return train(make(SHORT), STOP)


@pytest.fixture(scope="module")
def pair() -> list[dict[str, Any]]:
    return on_ranks(2, whole)


@pytest.fixture(scope="module")
def resumed(alone) -> list[dict[str, Any]]:
    return on_ranks(2, gone_on, stored(alone))


def test_two_ranks_learn_as_one_process_does(pair):
    """The bounds of tests/training/test_trainer.py: ESS, and log Z by 10,001 weights within 4.5 standard errors."""
    first, second = pair
    assert first["print"] == second["print"] and first["knee"] == second["knee"]
    row, other = ({k: v for k, v in part["row"].items() if k != "seconds"} for part in pair)
    assert_same(row, other)
    assert row["ess"] > 0.6 and row["log_z"] == pytest.approx(LOG_Z, abs=0.25)
    assert row["log_z_running"] == pytest.approx(LOG_Z, abs=0.25)
    assert torch.equal(first["log_w"], second["log_w"]) and len(first["log_w"]) == 10_001
    relative = (first["log_w"] - LOG_Z).exp()
    error = float(relative.std()) / math.sqrt(len(relative))
    assert error < 0.03 and abs(float(relative.mean()) - 1.0) < 4.5 * error
    halves = relative.split([5001, 5000])  # of streams of their own
    assert not torch.equal(halves[0][:5000], halves[1]) and len(relative.unique()) > 9000
    assert first["begun"] == second["begun"] == pytest.approx(LOG_Z, abs=0.3)
    assert not torch.equal(first["first"], second["first"])  # each keeps what it made


def test_what_ranks_spend_and_hold_adds_up(pair):
    first, second = pair
    row = first["row"]
    words = {word for part in pair for word in part["counted"]["by_purpose"]} - {"analysis"}
    for word in words:
        spent = sum(part["counted"]["by_purpose"][word] for part in pair)
        assert row[f"evaluations_{word}"] == spent, word
    assert row["replay_size"] == first["held"] + second["held"]
    replays = sum(k % (CONFIG.batch.replay_updates + 1) != 0 for k in range(CONFIG.updates))
    assert row["smc_runs"] + row["smc_collapsed"] == 2 * (replays // CONFIG.passes.every)  # two islands a pass
    one = train(make())
    # the same batches in all: only states off the support, and moves by their limit, may make a difference
    assert row["evaluations_rollout"] == one.target.counter.by_purpose["rollout"]
    assert row["evaluations_smc"] == one.target.counter.by_purpose["smc"]
    assert row["evaluations_local_moves"] == one.target.counter.by_purpose["local_moves"]
    smc = first["smc"]
    assert smc.group.tolist() == [k for k in range(64) for _ in range(3)] and len(smc.distinct_ancestors) == 64


def test_a_run_of_one_process_goes_on_with_two(alone, resumed):
    """Shards, counts and generators: all there, once."""
    buffer = alone.behaviours.buffer
    for part in resumed:
        assert torch.equal(part["union"].sort().values, buffer.log_w[: len(buffer)].sort().values)
    counted = alone.target.counter.by_purpose
    assert all(sum(part["counted"]["by_purpose"].get(word, 0) for part in resumed) == counted[word] for word in counted)
    assert sum(part["moves"] for part in resumed) == alone.behaviours._moves_evaluations > 0
    states = [part["generator"] for part in resumed]
    assert torch.equal(states[0], alone.generator.get_state()) and not torch.equal(states[0], states[1])
    assert resumed[0]["print"] == resumed[1]["print"]
    assert resumed[0]["plan"] == resumed[1]["plan"] > 0
    (apart, agreed), (other, others) = (part["agreed"] for part in resumed)
    assert apart != other and agreed == others == apart


def test_a_run_of_two_goes_on_with_one(resumed):
    """And its own two went on to the last bit, which the ranks themselves have compared."""
    state = torch.load(io.BytesIO(resumed[0]["kept"]), weights_only=True)
    parts = [state, *state["others"]]
    trainer = restored(resumed[0]["kept"])
    held = torch.cat([part["behaviours"]["buffer"]["log_w"] for part in parts])
    buffer = trainer.behaviours.buffer
    assert torch.equal(buffer.log_w[: len(buffer)].sort().values, held.sort().values)
    spent = sum(sum(part["counter"]["by_purpose"].values()) for part in parts)
    assert trainer.target.counter.total == spent and trainer.done == STOP
    train(trainer)
    assert trainer.done == trainer.total and not trainer.learner.skipped
    assert trainer.evaluate()["ess"] > 0.1
