"""What a denoiser regresses on, against the score of noised mixtures in closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch

from molsampler.basis.space import Space
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.training.objectives import ControlVariate
from tests.stochastic import assert_mean, seeded


def mixture_noised(process: NoisingProcess, x: torch.Tensor, n: int) -> torch.Tensor:
    """log p_n(x) - log p_ref(x) for the line and the circle apart, (2, B): 0.4 N(-1, 0.3^2) + 0.6 N(0.8, 0.7^2), and
    0.4 WN(-2, 0.4^2) + 0.6 WN(1, 0.6^2), independent."""
    s, sigma = process.marginal_scale[n, 0], process.marginal_std[n, 1]
    parts = []
    images = 2.0 * math.pi * torch.arange(-9, 10, dtype=torch.float64)
    for coordinate, centres, spreads in ((0, (-1.0, 0.8), (0.3, 0.7)), (1, (-2.0, 1.0), (0.4, 0.6))):
        wells = []
        for share, centre, spread in zip((0.4, 0.6), centres, spreads, strict=True):
            mean = s * centre if coordinate == 0 else torch.tensor(centre).double()
            var = s * s * spread**2 + 1.0 - s * s if coordinate == 0 else spread**2 + sigma.square()
            delta = x[:, coordinate, None] - mean
            delta = delta if coordinate == 0 else delta + images
            wells.append(math.log(share) - 0.5 * var.log() - 0.5 * delta.square() / var)
        parts.append(torch.logsumexp(torch.cat(wells, -1), -1))
    return torch.stack([parts[0] + 0.5 * x[:, 0].square(), parts[1]])


def mixture_data(n: int) -> torch.Tensor:
    generator = seeded(9)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    first = torch.rand(n, 2, generator=generator) < 0.4
    low = torch.tensor([-1.0, -2.0]) + torch.tensor([0.3, 0.4]) * noise
    high = torch.tensor([0.8, 1.0]) + torch.tensor([0.7, 0.6]) * noise
    return Space.of(1, 1).wrap(torch.where(first, low, high))


def test_regression_targets_are_unbiased_everywhere():
    """On a Gaussian mixture the plain denoising target A and the mixed one have mean f_n = grad log (p_n / p_ref), in
    every bin of x_n, and the mixed one has less noise."""
    n_steps, batch, bins = 5, 20_000, 8
    process = NoisingProcess(Space.of(1, 1), ScheduleConfig(n_steps, circle_min=0.3)).double()
    x_data = mixture_data(n_steps * batch).view(n_steps, batch, 2)
    leaf = x_data.view(-1, 2).clone().requires_grad_()
    end = SimpleNamespace(marginal_scale=torch.ones(1, 2).double(), marginal_std=torch.zeros(1, 2).double())
    log_r = mixture_noised(end, leaf, 0).sum() - 0.5 * leaf[:, 0].square().sum()
    score = torch.autograd.grad(log_r, leaf)[0].view_as(x_data)
    x = process.sample_marginal(x_data, torch.arange(n_steps), seeded(10))
    a, w = process.regression_targets(x_data, x, score, torch.arange(n_steps))
    variate = ControlVariate()
    mixed = variate.mix(a, w)
    for n in range(n_steps):
        leaf = x[n].clone().requires_grad_()
        f = torch.autograd.grad(mixture_noised(process, leaf, n).sum(), leaf)[0]
        for d in range(2):
            noise = torch.stack([a[n, :, d] - f[:, d], mixed[n, :, d] - f[:, d], a[n, :, d] + w[n, :, d] - f[:, d]], 1)
            for rows in noise[x[n, :, d].argsort()].chunk(bins):
                assert_mean(rows, 0.0, bound=5.0)  # 240 means: by chance beyond in 1e-4 of all seeds
            spread = noise.square().mean(0)
            assert float(spread[1]) <= 1.001 * float(spread[[0, 2]].min())  # the best of A, B and everything between
    r = -variate.cross / variate.square
    assert float(r.min()) > -0.01 and float(r.max()) < 1.5 and float(r.max() - r.min()) > 0.1
