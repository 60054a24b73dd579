"""Branches of select(condition, then, otherwise) whose gradient is that of the branch that is taken, and of no other.

torch.where gives the other branch a gradient of zero, and where that branch has an infinite derivative, zero times
infinity poisons the sum. So whatever flows back into such a branch is masked where it enters: `_then` and `_otherwise`
return what they are given, and let a gradient through on one side of the condition only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, fx

_POSITIVE_ONLY = (torch.reciprocal, torch.rsqrt, torch.sqrt, torch.log, torch.pow)
_BREAKING = (torch.exp, torch.sinh, torch.cosh, torch.tan, torch.asin, torch.acos, torch.atan2)
_COMPARISONS = (torch.ge, torch.ne)  # no gradient flows back through them


def _then(chosen: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen, x, x.detach())


def _otherwise(chosen: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen, x.detach(), x)


class Branches:
    """The branches of one graph.

    call : adds a call of a function to the graph, or finds it there
    positive : the placeholders that are greater than zero, whatever the conformation: a pair's distance, a radius. What
        is made of these alone needs no mask: the kernels of implicit solvents have none.
    """

    def __init__(self, graph: fx.Graph, call: Callable[..., fx.Node], positive: Collection[fx.Node]) -> None:
        self.graph, self.call = graph, call
        self._positive = {node: True for node in positive}
        self._breaks: dict[fx.Node, bool] = {}

    def select(self, chosen: fx.Node, then: fx.Node | float, otherwise: fx.Node | float) -> fx.Node:
        """The node of torch.where, with no gradient into the branch that is not taken."""
        return self.call(
            torch.where, chosen, self._masked(_then, chosen, then, {}), self._masked(_otherwise, chosen, otherwise, {})
        )

    def _masked(
        self, mask: Callable[..., Tensor], chosen: fx.Node, value: fx.Node | float, copies: dict[fx.Node, fx.Node]
    ) -> fx.Node | float:
        """`value`, where it can break a copy of what breaks in it, on masked arguments."""
        if not self.breaks(value):
            return value
        if value not in copies:
            arguments = [
                self._masked(mask, chosen, a, copies)
                if self.breaks(a) or not isinstance(a, fx.Node) or a.target in _COMPARISONS
                else self.call(mask, chosen, a)
                for a in value.args
            ]
            is_table = value.op == "call_module"
            make = self.graph.call_module(value.target, tuple(arguments)) if is_table else None
            copies[value] = make or self.call(value.target, *arguments)
        return copies[value]

    def breaks(self, value: fx.Node | float) -> bool:
        """Whether a gradient of zero can come out of a value as something else."""
        if not isinstance(value, fx.Node) or value.op == "placeholder" or value.target in _COMPARISONS:
            return False
        if value not in self._breaks:
            by_itself = value.target in _BREAKING or (
                value.target in _POSITIVE_ONLY and not self.positive(value.args[0])
            )
            self._breaks[value] = by_itself or any(self.breaks(a) for a in value.args)
        return self._breaks[value]

    def positive(self, value: fx.Node | float) -> bool:
        """Whether a value is known to be greater than zero."""
        if not isinstance(value, fx.Node):
            return value > 0.0
        if value not in self._positive:
            known = [self.positive(a) for a in value.args if isinstance(a, fx.Node | float)]
            one_is_enough = value.target in (torch.maximum, torch.clamp_min)
            all_needed = value.target in (torch.add, torch.mul, torch.reciprocal, torch.rsqrt, torch.sqrt)
            self._positive[value] = (one_is_enough and any(known)) or (all_needed and all(known))
        return self._positive[value]
