"""The exact reversal of the noising process for Gaussian data, as a policy with tables instead of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from molsampler.basis.space import Circle, Line
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess, Steps, rows
from tests.stochastic import seeded
from tests.targets.analytic import Gaussian


class ExactReversal(DiffusionPolicy):
    """For data N(mean, diag std^2) on the line and uniform angles, in float64.

    slope, bias, log_var : (N, D) parameters; the drift is slope x + bias with f_n = grad log (p_n / p_ref)
    marginal_mean, marginal_var : (N+1, D) of the noised data on the line, from the steps' own scale and variance
    """

    def __init__(self, target: Gaussian, schedule: ScheduleConfig) -> None:
        super().__init__(NoisingProcess(target.space, schedule), PolicyConfig(4, 1), seeded(0))
        self.double()
        scale, var = self.process.backward_scale, self.process.backward_log_var.exp()
        line = target.space.count(Line)
        means, variances = [target.mean.double()], [target.std.double().square()]
        for a, tau in zip(scale[:, :line].flip(0), var[:, :line].flip(0), strict=True):
            means.append(a * means[-1])
            variances.append(a.square() * variances[-1] + tau)
        self.marginal_mean, self.marginal_var = torch.stack(means[::-1]), torch.stack(variances[::-1])
        slope, bias = torch.zeros_like(scale), torch.zeros_like(scale)
        log_var = self.process.forward_log_var.clone()
        slope[:, :line] = 1.0 - 1.0 / self.marginal_var[:-1]
        bias[:, :line] = self.marginal_mean[:-1] / self.marginal_var[:-1]
        log_var[:, :line] += (self.marginal_var[1:] / self.marginal_var[:-1]).log()
        self.slope, self.bias, self.log_var = nn.Parameter(slope), nn.Parameter(bias), nn.Parameter(log_var)

    def drift_and_log_var(self, x: Tensor, n: Steps) -> tuple[Tensor, Tensor]:
        drift = rows(self.slope, n) * x + rows(self.bias, n)
        return drift, rows(self.log_var, n).expand_as(drift)

    def log_marginal(self, x: Tensor, n: int) -> Tensor:
        """log density (B,) of the noised data at step n."""
        line = x[..., : self.space.count(Line)]
        log_p = torch.distributions.Normal(self.marginal_mean[n], self.marginal_var[n].sqrt()).log_prob(line).sum(-1)
        return log_p - self.space.count(Circle) * torch.log(torch.tensor(2.0 * torch.pi, dtype=torch.float64))

    @torch.no_grad()
    def walk(self, n: int, generator: torch.Generator) -> Tensor:
        """States (N+1, n, D) of trajectories that start from the noised data's own density instead of the prior."""
        x = self.space.sample_prior(n, generator, dtype=torch.float64)
        line = self.space.count(Line)
        x[:, :line] = self.marginal_mean[0] + self.marginal_var[0].sqrt() * x[:, :line]
        states = [x]
        for k in range(self.process.n_steps):
            states.append(self.sample_step(states[-1], k, generator)[0])
        return torch.stack(states)
