"""From minutes to numbers of updates: by a clock that the tests move, and on a real trainer that must not notice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from molsampler.basis.counter import EvaluationCounter
from molsampler.basis.settings import change
from molsampler.training import budget
from molsampler.training.config import TrainConfig
from tests.training.small import SHORT, assert_same, make, train

OPEN = change(
    SHORT, warm_updates=None, updates=None, minutes=2.0, warm_share=0.75,
    moves={"every": 5}, rollouts={"number": 8, "every": 4}, batch={"replay_updates": 3},
)  # fmt: skip
MOVES, ROLLOUTS = 1.0 / 5, 2.0 / 4  # seconds an update, by the costs below


class Clocked:
    """A trainer whose acts take known times: 0.3 s an update of denoising, 1 s or 3 s one of balance (on-policy, with
    replay), 1 s a round of moves of 40 evaluations, 2 s one of rollouts; the first of each kind takes 100 s more."""

    def __init__(self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config, self.now, self.acts = config, 0.0, []
        self.behaviours = SimpleNamespace(local_moves=lambda: self.act("moves", 1.0))
        self.target = SimpleNamespace(counter=EvaluationCounter())
        monkeypatch.setattr(budget.time, "perf_counter", lambda: self.now)

    def act(self, name: str, seconds: float) -> None:
        first = name in ("denoise", "balance") and name not in self.acts
        self.acts.append(name)
        self.target.counter.add(40 if name == "moves" else 1)
        self.now += seconds + (100.0 if first else 0.0)

    def denoise(self, share: float) -> None:
        self.act("denoise", 0.3)

    def balance(self, k: int, share: float) -> None:
        self.act("balance", 3.0 if k % (self.config.batch.replay_updates + 1) else 1.0)

    def rollouts(self) -> None:
        self.act("rollouts", 2.0)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        self.acts.append("put back")


def test_updates_fill_the_budget_with_all_that_goes_with_them(monkeypatch):
    """Both kinds of balance in their proportion, moves in both phases, rollouts in denoising; what is slow but once is
    not timed."""
    planned = budget.plan(Clocked(OPEN, monkeypatch))
    assert planned.warm_updates == round(120.0 * 0.75 / (0.3 + MOVES + ROLLOUTS)) == 90
    assert planned.updates == round(120.0 * 0.25 / (2.5 + MOVES)) == 11
    assert change(planned, warm_updates=None, updates=None) == OPEN


def test_moves_that_their_limit_ends_leave_their_time_to_updates(monkeypatch):
    """20 rounds would be due, the limit allows ten of 40 evaluations; one of 21 changes nothing."""
    assert (90 + 11) // OPEN.moves.every == 20
    planned = budget.plan(Clocked(change(OPEN, moves={"limit": 400}), monkeypatch))
    assert planned.warm_updates == round(110.0 * 0.75 / (0.3 + ROLLOUTS)) == 103
    assert planned.updates == round(110.0 * 0.25 / 2.5) == 11
    for limit in (841, 10_000):
        planned = budget.plan(Clocked(change(OPEN, moves={"limit": limit}), monkeypatch))
        assert planned.warm_updates == 90
    # of the ten seconds a phase whose number is given has its part: 300 of 300 + 90 updates
    given = budget.plan(Clocked(change(OPEN, updates=300, moves={"limit": 400}), monkeypatch))
    assert given.updates == 300 and given.warm_updates == round((120.0 - 10.0 * 90 / 390) * 0.75 / (0.3 + ROLLOUTS))
    none = budget.plan(Clocked(change(OPEN, moves={"limit": 0}), monkeypatch))
    assert none.warm_updates == pytest.approx(90.0 / (0.3 + ROLLOUTS), abs=0.6)


@pytest.mark.parametrize(
    ("minutes", "least", "expected"),
    [
        (2.0, 6, (12, 40)),  # the share is more than that
        (2.0, 30, (30, 33)),
        (2.0, 500, (60, 22)),
        (8.0, 200, (200, 104)),
    ],
)
def test_a_least_number_of_denoising_updates_is_made(minutes, least, expected, monkeypatch):
    """Each takes a second, one of balance 2.7; the share of a tenth is raised to one half at most."""
    clocked = Clocked(change(OPEN, minutes=minutes, warm_share=0.1, warm_least=least), monkeypatch)
    planned = budget.plan(clocked)
    assert (planned.warm_updates, planned.updates) == expected


def test_without_moves_and_rollouts_they_take_no_time(monkeypatch):
    clocked = Clocked(change(OPEN, moves={"every": 0}, rollouts={"number": 0}), monkeypatch)
    planned = budget.plan(clocked)
    assert (planned.warm_updates, planned.updates) == (round(90.0 / 0.3), round(30.0 / 2.5))
    assert {"moves", "rollouts"}.isdisjoint(clocked.acts) and clocked.acts[-1] == "put back"


@pytest.mark.parametrize(
    ("given", "expected", "timed"),
    [
        ({"warm_updates": 7}, (7, 11), {"balance", "moves"}),
        ({"warm_updates": 0}, (0, 11), {"balance", "moves"}),
        ({"updates": 3}, (90, 3), {"denoise", "moves", "rollouts"}),
        ({"updates": 0}, (90, 0), {"denoise", "moves", "rollouts"}),
        ({"warm_updates": 7, "updates": 3}, (7, 3), set()),
        ({"warm_updates": 7, "warm_least": 80}, (7, 11), {"balance", "moves"}),
        ({"updates": 3, "warm_least": 100}, (90, 3), {"denoise", "moves", "rollouts"}),
        ({"start": "scratch", "warm_least": 100}, (0, 44), {"balance", "moves"}),
        ({"start": "scratch"}, (0, 44), {"balance", "moves"}),
        ({"start": "scratch", "updates": 3}, (0, 3), set()),
        ({"minutes": 1e-3}, (0, 1), {"denoise", "balance", "moves", "rollouts"}),
    ],
)
def test_only_numbers_that_are_not_given_are_planned(given, expected, timed, monkeypatch):
    """A number that is given stands and its phase is not timed; the share of the budget that belonged to it is not
    given to the other phase."""
    clocked = Clocked(change(OPEN, **given), monkeypatch)
    planned = budget.plan(clocked)
    assert (planned.warm_updates, planned.updates) == expected
    assert set(clocked.acts) - {"put back"} == timed


def test_planning_leaves_no_trace():
    """State, counters and generator are as before, and training goes on as if nothing had been timed."""
    config = change(OPEN, minutes=0.02)
    trainer, other = make(config), make(config)
    before = trainer.state_dict()
    trainer.plan()
    assert_same(before, trainer.state_dict())
    assert trainer.done == 0 and trainer.seconds == 0.0
    assert trainer.warm_updates >= 1 and trainer.updates >= 1
    numbers = {"warm_updates": 4, "updates": 4}
    trainer.config, other.config = (change(t.config, **numbers) for t in (trainer, other))
    assert_same(train(trainer).state_dict(), train(other).state_dict())


def test_numbers_that_are_given_are_the_plan():
    trainer = make(SHORT)
    before = trainer.state_dict()
    trainer.plan()
    assert trainer.config == SHORT and trainer.total == SHORT.warm_updates + SHORT.updates
    assert_same(before, trainer.state_dict())
