"""Counting evaluations of a target's energy by purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from molsampler.basis import ranks

PURPOSES = {
    "md": "molecular dynamics: the short run of the set-up, and local moves by dynamics",
    "prefill": "annealing and the chains that fill the replay buffer",
    "rollout": "rollouts of the policy in training",
    "smc": "SMC passes in training, and energies inside the twist",
    "local_moves": "MALA from replayed states",
    "guidance": "scores inside a policy (Langevin parametrisation)",
    "analysis": "looking: evaluations, sampling, energies of the samples, pictures",
}
"""What energies are evaluated for; all but the last are what training costs."""


class EvaluationCounter:
    """Counts energy evaluations (one conformation each) by purpose, whoever asked for them.

    guide : scores of the target's guide in training, which are evaluations of another, cheaper energy
    non_finite : conformations whose energy was NaN or raised an exception in the backend, and was returned as +inf
    """

    def __init__(self) -> None:
        self.by_purpose: Counter[str] = Counter()
        self.non_finite = 0
        self.guide = 0
        self.current = "analysis"  # the purpose in force

    @property
    def total(self) -> int:
        return sum(self.by_purpose.values())

    @property
    def spent(self) -> int:
        """What training has cost: all but those for analysis."""
        return self.total - self.by_purpose["analysis"]

    @property
    def training(self) -> bool:
        """Whether what is evaluated now is for training."""
        return self.current != "analysis"

    @contextmanager
    def purpose(self, word: str) -> Iterator[None]:
        """Everything evaluated inside this context is booked under `word`, one of PURPOSES."""
        if word not in PURPOSES:
            raise ValueError(f"'{word}' is no purpose of an evaluation; those are {', '.join(PURPOSES)}")
        outer, self.current = self.current, word
        try:
            yield
        finally:
            self.current = outer

    def add(self, evaluations: int, non_finite: int = 0) -> None:
        """Book evaluations under the purpose in force."""
        self.by_purpose[self.current] += evaluations
        self.non_finite += non_finite

    def add_guide(self, scores: int) -> None:
        """Book scores of the guide, where they are for training."""
        self.guide += scores if self.training else 0

    def over_ranks(self) -> EvaluationCounter:
        """What all ranks have counted, as a counter of its own (collective)."""
        return summed(ranks.objects(self.state_dict()))

    def state_dict(self) -> dict:
        return {"by_purpose": dict(self.by_purpose), "non_finite": self.non_finite, "guide": self.guide}

    def load_state_dict(self, state: dict) -> None:
        self.by_purpose = Counter(state["by_purpose"])
        self.non_finite, self.guide = state["non_finite"], state["guide"]


def summed(states: list[dict]) -> EvaluationCounter:
    """A counter with the counts of several counters' states."""
    counter = EvaluationCounter()
    for state in states:
        counter.by_purpose.update(state["by_purpose"])
        counter.non_finite += state["non_finite"]
        counter.guide += state["guide"]
    return counter
