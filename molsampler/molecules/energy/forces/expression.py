"""OpenMM's expression language (Lepton) translated into torch: text in, a torch.fx module out.

An expression is a formula, followed by definitions of the names in it: "k*x^2; x=r-r0; k=5". A definition sees the ones
to its right. Numbers are folded at translation time, equal subexpressions are computed once, small integer powers
become products, and divisions products with as few different reciprocals as possible (a division costs as much as ten
products): what runs is straight-line arithmetic that a compiler can fuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from itertools import chain

import torch
from torch import Tensor, fx, nn

from molsampler.molecules.energy.forces.branches import Branches
from molsampler.molecules.energy.forces.term import UnsupportedForce

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z_][A-Za-z0-9_]*)|(.))")
Node = fx.Node | float


def _step(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, 0.0).to(x.dtype)


def _delta(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1.0, 0.0).to(x.dtype)


def _fold(function: Callable[..., Tensor], *args: float) -> float:
    return float(function(*(torch.tensor(a, dtype=torch.float64) for a in args)))


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrt": torch.sqrt, "exp": torch.exp, "log": torch.log, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan,
    "asin": torch.asin, "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh,
    "tanh": torch.tanh, "erf": torch.erf, "erfc": torch.erfc, "abs": torch.abs, "floor": torch.floor,
    "ceil": torch.ceil, "step": _step, "delta": _delta,
}  # fmt: skip


class _Translator:
    """Recursive descent over one formula; `names` maps what it may refer to."""

    def __init__(
        self,
        graph: fx.Graph,
        names: dict[str, Node],
        tables: dict[str, str],
        seen: dict[tuple, fx.Node],
        positive: list[fx.Node],
        text: str,
    ) -> None:
        self.graph, self.names, self.tables, self.text = graph, names, tables, text.strip()
        self.tokens = [m.groups() for m in _TOKEN.finditer(self.text) if any(m.groups())]
        self.at = 0
        self.seen = seen
        self.branches = Branches(graph, self.call, positive)

    def formula(self) -> Node:
        value = self.sum()
        if self.at != len(self.tokens):
            raise UnsupportedForce(f"expression '{self.text}': unexpected '{self.peek()}'")
        return value

    def peek(self) -> str | None:
        return self.tokens[self.at][2] if self.at < len(self.tokens) else None

    def take(self, symbol: str) -> bool:
        if self.peek() == symbol:
            self.at += 1
            return True
        return False

    def expect(self, symbol: str) -> None:
        if not self.take(symbol):
            raise UnsupportedForce(f"expression '{self.text}': '{symbol}' is missing")

    def call(self, function: Callable[..., Tensor], *args: Node) -> Node:
        if not any(isinstance(a, fx.Node) for a in args):
            return _fold(function, *args)
        key = (function, args)
        if key not in self.seen:
            self.seen[key] = self.graph.call_function(function, args)
        return self.seen[key]

    def sum(self) -> Node:
        value = self.product()
        while self.peek() in ("+", "-"):
            function = torch.add if self.take("+") else (self.expect("-"), torch.sub)[1]
            value = self.arithmetic(function, value, self.product())
        return value

    def product(self) -> Node:
        value = self.negation()
        while self.peek() in ("*", "/"):
            function = torch.mul if self.take("*") else (self.expect("/"), torch.div)[1]
            value = self.arithmetic(function, value, self.negation())
        return value

    def arithmetic(self, function: Callable[..., Tensor], a: Node, b: Node) -> Node:
        if isinstance(a, float) and isinstance(b, float):
            return _fold(function, a, b)
        if function is torch.div:
            return self.arithmetic(torch.mul, a, self.reciprocal(b))
        if function is torch.mul and 1.0 in (a, b):
            return b if a == 1.0 else a
        if isinstance(a, float):  # torch's functions want the tensor first
            if function is torch.sub:
                return self.call(torch.rsub, b, a)
            a, b = b, a
        return self.call(function, a, b)

    def reciprocal(self, x: Node) -> Node:
        """1/x, from reciprocals that are there already where x is a power, a multiple or a root."""
        if isinstance(x, float):
            return 1.0 / x
        if (torch.reciprocal, (x,)) in self.seen:
            return self.seen[torch.reciprocal, (x,)]
        if x.target is torch.mul and x.args[0] is x.args[1]:
            inverse = self.reciprocal(x.args[0])
            return self.call(torch.mul, inverse, inverse)
        if x.target is torch.mul and isinstance(x.args[1], float):
            return self.arithmetic(torch.mul, self.reciprocal(x.args[0]), 1.0 / x.args[1])
        if x.target is torch.sqrt:
            return self.call(torch.rsqrt, x.args[0])
        return self.call(torch.reciprocal, x)

    def negation(self) -> Node:
        if self.take("-"):
            return self.arithmetic(torch.mul, self.negation(), -1.0)
        self.take("+")
        return self.power()

    def power(self) -> Node:
        base = self.atom()
        if not self.take("^"):
            return base
        exponent = self.negation()  # right associative; binds tighter than a minus in front of the base
        return self.raised(base, exponent)

    def raised(self, base: Node, exponent: Node) -> Node:
        if isinstance(base, float) and isinstance(exponent, float):
            return math.pow(base, exponent)
        if isinstance(exponent, float) and exponent == int(exponent) and 1 <= abs(exponent) <= 16:
            return self.whole_power(base if exponent > 0 else self.reciprocal(base), int(abs(exponent)))
        if isinstance(exponent, float) and exponent == 0.5:
            return self.call(torch.sqrt, base)
        if isinstance(base, float):  # b^x = exp(x log b)
            return self.call(torch.exp, self.arithmetic(torch.mul, exponent, math.log(base)))
        return self.call(torch.pow, base, exponent)

    def whole_power(self, base: Node, n: int) -> Node:
        if n == 1:
            return base
        half = self.whole_power(base, n // 2)
        square = self.call(torch.mul, half, half)
        return square if n % 2 == 0 else self.call(torch.mul, square, base)

    def atom(self) -> Node:
        """A number, a name, a call of a function, or an expression in parentheses."""
        if self.take("("):
            value = self.sum()
            self.expect(")")
            return value
        if self.at >= len(self.tokens):
            raise UnsupportedForce(f"expression '{self.text}' ends too early")
        number, name, symbol = self.tokens[self.at]
        self.at += 1
        if number is not None:
            return float(number)
        if name is None:
            raise UnsupportedForce(f"expression '{self.text}': unexpected '{symbol}'")
        if self.take("("):
            args = [self.sum()]
            while self.take(","):
                args.append(self.sum())
            self.expect(")")
            return self.function(name, args)
        if name not in self.names:
            raise UnsupportedForce(f"expression '{self.text}': unknown name '{name}'")
        return self.names[name]

    def function(self, name: str, args: list[Node]) -> Node:
        """The node of a call: a tabulated function of the force, or one that OpenMM's expressions have."""
        if name in self.tables:
            return self.graph.call_module(self.tables[name], tuple(args))
        if name in _UNARY and len(args) == 1:
            return self.call(_UNARY[name], *args)
        if name in ("square", "cube") and len(args) == 1:
            return self.raised(args[0], 2.0 if name == "square" else 3.0)
        if name == "recip" and len(args) == 1:
            return self.arithmetic(torch.div, 1.0, args[0])
        if name in ("sec", "csc", "cot") and len(args) == 1:
            inverse = {"sec": torch.cos, "csc": torch.sin, "cot": torch.tan}[name]
            return self.arithmetic(torch.div, 1.0, self.call(inverse, args[0]))
        if name in ("min", "max") and len(args) == 2:
            return self.extremum(name, *args)
        if name == "atan2" and len(args) == 2:
            return self.call(torch.atan2, *map(self.as_node, args))
        if name == "select" and len(args) == 3:
            return self.select(*args)
        raise UnsupportedForce(f"expression '{self.text}': unknown function '{name}' of {len(args)} arguments")

    def extremum(self, name: str, a: Node, b: Node) -> Node:
        if isinstance(a, float) and isinstance(b, float):
            return max(a, b) if name == "max" else min(a, b)
        if isinstance(a, float):
            a, b = b, a
        if isinstance(b, float):
            return self.call(torch.clamp_min if name == "max" else torch.clamp_max, a, b)
        return self.call(torch.maximum if name == "max" else torch.minimum, a, b)

    def select(self, condition: Node, then: Node, otherwise: Node) -> Node:
        if isinstance(condition, float):
            return then if condition != 0.0 else otherwise
        if condition.target is _step:
            chosen = self.call(torch.ge, condition.args[0], 0.0)
        else:
            chosen = self.call(torch.ne, condition, 0.0)
        return self.branches.select(chosen, then, otherwise)

    def as_node(self, value: Node) -> Node:
        if isinstance(value, fx.Node):
            return value
        anything = next((n for n in self.names.values() if isinstance(n, fx.Node)), None)
        if anything is None:
            raise UnsupportedForce(f"expression '{self.text}' has no variable")
        return self.call(torch.full_like, anything, value)


