"""The space that states live on: a product of parts, each with its prior, its kernel and what networks see of it.

A state is a row (D,), the parts one after the other. On the line a kernel is a normal density, on the circle a wrapped
normal; both have one mean and one log-variance a coordinate. A label says which of several pieces the rest of the state
lies in, a condition what the density of the rest depends on, and no kernel moves either. Only the space knows where a
part begins: everything else goes through `pieces`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)
MAX_CIRCLE_STD = 3.5
"""Largest spread (radians) of a wrapped normal. Its density then differs from uniform by 0.4 %."""
HARMONICS = 4
"""Multiples of an angle that networks see. Without the third a network that sees 65 other numbers does not find the
three wells of a methyl rotor at all: the largest single error of a first version, 0.8 of its 1.2 nats."""
FREQUENCY_RANGE = 5.0
"""Line coordinates, standardised, are taken to lie within this of 0: the lowest frequency has half a period there."""
_IMAGES = 3  # the nearest image left out is 7 pi away: 6.2 spreads of MAX_CIRCLE_STD, a relative error below 1e-7


@dataclass(frozen=True)
class Coordinate:
    """What a coordinate is, for networks and for people.

    kind : "bond", "angle", "torsion", "relative torsion", or "number" for one without a meaning
    atoms : their indices, in the order in which the coordinate is measured between them; name : readable
    """

    name: str = ""
    kind: str = "number"
    atoms: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part(ABC):
    """`dim` coordinates of one nature; x stands for (..., dim)."""

    dim: int
    max_std = math.inf  # largest spread of a kernel whose density is exact

    @property
    @abstractmethod
    def prior_norm(self) -> float:
        """Minus the constant of log p_0."""

    @abstractmethod
    def prior_energy(self, x: Tensor) -> Tensor | float:
        """-log p_0(x) without its constant, (...)."""

    @abstractmethod
    def prior_score(self, x: Tensor) -> Tensor:
        """grad log p_0(x), the shape of x."""

    @abstractmethod
    def sample_prior(self, n: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(n, dim) draws of p_0."""

    @abstractmethod
    def log_kernel(self, delta: Tensor, log_var: Tensor) -> Tensor:
        """Log density (...) of the kernels at distance `delta` from their means, summed over coordinates."""

    @abstractmethod
    def wrap(self, x: Tensor) -> Tensor:
        """x brought to where it is represented."""

    @abstractmethod
    def features(self, x: Tensor, frequencies: int) -> Tensor:
        """What networks see, (..., n_features(frequencies))."""

    @abstractmethod
    def n_features(self, frequencies: int) -> int: ...


