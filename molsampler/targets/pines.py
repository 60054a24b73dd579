"""The log-Gaussian Cox process of the pine saplings: 40 x 40 cells, whose neighbours are correlated by 0.44.

The case of Heng et al., "Controlled sequential Monte Carlo" (Annals of Statistics 48, 2020), and of much of the
literature on samplers since. On so fine a grid neither imputation nor Gibbs sampling cell by cell gets far (`cox.py`):
log-weights scatter by 8, and a sweep over the prior leaves 0.88 of the start. The Gaussian of the highest ELBO helps.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.targets.charted import Charted
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.cox import MEAN, VARIANCE, CoxProcess, grid

# saplings in each cell of a square of 10 m, row by row: S. Kellomaki's and A. Penttinen's record of a Finnish forest,
# the data set "finpines" of spatstat (M. N. M. van Lieshout, CWI report PNA-R0404, 2004)
COUNTS = """
0010000000000000000100000000000000000001 1010000000000000000000000100000000000000
0000000000000000000000000000000000020100 0000000000001000000000000210000000000000
0000000000000000000000000000000010010000 0000001000000000000000000000000000000000
0000000211000000000000000000000000100000 0000000011000000000001010001000000100000
0000000000000000000010000000000000000000 0010000000000000000000000000010000000000
0000000000000001000000000000010000000000 0000000000000000010000000000000000000000
0011000000000000000100000000000000010000 0000010000000000000000000000000000000000
0000000010000100100000000000001000000000 0000000001000000000000000000000001000000
0100000000000000000000000100000010000000 0000100000000001000001000000010000000000
0000000000000000000000000000010000000000 0001100010000000000000000000000000000001
0000000000000000000000000000000000010000 0010010100000000000000000010000000000000
0000030131100000000000000000000001101000 0020000000000000001100000000000000000100
0000000000000000001000000000000000000001 0000000000000000000000000000000000000000
0000000000000010000000001000000000000000 0000000000000200000000000000100000000000
0000000000031000000000001000000000000000 0000000000012000100000000000001010000101
0000000000000000000000000000001100000000 0000000000000000000000000000001000100000
0000000000000000000000000020000000000000 0000000000000000000000000000000201100010
1000000000000000001000000000000100000000 0000000000000000000000000000000100100000
0000010000000000000000000000011000200000 0000010000000000000001000000000100000000
0000000010000000000000000000000000000110 0000000000000000000000000000000001000000
"""
LOG_Z, LOG_Z_ERROR = 501.765, 0.014
"""`PineSaplings().estimate_log_z(torch.Generator().manual_seed(1), 50)`, which takes some minutes."""
ANNEAL = AnnealConfig(particles=256, ess=0.8, moves=6, last_moves=1)
TRAJECTORIES, TURNS, ANGLE = 4, 3, 0.45
_NEWTON_STEPS = 60
_BLOCK = 4096


class PineSaplings(CoxProcess):
    """`CoxProcess` on a grid of any fineness: reference values by way of a Gaussian.

    counts : (side, side) whole numbers; left out, those of the saplings, the only ones for which log_z is set
    """

    def __init__(self, counts: Tensor | None = None) -> None:
        super().__init__(grid(COUNTS) if counts is None else counts)
        if counts is None:
            self.log_z, self.log_z_error = LOG_Z, LOG_Z_ERROR

    @cached_property
    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean m (D,) and covariance S (D, D), float64, of the Gaussian with the highest ELBO.

        S^-1 = K^-1 + diag(r) and K^-1 (m - MEAN) = counts - r, where r = exp(m + diag(S) / 2) / D are the numbers that
        it expects (Opper and Archambeau, Neural Computation 21, 2009): Newton's steps for m, with r as it was.
        """
        precision = torch.cholesky_inverse(self.prior_cholesky)
        mean, variance = self.centre, torch.full_like(self.centre, VARIANCE)
        for _ in range(_NEWTON_STEPS):
            expected = (mean + 0.5 * variance).exp() / self.space.dim
            covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision + expected.diag()))
            step = covariance @ (self.counts - expected - precision @ (mean - MEAN))
            moved = max(float(step.abs().max()), float((covariance.diagonal() - variance).abs().max()))
            mean, variance = mean + step, covariance.diagonal()
            if moved < 1e-8:
                return mean, covariance
        raise InputError(f"no Gaussian was found in {_NEWTON_STEPS} steps for counts up to {int(self.counts.max())}")

    def estimate_log_z(self, generator: torch.Generator, n: int) -> tuple[float, float]:
        """log Z and its standard error from n runs of annealed SMC that begin at the Gaussian.

        Its tails are too thin for importance sampling, whose weights would have no finite variance; annealing
        takes the same way in five steps.
        """
        mean, covariance = self.gaussian
        chart = Charted(self, Affine(mean, torch.linalg.cholesky(covariance)))
        found = [
            annealed_smc(chart.log_prob_and_score, chart.space, ANNEAL, generator, explore=False).log_z
            for _ in range(n)
        ]
        weights = LogWeights(torch.tensor(found, dtype=torch.float64))
        return weights.log_mean, weights.log_mean_stderr

    def sample(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) float64 independent samples on the generator's device.

        Each is the end of a Hamiltonian chain of its own, begun at a draw of the Gaussian: TRAJECTORIES of a turn by
        TURNS x ANGLE = 1.35 each, where a quarter of a circle, 1.57, forgets a Gaussian altogether. What the Gaussian
        leaves out of the saplings' log R is off by 2.5 of its spreads at the start, by 0.3 after one trajectory and by
        0.07 after two; after four nothing is left that 2,000 chains could show (0.02).
        """
        mean, covariance = (part.to(generator.device) for part in self.gaussian)
        turning = _Turning(mean, covariance)
        return torch.cat([turning.draw(generator, len(part)) for part in torch.arange(n).split(_BLOCK)])


class _Turning:
    """Hamiltonian Monte Carlo whose motion is exact for the Gaussian N(m, S): Beskos, Pinski, Sanz-Serna and Stuart,
    Stochastic Processes and their Applications 121 (2011).

    log posterior = log N(x; m, S) - sum_i rest(x_i) + c, rest(x_i) = exp(x_i) / D - r_i x_i - r_i (x_i - m_i)^2 / 2.
    Position x - m and momentum p, N(0, S) both under the Gaussian, turn into each other; the rest kicks p by -S rest'.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance = mean, covariance
        self.factor = torch.linalg.cholesky(covariance)
        self.expected = (mean + 0.5 * covariance.diagonal()).exp() / len(mean)
        self.accepted: list[float] = []

    def draw(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) ends of n chains."""
        x = self.mean + self._noise(generator, n)
        for _ in range(TRAJECTORIES):
            there, gain = self._travel(x, self._noise(generator, n))
            u = torch.rand(n, generator=generator, dtype=torch.float64, device=x.device)
            taken = u.log() < gain
            self.accepted.append(float(taken.double().mean()))
            x = torch.where(taken[:, None], there, x)
        return x

    def _travel(self, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Where trajectories from x (n, D) with momenta p (n, D) end, and the loss of energy on the way (n,).

        Turning keeps the Gaussian's energy, so that what is lost there is lost in kicks and in the rest.
        """
        away, loss = x - self.mean, self._rest(x)
        p, lost = self._kick(x, p, 0.5 * ANGLE)
        loss = loss + lost
        for k in range(TURNS):
            away, p = away * math.cos(ANGLE) + p * math.sin(ANGLE), p * math.cos(ANGLE) - away * math.sin(ANGLE)
            x = self.mean + away
            p, lost = self._kick(x, p, 0.5 * ANGLE if k == TURNS - 1 else ANGLE)
            loss = loss + lost
        return x, loss - self._rest(x)

    def _kick(self, x: Tensor, p: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """Momenta (n, D) after a kick, and the kinetic energy p S^-1 p / 2 that it takes away (n,)."""
        force = self.expected * (1.0 + x - self.mean) - x.exp() / len(self.mean)
        push = force @ self.covariance
        return p + time * push, -(time * (force * p).sum(1) + 0.5 * time**2 * (force * push).sum(1))

    def _rest(self, x: Tensor) -> Tensor:
        """(n,)"""
        away = x - self.mean
        return (x.exp() / len(self.mean) - self.expected * (x + 0.5 * away.square())).sum(1)

    def _noise(self, generator: torch.Generator, n: int) -> Tensor:
        """(n, D) draws of N(0, S)."""
        white = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64, device=generator.device)
        return white @ self.factor.T