def _value(names: dict[str, Node], formula: Callable[[str], Node], text: str) -> Node:
    """The value of a whole expression, by what `formula` makes of its parts; the names that it defines join `names`."""
    first, *definitions = [part for part in text.split(";") if part.strip()]
    for part in reversed(definitions):
        name, equals, body = part.partition("=")
        if not equals:
            raise UnsupportedForce(f"expression '{text}': '{part.strip()}' is no definition")
        names[name.strip()] = formula(body)
    return formula(first)


def translate(
    text: str,
    variables: list[str],
    constants: dict[str, float] | None = None,
    tables: dict[str, nn.Module] | None = None,
    inverses: dict[str, str] | None = None,
    positive: Collection[str] = (),
) -> fx.GraphModule:
    """A module that takes the `variables` (tensors that broadcast against each other), in order, and returns the value.

    inverses : variables greater than zero whose reciprocal is at hand, and the variable that holds it
    positive : other variables that are greater than zero, whatever the conformation
    constants : names with fixed values (OpenMM's global parameters); tables : tabulated functions by name
    Raises UnsupportedForce for a name, function or syntax that it does not know, and for constants that are divided by
    zero, or otherwise no number.
    """
    graph = fx.Graph()
    # A prefix: "or", the offset radius of the Amber models, is a keyword of Python.
    names: dict[str, Node] = {name: graph.placeholder(f"in_{name}".replace(" ", "_")) for name in variables}
    names.update(constants or {})
    seen = {  # calls that are in the graph, by function and arguments
        (torch.reciprocal, (names[name],)): names[inverse] for name, inverse in (inverses or {}).items()
    }
    root = nn.ModuleDict({f"table_{name}": table for name, table in (tables or {}).items()})
    table_names = {name: f"table_{name}" for name in tables or {}}
    above_zero = [names[name] for name in (*positive, *chain(*(inverses or {}).items()))]

    def formula(part: str) -> Node:
        return _Translator(graph, names, table_names, seen, above_zero, part).formula()

    try:
        value = _value(names, formula, text)
    except (ArithmeticError, ValueError) as error:  # Python's own words for a constant that is no number
        raise UnsupportedForce(
            f"expression '{text}': its constants {constants or {}} give no number ({error})"
        ) from error
    if isinstance(value, float):
        anything = graph.find_nodes(op="placeholder")[0]
        value = graph.call_function(torch.full_like, (anything, value))
    graph.output(value)
    module = fx.GraphModule(root, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
