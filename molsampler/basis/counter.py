"""Counting evaluations of a target's energy by purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class EvaluationCounter:
    """Counts energy evaluations (one conformation each) by purpose, whoever asked for them.

    Purposes are free words; the package uses "md", "prefill",
    "rollout", "smc", "local_moves", "guidance" (scores inside a policy) and "analysis".
    `non_finite`
    counts conformations whose energy was NaN or raised an exception in the backend, and was returned as +inf.
    """

    def __init__(self) -> None:
        self.by_purpose: Counter[str] = Counter()
        self.non_finite = 0
        self._purpose = "analysis"

    @property
    def total(self) -> int:
        return sum(self.by_purpose.values())

    @property
    def current(self) -> str:
        """The purpose in force."""
        return self._purpose

    @contextmanager
    def purpose(self, word: str) -> Iterator[None]:
        """Everything evaluated inside this context is booked under `word`."""
        outer, self._purpose = self._purpose, word
        try:
            yield
        finally:
            self._purpose = outer

    def add(self, evaluations: int, non_finite: int = 0) -> None:
        """Book evaluations under the purpose in force."""
        self.by_purpose[self._purpose] += evaluations
        self.non_finite += non_finite

    def state_dict(self) -> dict:
        return {"by_purpose": dict(self.by_purpose), "non_finite": self.non_finite}

    def load_state_dict(self, state: dict) -> None:
        self.by_purpose = Counter(state["by_purpose"])
        self.non_finite = state["non_finite"]
