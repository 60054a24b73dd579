from __future__ import annotations

import pytest

from molsampler.basis.counter import PURPOSES, EvaluationCounter


def test_evaluations_are_booked_under_the_purpose_in_force():
    counter = EvaluationCounter()
    counter.add(5)  # nobody said what for: looking
    with counter.purpose("rollout"):
        assert counter.training
        counter.add(3)
        with counter.purpose("guidance"):
            counter.add(2, non_finite=1)
        counter.add(1)
        with counter.purpose("analysis"):
            assert not counter.training
            counter.add(10)
    assert not counter.training and counter.current == "analysis"
    assert dict(counter.by_purpose) == {"analysis": 15, "rollout": 4, "guidance": 2}
    assert counter.total == 21 and counter.spent == 6 and counter.non_finite == 1


@pytest.mark.parametrize("word", list(PURPOSES))
def test_every_purpose_but_looking_is_what_training_costs(word):
    counter = EvaluationCounter()
    with counter.purpose(word):
        counter.add(4)
    assert counter.spent == (0 if word == "analysis" else 4) and counter.total == 4
    assert PURPOSES[word]


def test_an_unknown_purpose_is_refused_with_those_there_are():
    counter = EvaluationCounter()
    sentence = "^'rollouts' is no purpose of an evaluation; those are md, .*, analysis$"
    with pytest.raises(ValueError, match=sentence), counter.purpose("rollouts"):
        pytest.fail("nothing is evaluated for it")
    assert counter.current == "analysis"


def test_a_purpose_ends_with_an_exception():
    counter = EvaluationCounter()
    with pytest.raises(KeyError), counter.purpose("md"):
        raise KeyError
    counter.add(2, 1)
    assert dict(counter.by_purpose) == {"analysis": 2} and counter.non_finite == 1


def test_state_dict_is_a_copy():
    counter = EvaluationCounter()
    with counter.purpose("smc"):
        counter.add(7, 2)
        counter.add_guide(3)
    counter.add_guide(5)  # looking
    state = counter.state_dict()
    counter.add(1)
    again = EvaluationCounter()
    again.load_state_dict(state)
    assert dict(again.by_purpose) == {"smc": 7} and again.non_finite == 2 and again.spent == 7
    again.add(1)
    assert state == {"by_purpose": {"smc": 7}, "non_finite": 2, "guide": 3} and again.guide == 3
