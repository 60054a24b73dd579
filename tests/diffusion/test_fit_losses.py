"""The policy's forward-KL loss against the exact reversal of Gaussian data: stationary there, uphill elsewhere."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.diffusion.noise import ScheduleConfig
from molsampler.training.objectives import ControlVariate
from tests.diffusion.exact import ExactReversal
from tests.stochastic import assert_mean, seeded, standard_errors
from tests.targets.analytic import Gaussian

TARGET = Gaussian(torch.tensor([0.7, -1.2]).double(), torch.tensor([0.5, 1.6]).double(), 1, 1.3)
MIXES = {
    "A": lambda: lambda a, w: a,
    "A + W": lambda: lambda a, w: a + w,
    "mixed": lambda: ControlVariate().mix,
}
"""The regression targets that an update may take: A, A + W, or the best of what lies between, which is learnt."""


def gradients(policy: ExactReversal, name: str, repeats: int = 40) -> torch.Tensor:
    """(repeats, 3, N, D): independent gradients of the denoising loss by slope, bias and log-variance of every step."""
    mix, generator, found = MIXES[name](), seeded(11), []
    for _ in range(repeats):
        x = TARGET.sample(generator, 4 * 200)
        score = TARGET.log_prob_and_score(x)[1]
        loss = policy.fit_losses(x, score, mix, generator)
        assert loss.shape == (4,)
        found.append(torch.stack(torch.autograd.grad(loss.sum(), [policy.slope, policy.bias, policy.log_var])))
    return torch.stack(found)


KINDS = pytest.mark.parametrize("name", list(MIXES))


@KINDS
def test_denoising_is_stationary_at_the_exact_reversal(name):
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=4))
    assert_mean(gradients(policy, name), torch.zeros(()))


@KINDS
@pytest.mark.parametrize("parameter", ["slope", "bias", "log_var"])
def test_denoising_gradient_points_uphill_elsewhere(parameter, name):
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=4))
    with torch.no_grad():
        getattr(policy, parameter).add_(0.3)
    index = ["slope", "bias", "log_var"].index(parameter)
    z = standard_errors(gradients(policy, name, repeats=20), 0.0)[index]
    # on the circle 0.3 of a drift is little beside the width of the kernels, and the first kernels are all but uniform
    assert float(z[:, :2].min()) > 3.0 and (parameter != "log_var" or float(z[1:, 2].min()) > 3.0)


def test_scores_change_the_noise_of_the_gradient_and_not_its_mean():
    policy = ExactReversal(TARGET, ScheduleConfig(n_steps=4))
    with torch.no_grad():
        policy.bias.add_(0.3)
        policy.log_var.add_(0.2)
    plain, mixed = (gradients(policy, name)[..., :2] for name in ("A", "mixed"))  # on the line, where both
    error = ((plain.var(0) + mixed.var(0)) / len(plain)).sqrt()  # are exact
    assert float(((plain.mean(0) - mixed.mean(0)) / error).abs().max()) < 4.5
    quieter = (mixed.var(0) / plain.var(0))[:2, 1:]  # of slope and bias; at n = 0 no signal is left that could help
    assert float(quieter.median()) < 0.3 and float(quieter.max()) < 1.0


def test_scores_take_the_noise_out_of_the_gradient():
    """On N(0, I) x uniform, at the exact reversal, no noise is left in the gradients of the mean."""
    standard = Gaussian(torch.zeros(2).double(), torch.ones(2).double(), 1)
    policy = ExactReversal(standard, ScheduleConfig(n_steps=4))
    x = standard.sample(seeded(12), 400)
    score = standard.log_prob_and_score(x)[1]
    for name, bound in (("A", math.inf), ("mixed", 1e-4)):
        loss = policy.fit_losses(x, score, MIXES[name](), seeded(13)).sum()
        noise = max(float(g.abs().max()) for g in torch.autograd.grad(loss, [policy.slope, policy.bias]))
        assert noise < bound and (name == "mixed" or noise > 0.01)