@dataclass(frozen=True)
class Line(Part):
    """R^dim: normal kernels, prior N(0, 1). Networks see the numbers, and sines and cosines of
    pi k x / (2 FREQUENCY_RANGE), k = 1..frequencies: an MLP finds narrow wells hard to see in a bare number (Tancik et
    al. 2020)."""

    @property
    def prior_norm(self) -> float:
        return 0.5 * self.dim * LOG_2PI

    def prior_energy(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(-1)

    def prior_score(self, x: Tensor) -> Tensor:
        return -x

    def sample_prior(self, n: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.randn(n, self.dim, generator=generator, dtype=dtype, device=device)

    def log_kernel(self, delta: Tensor, log_var: Tensor) -> Tensor:
        return -0.5 * (delta.square() * (-log_var).exp() + log_var + LOG_2PI).sum(-1)

    def wrap(self, x: Tensor) -> Tensor:
        return x

    def features(self, x: Tensor, frequencies: int) -> Tensor:
        if not frequencies:
            return x
        angle = (0.5 * math.pi / FREQUENCY_RANGE) * x
        multiples = torch.cat([k * angle for k in range(1, frequencies + 1)], dim=-1)
        return torch.cat([x, multiples.sin(), multiples.cos()], dim=-1)

    def n_features(self, frequencies: int) -> int:
        return (1 + 2 * frequencies) * self.dim


@dataclass(frozen=True)
class Circle(Part):
    """T^dim, angles in radians kept in [-pi, pi): wrapped normal kernels, uniform prior. Networks see HARMONICS sines
    and cosines of every angle, without a seam at +-pi."""

    max_std = MAX_CIRCLE_STD

    @property
    def prior_norm(self) -> float:
        return self.dim * LOG_2PI

    def prior_energy(self, x: Tensor) -> float:
        return 0.0

    def prior_score(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def sample_prior(self, n: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        turns = torch.rand(n, self.dim, generator=generator, dtype=dtype, device=device)
        return (2.0 * turns - 1.0) * math.pi

    def log_kernel(self, delta: Tensor, log_var: Tensor) -> Tensor:
        return log_wrapped_normal(delta, log_var).sum(-1)

    def wrap(self, x: Tensor) -> Tensor:
        return wrap_angle(x)

    def features(self, x: Tensor, frequencies: int) -> Tensor:
        multiples = torch.cat([k * x for k in range(1, HARMONICS + 1)], dim=-1)
        return torch.cat([multiples.sin(), multiples.cos()], dim=-1)

    def n_features(self, frequencies: int) -> int:
        return 2 * HARMONICS * self.dim


@dataclass(frozen=True)
class Label(Part):
    """{0, ..., choices - 1}^dim, kept as whole numbers among the other coordinates: counting measure, uniform prior. A
    kernel stays where it is, with probability one. Networks see one number a choice, 1 for the one taken and 0 for the
    others."""

    choices: int = 1
    max_std = 0.0

    @property
    def prior_norm(self) -> float:
        return self.dim * math.log(self.choices)

    def prior_energy(self, x: Tensor) -> float:
        return 0.0

    def prior_score(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def sample_prior(self, n: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.randint(self.choices, (n, self.dim), generator=generator, device=device).to(dtype)

    def log_kernel(self, delta: Tensor, log_var: Tensor) -> Tensor:
        return torch.where((delta == 0).all(-1), 0.0, -torch.inf).to(delta)

    def wrap(self, x: Tensor) -> Tensor:
        return x

    def features(self, x: Tensor, frequencies: int) -> Tensor:
        return self.one_hot(x).flatten(-2)

    def n_features(self, frequencies: int) -> int:
        return self.choices * self.dim

    def one_hot(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim, choices): 1 at the choice that is taken, 0 elsewhere."""
        return (x[..., None] == torch.arange(self.choices, device=x.device)).to(x)


@dataclass(frozen=True)
class Condition(Part):
    """Numbers that are given: log R(z; c) is the density of the rest of the state, z, for each c. Every density here is
    one given c, so that c itself counts nothing; a kernel stays where it is, with probability one. Networks see the
    numbers standardised, and bent to stay within FREQUENCY_RANGE: a pixel that is hardly ever on is far out when it is.

    values : (M, dim) conditions to train on, from which `sample_prior` draws
    """

    values: Tensor = field(compare=False, repr=False)
    max_std = 0.0

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != self.dim or not len(self.values):
            raise ValueError(f"conditions have shape {tuple(self.values.shape)}; expected (M, {self.dim})")

    @property
    def prior_norm(self) -> float:
        return 0.0

    def prior_energy(self, x: Tensor) -> float:
        return 0.0

    def prior_score(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def sample_prior(self, n: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
        picked = torch.randint(len(self.values), (n,), generator=generator, device=device)
        return self.values.to(device, dtype)[picked]

    def log_kernel(self, delta: Tensor, log_var: Tensor) -> Tensor:
        return torch.where((delta == 0).all(-1), 0.0, -torch.inf).to(delta)

    def wrap(self, x: Tensor) -> Tensor:
        return x

    def features(self, x: Tensor, frequencies: int) -> Tensor:
        mean, spread = self._standard
        return FREQUENCY_RANGE * torch.tanh((x - mean.to(x)) / (FREQUENCY_RANGE * spread.to(x)))

    def n_features(self, frequencies: int) -> int:
        return self.dim

    @cached_property
    def _standard(self) -> tuple[Tensor, Tensor]:
        """Mean and spread (dim,) of the values; a number that is the same in all of them has spread 1."""
        spread = self.values.std(0, correction=0)
        return self.values.mean(0), torch.where(spread > 0.0, spread, 1.0)


@dataclass(frozen=True)
class Space:
    """The product of `parts`, in their order.

    table : what each coordinate is; left out, numbers
    """

    parts: tuple[Part, ...]
    table: tuple[Coordinate, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.table:
            object.__setattr__(self, "table", (Coordinate(),) * self.dim)
        if len(self.table) != self.dim:
            raise ValueError(f"a table of {len(self.table)} coordinates does not describe {self.dim}")

    @classmethod
    def of(cls, n_line: int, n_circle: int = 0, table: Sequence[Coordinate] = (), choices: int = 0) -> Space:
        """R^n_line x T^n_circle, and a label of so many `choices` behind them; a part without coordinates is left
        out."""
        parts = (Line(n_line), Circle(n_circle), Label(int(choices > 0), choices))
        return cls(tuple(part for part in parts if part.dim), tuple(table))

    @property
    def dim(self) -> int:
        return sum(part.dim for part in self.parts)

    @property
    def max_std(self) -> Tensor:
        """(D,) float32, the largest spread of each coordinate's kernel."""
        return torch.cat([torch.full((part.dim,), part.max_std) for part in self.parts])

    def count(self, kind: type[Part]) -> int:
        """Number of coordinates in parts of that kind."""
        return sum(part.dim for part in self.parts if isinstance(part, kind))

    def only(self, *kinds: type[Part]) -> Space:
        """The product of the parts of these kinds."""
        kept = [entry for part, rows in self.columns() if isinstance(part, kinds) for entry in self.table[rows]]
        return Space(tuple(part for part in self.parts if isinstance(part, kinds)), tuple(kept))

    def mask(self, kind: type[Part]) -> Tensor:
        """(D,) bool, the coordinates of parts of that kind."""
        return torch.cat([torch.full((part.dim,), isinstance(part, kind)) for part in self.parts])

    @property
    def conditional(self) -> bool:
        """Whether states hold a condition."""
        return self.count(Condition) > 0

    def condition_of(self, x: Tensor) -> Tensor:
        """The condition (..., K) in states (..., D); K = 0 where there is none."""
        return x[..., self.mask(Condition).to(x.device)]

    def with_condition(self, x: Tensor, condition: Tensor) -> Tensor:
        """States x (..., D) with the condition (..., K) in the place of theirs."""
        x = x.clone()
        x[..., self.mask(Condition).to(x.device)] = condition.to(x)
        return x

    def draw_conditions(self, n: int, alike: int, generator: torch.Generator) -> Tensor | None:
        """(n, K) conditions to train on, `alike` rows in a row sharing each; None where there is none."""
        if not self.conditional:
            return None
        drawn = self.only(Condition).sample_prior(-(-n // alike), generator)
        return drawn.repeat_interleave(alike, 0)[:n]

    def by_condition(self, x: Tensor) -> Tensor | None:
        """(B,) index of the condition of each state x (B, D), alike for equal ones; None where there is none."""
        return self.condition_of(x).unique(dim=0, return_inverse=True)[1] if self.conditional else None

    def columns(self) -> Iterator[tuple[Part, slice]]:
        """Each part with the slice of the coordinates that are its own."""
        start = 0
        for part in self.parts:
            yield part, slice(start, start + part.dim)
            start += part.dim

    def pieces(self, *tensors: Tensor) -> Iterator[tuple[Part, *tuple[Tensor, ...]]]:
        """Each part with its columns of the tensors (..., D)."""
        for part, own in self.columns():
            yield part, *(tensor[..., own] for tensor in tensors)

    def wrap(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) with every angle in [-pi, pi)."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Line):
            return x
        return torch.cat([part.wrap(own) for part, own in self.pieces(x)], dim=-1)

    def features(self, x: Tensor, frequencies: int = 0) -> Tensor:
        """(..., D) -> (..., n_features): what networks see."""
        seen = [part.features(own, frequencies) for part, own in self.pieces(x)]
        return seen[0] if len(seen) == 1 else torch.cat(seen, dim=-1)

    def n_features(self, frequencies: int = 0) -> int:
        """Width of `features`."""
        return sum(part.n_features(frequencies) for part in self.parts)

    def limit_log_var(self, log_var: Tensor) -> Tensor:
        """log-variances (..., D) brought down to where the kernels' densities are exact."""
        if not self.count(Circle):
            return log_var
        return torch.minimum(log_var, 2.0 * self.max_std.to(log_var).log())

    def sample_normal(self, mean: Tensor, log_var: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from the (wrapped) normal kernels; mean, log_var (..., D) -> (..., D)."""
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return self.wrap(mean + (0.5 * log_var).exp() * noise)

    def log_normal(self, x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """Log density (...) of the (wrapped) normal kernels at x; x, mean, log_var broadcast to (..., D)."""
        delta, log_var = torch.broadcast_tensors(x - mean, log_var)
        return _total([part.log_kernel(*own) for part, *own in self.pieces(delta, log_var)], delta)

    def sample_prior(self, n: int, generator: torch.Generator, dtype=torch.float32, device=None) -> Tensor:
        """(n, D) draws of p_0: standard normal on the line, uniform on the circle, over labels and over conditions."""
        device = device or generator.device
        return torch.cat([part.sample_prior(n, generator, dtype, device) for part in self.parts], dim=-1)

    def log_prior(self, x: Tensor) -> Tensor:
        """log p_0(x), (..., D) -> (...)."""
        energy = _total([part.prior_energy(own) for part, own in self.pieces(x)], x)
        return -energy - sum(part.prior_norm for part in self.parts)

    def prior_score(self, x: Tensor) -> Tensor:
        """grad log p_0(x), (..., D)."""
        return torch.cat([part.prior_score(own) for part, own in self.pieces(x)], dim=-1)


def _total(values: list[Tensor | float], like: Tensor) -> Tensor:
    """The sum of values (...), of which numbers count for every row of `like` (..., D)."""
    total = sum(value for value in values if isinstance(value, Tensor))
    return total if isinstance(total, Tensor) else torch.zeros_like(like[..., 0])


def wrap_angle(angle: Tensor) -> Tensor:
    """Angles in radians brought into [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2.0 * math.pi) - math.pi


def log_wrapped_normal(delta: Tensor, log_var: Tensor, images: int = _IMAGES) -> Tensor:
    """Elementwise log density of a wrapped normal at distance `delta` (radians) from its mean.

    A sum over the nearest image and `images` more on both sides: with three, good to 1e-6 for every spread up to
    MAX_CIRCLE_STD, with one for spreads up to 1.4 rad. The images are summed relative to the nearest one, so that
    narrow kernels do not underflow.
    """
    delta = wrap_angle(delta)
    precision = (-log_var).exp()
    others = torch.zeros_like(delta)
    for k in range(1, images + 1):
        shift = 2.0 * math.pi * k
        # (delta + shift)^2 - delta^2 = shift (shift + 2 delta), and the same on the other side
        others = others + (-0.5 * precision * shift * (shift + 2.0 * delta)).exp()
        others = others + (-0.5 * precision * shift * (shift - 2.0 * delta)).exp()
    return -0.5 * (delta.square() * precision + log_var + LOG_2PI) + torch.log1p(others)
