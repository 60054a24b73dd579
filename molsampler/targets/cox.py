"""A log-Gaussian Cox process on a grid: a posterior of moderate dimension, unimodal, correlated and skewed.

Moeller, Syversveen and Waagepetersen, "Log Gaussian Cox processes" (Scandinavian Journal of Statistics 25, 1998), with
the grid of Heng et al., "Controlled sequential Monte Carlo" (Annals of Statistics 48, 2020), on which the literature on
samplers builds. There the counts are those of 126 pine saplings on a 40 x 40 grid (`pines.py`); here they were drawn
once from the model itself.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.basis.space import LOG_2PI
from molsampler.targets.synthetic_target import SyntheticTarget

VARIANCE = 1.91
LENGTH = 1.0 / 33.0  # of the unit square
MEAN = math.log(126.0) - 0.5 * VARIANCE
SWEEPS = 8
SEED = 0
SIDE = 16
# what draw_counts(16, 0) gives, row by row: data, not to change with a random generator
COUNTS = """
0000000024022000 0000000010000100 0000000000030000 0010072000000131
0010020000020114 0000011002000011 0102010000200701 0030010000001010
0000000010000000 0000000000000000 1100030000020000 0011010023000000
0000010000000001 0000100010006131 0040000000000400 0000001100000100
"""
LOG_Z, LOG_Z_ERROR = 447.433, 0.002
"""`CoxProcess().estimate_log_z(torch.Generator().manual_seed(1), 1_000_000)`, which takes some minutes."""
_NODES, _NODE_WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(24))


class CoxProcess(SyntheticTarget):
    """The log-intensity x of every cell of a grid on the unit square, given the number of points in it.

    Prior N(MEAN, K) with K_ij = VARIANCE exp(-|i - j| / (side LENGTH)), |i - j| between cells of the grid; likelihood
    prod_i exp(x_i y_i - exp(x_i) / D), whose factorials are left out, as in the literature.

    counts : (side, side) whole numbers; left out, those of the 16 x 16 grid, the only ones for which log_z is set
    prior_cholesky : (D, D) lower triangular, K = L L^T: `Affine(target, target.centre, target.prior_cholesky)` is the
        whitened process, with N(0, I) for its prior
    """

    def __init__(self, counts: Tensor | None = None) -> None:
        standard = counts is None
        if standard:
            counts = grid(COUNTS)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or bool((counts < 0).any()):
            raise InputError(f"counts have shape {tuple(counts.shape)}; give a square grid of numbers from 0 on")
        side = len(counts)
        super().__init__(
            f"cox-{side}", torch.full((side**2,), MEAN, dtype=torch.float64), math.sqrt(VARIANCE), limits=(-2.0, 9.0)
        )
        self.counts = counts.double().flatten()
        self.prior_cholesky = prior_cholesky(side)
        self._log_norm = float(self.prior_cholesky.diagonal().log().sum()) + 0.5 * self.space.dim * LOG_2PI
        if standard:
            self.log_z, self.log_z_error = LOG_Z, LOG_Z_ERROR

    @property
    def first_scale(self) -> Tensor:
        """The prior's: its correlations are known beforehand."""
        return self.prior_cholesky

    def log_prob(self, x: Tensor) -> Tensor:
        """log R (B,) of x (B, D)."""
        white = torch.linalg.solve_triangular(self.prior_cholesky.to(x), (x - MEAN).T, upper=False)
        log_likelihood = x @ self.counts.to(x) - x.exp().sum(-1) / self.space.dim
        return log_likelihood - 0.5 * white.square().sum(0) - self._log_norm

    def weighted(self, generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
        """(n, D) float64 draws and their log-weights (n,) for R, by sequential imputation.

        Kong, Liu and Wong (JASA 89, 1994): each cell is drawn from its exact conditional given the cells before it and
        its own count; the weight is the product of the integrals of these conditionals. ESS 19 % on the 16 x 16 grid.
        """
        device = generator.device
        factor, counts = self.prior_cholesky.to(device), self.counts.tolist()
        white = torch.zeros(n, self.space.dim, dtype=torch.float64, device=device)
        log_w = torch.zeros(n, dtype=torch.float64, device=device)
        for i, spread in enumerate(factor.diagonal().tolist()):
            cell = _Cell(MEAN + white[:, :i] @ factor[i, :i], spread**2, counts[i], 1.0 / self.space.dim)
            log_w += cell.log_integral()
            white[:, i] = (cell.sample(generator) - cell.mean) / spread
        return MEAN + white @ factor.T, log_w

    def estimate_log_z(self, generator: torch.Generator, n: int) -> tuple[float, float]:
        """log Z and its standard error from n draws of `weighted`."""
        weights = LogWeights(
            torch.cat([self.weighted(generator, len(part))[1] for part in torch.arange(n).split(20_000)])
        )
        return weights.log_mean, weights.log_mean_stderr

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) float64 independent samples on the generator's device.

        Each is the end of a Gibbs chain of its own: SWEEPS passes over all cells with exact draws, begun at a draw of
        the prior. Neighbours are correlated by 0.13 only: on the prior itself a sweep brings the mean 3.9 times closer
        (the spectral radius of Gauss-Seidel is 0.257), on the posterior, where every cell has a count of its own, more.
        Eight sweeps leave 2e-5 of the start, and no n in use can tell that from nothing.
        """
        device, dim = generator.device, self.space.dim
        precision = torch.cholesky_inverse(self.prior_cholesky)
        variances, counts, precision = (1.0 / precision.diagonal()).tolist(), self.counts.tolist(), precision.to(device)
        white = torch.randn(dim, n, generator=generator, dtype=torch.float64, device=device)
        shifted = self.prior_cholesky.to(device) @ white  # x - MEAN, cells first
        for _ in range(SWEEPS):
            for i, variance in enumerate(variances):
                mean = MEAN + shifted[i] - variance * (precision[i] @ shifted)
                shifted[i] = _Cell(mean, variance, counts[i], 1.0 / dim).sample(generator) - MEAN
        return MEAN + shifted.T.contiguous()


class _Cell:
    """The density N(x; mean, variance) exp(count x - area exp(x)) of one cell, for many means (n,) at once."""

    def __init__(self, mean: Tensor, variance: float, count: float, area: float) -> None:
        self.mean, self.variance, self.count, self.area = mean, variance, count, area
        # the top solves c + variance area exp(c) = mean + variance count; convex and rising, so Newton converges
        shift, slope = mean + variance * count, variance * area
        top = torch.minimum(shift, (shift.clamp_min(1.0) / slope).log())
        for _ in range(10):
            rise = slope * top.exp()
            top = top - (top + rise - shift) / (1.0 + rise)
        self.top = top

    def log_integral(self) -> Tensor:
        """(n,) by Gauss-Hermite quadrature about the top; good to 4e-7."""
        spread = (1.0 / self.variance + self.area * self.top.exp()).rsqrt()
        nodes, weights = _NODES.to(self.mean), _NODE_WEIGHTS.to(self.mean)
        x = self.top[:, None] + spread[:, None] * nodes  # (n, nodes)
        log_density = -0.5 * (x - self.mean[:, None]).square() / self.variance + self.count * x - self.area * x.exp()
        total = torch.logsumexp(log_density + 0.5 * nodes.square() + weights.log(), -1)
        return total + spread.log() - 0.5 * (math.log(self.variance) + LOG_2PI)

    def sample(self, generator: torch.Generator) -> Tensor:
        """(n,) exact draws, by rejection from N(top, variance).

        exp(x) lies above its tangent at the top; with the tangent in its place the density is that normal.
        """
        device = self.mean.device
        x, left = torch.empty_like(self.mean), torch.arange(len(self.mean), device=device)
        while len(left):
            noise = torch.randn(len(left), generator=generator, dtype=torch.float64, device=device)
            u = torch.rand(len(left), generator=generator, dtype=torch.float64, device=device)
            step, top = math.sqrt(self.variance) * noise, self.top[left]
            taken = u.log() < -self.area * top.exp() * (torch.expm1(step) - step)
            x[left[taken]] = (top + step)[taken]
            left = left[~taken]
        return x


def prior_cholesky(side: int) -> Tensor:
    """(side^2, side^2) float64 lower Cholesky factor of the prior's covariance, cells row by row."""
    line = torch.arange(side, dtype=torch.float64)
    cells = torch.cartesian_prod(line, line)
    return torch.linalg.cholesky(VARIANCE * (-torch.cdist(cells, cells) / (side * LENGTH)).exp())


def grid(rows: str) -> Tensor:
    """(side, side) counts from rows of digits."""
    return torch.tensor([[int(digit) for digit in row] for row in rows.split()])


def draw_counts(side: int, seed: int) -> Tensor:
    """(side, side) counts of one draw from the model: log-intensities from the prior, then Poisson numbers."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(side**2, generator=generator, dtype=torch.float64)
    intensity = (MEAN + prior_cholesky(side) @ white).exp() / side**2
    return torch.poisson(intensity, generator=generator).long().reshape(side, side)
