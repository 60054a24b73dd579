"""Densities whose normalisation and samples are known: what the sampler is tested against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from molsampler.basis.space import Circle, Label, Line, Space
from molsampler.targets.target import Target


def log_von_mises(delta: Tensor, kappa: float) -> Tensor:
    """Normalised log density at angle `delta` from the mean."""
    return kappa * (delta.cos() - 1.0) - math.log(2.0 * math.pi) - float(torch.special.i0e(torch.tensor(kappa)).log())


def sample_von_mises(kappa: float, n: int, generator: torch.Generator) -> Tensor:
    """(n,) float64 angles about 0, by inverting the cumulative density on a fine grid."""
    grid = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)
    density = log_von_mises(grid, kappa).exp()
    mass = torch.cat([torch.zeros(1), 0.5 * (density[1:] + density[:-1])]).double().cumsum(0)
    u = torch.rand(n, generator=generator, dtype=torch.float64) * mass[-1]
    right = torch.searchsorted(mass, u).clamp(1, len(grid) - 1)
    share = (u - mass[right - 1]) / (mass[right] - mass[right - 1])
    return grid[right - 1] + share * (grid[right] - grid[right - 1])


class Gaussian(Target):
    """Z N(mean, diag std^2) on the line, times uniform angles."""

    def __init__(self, mean: Tensor, std: Tensor, n_circle: int = 0, log_z: float = 0.0) -> None:
        super().__init__()
        self.mean, self.std, self.log_z = mean, std, log_z
        self.space = Space.of(len(mean), n_circle)

    def log_prob(self, x: Tensor) -> Tensor:
        line = x[..., : self.space.count(Line)]
        log_p = -0.5 * ((line - self.mean) / self.std).square().sum(-1) - self.std.log().sum()
        return log_p + self.log_z - (0.5 * self.space.count(Line) + self.space.count(Circle)) * math.log(2.0 * math.pi)

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        x = self.space.sample_prior(n, generator, dtype=self.mean.dtype)
        x[:, : self.space.count(Line)] = self.mean + self.std * x[:, : self.space.count(Line)]
        return x


class TwoWells(Target):
    """On R x T: a mixture of two wells, N(line) times von Mises(angle), of weights 0.7 and 0.3; with `wall`, R = 0
    where the line coordinate is below it."""

    share = (0.7, 0.3)
    centre = ((-0.8, -1.4), (0.9, 2.6))
    spread = ((0.6, 2.0), (0.5, 3.0))

    def __init__(self, log_z: float = 0.0, wall: float = -math.inf) -> None:
        super().__init__()
        self.scale, self.wall = log_z, wall
        self.space = Space.of(1, 1)
        kept = [
            share * 0.5 * math.erfc((wall - m) / (s * math.sqrt(2.0)))
            for share, (m, _), (s, _) in zip(self.share, self.centre, self.spread, strict=True)
        ]
        self.log_z = log_z + math.log(sum(kept))

    def log_prob(self, x: Tensor) -> Tensor:
        wells = [
            math.log(share)
            - 0.5 * ((x[..., 0] - m) / s).square()
            - math.log(s * math.sqrt(2.0 * math.pi))
            + log_von_mises(x[..., 1] - mu, kappa)
            for share, (m, mu), (s, kappa) in zip(self.share, self.centre, self.spread, strict=True)
        ]
        log_r = self.scale + torch.logsumexp(torch.stack(wells), 0)
        return torch.where(x[..., 0] >= self.wall, log_r, -torch.inf)

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        drawn: list[Tensor] = []
        while sum(map(len, drawn)) < n:
            second = torch.rand(n, generator=generator) < self.share[1]
            noise = torch.randn(n, generator=generator)
            wells = []
            for (m, mu), (s, kappa) in zip(self.centre, self.spread, strict=True):
                wells.append(torch.stack([m + s * noise, mu + sample_von_mises(kappa, n, generator).float()], 1))
            x = self.space.wrap(torch.where(second[:, None], wells[1], wells[0]))
            drawn.append(x[x[:, 0] >= self.wall])
        return torch.cat(drawn)[:n]


class Skewed(Target):
    """On R x T: log R = a x - exp(x) + kappa cos(angle - x), so exp(x) is Gamma(a) and the angle follows x around."""

    def __init__(self, a: float = 2.0, kappa: float = 2.0) -> None:
        super().__init__()
        self.a, self.kappa = a, kappa
        self.space = Space.of(1, 1)
        bessel = kappa + float(torch.special.i0e(torch.tensor(kappa, dtype=torch.float64)).log())
        self.log_z = math.lgamma(a) + math.log(2.0 * math.pi) + bessel

    def log_prob(self, x: Tensor) -> Tensor:
        return self.a * x[..., 0] - x[..., 0].exp() + self.kappa * (x[..., 1] - x[..., 0]).cos()

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """For whole a: a sum of exponential variables."""
        uniform = torch.rand(n, int(self.a), generator=generator, dtype=torch.float64)
        line = (-uniform.log()).sum(1).log()
        angle = line + sample_von_mises(self.kappa, n, generator)
        return self.space.wrap(torch.stack([line, angle], 1)).float()


class Labelled(Target):
    """On R x T x {0, 1, 2}: pieces of weights 0.75, 0.2 and 0.05, in each a normal density times von Mises'."""

    share = (0.75, 0.2, 0.05)
    centre = ((-0.5, -1.4), (0.6, 2.6), (0.0, 0.5))
    spread = ((0.8, 2.0), (1.1, 3.0), (0.7, 1.0))

    def __init__(self, log_z: float = 0.0) -> None:
        super().__init__()
        self.log_z = log_z
        self.space = Space.of(1, 1, choices=len(self.share))

    def log_prob(self, x: Tensor) -> Tensor:
        pieces = [
            self.log_z
            + math.log(share)
            - 0.5 * ((x[..., 0] - m) / s).square()
            - math.log(s * math.sqrt(2.0 * math.pi))
            + log_von_mises(x[..., 1] - mu, kappa)
            for share, (m, mu), (s, kappa) in zip(self.share, self.centre, self.spread, strict=True)
        ]
        return torch.stack(pieces, -1).gather(-1, x[..., 2:].long())[..., 0]

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        label = torch.multinomial(torch.tensor(self.share), n, replacement=True, generator=generator)
        noise = torch.randn(n, generator=generator)
        x = torch.empty(n, 3)
        for k, ((m, mu), (s, kappa)) in enumerate(zip(self.centre, self.spread, strict=True)):
            own = torch.stack([m + s * noise, mu + sample_von_mises(kappa, n, generator).float()], 1)
            x[:, :2] = torch.where((label == k)[:, None], own, x[:, :2])
        x[:, 2] = label.float()
        return self.space.wrap(x)

    def piece_shares(self, x: Tensor) -> Tensor:
        """(B, 3), 1 at the piece of each state."""
        return self.space.only(Label).features(x[:, 2:])
