"""Densities that depend on a condition, against closed forms and another method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from molsampler.basis.errors import InputError
from molsampler.targets.conditional import ConditionalTarget, LinearGaussian
from molsampler.targets.density import as_target
from molsampler.targets.digits import HELD_OUT, LATENT, PIXELS, VaeDigits, decode
from molsampler.targets.synthetic import CONDITIONAL, make_synthetic
from tests.stochastic import assert_mean, seeded

NAMES = list(CONDITIONAL)


def points(target: ConditionalTarget, n: int = 6) -> torch.Tensor:
    """(n, D) float64: z of the prior, held-out conditions."""
    return target.space.with_condition(
        target.space.sample_prior(n, seeded(0), torch.float64), target.held_out[:n].double()
    )


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    target = make_synthetic(name)
    x = points(target)
    log_r, score = target.log_prob_and_score(x)
    assert log_r.shape == (6,) and score.shape == x.shape and target.counter.total == 6 and target.name == name
    single = target.log_prob_and_score(x[2:3])
    torch.testing.assert_close(single[0], log_r[2:3])
    torch.testing.assert_close(target.log_prob_and_score(x.float())[0], log_r.float(), rtol=1e-4, atol=1e-3)
    dim, h = target.space.parts[0].dim, 1e-6
    assert bool((score[:, dim:] == 0.0).all())  # c is given
    shifts = h * torch.eye(target.space.dim, dtype=torch.float64)[:dim]
    for row, expected in zip(x[:2], score, strict=False):
        difference = (target.log_prob(row + shifts) - target.log_prob(row - shifts)) / (2.0 * h)
        torch.testing.assert_close(difference, expected[:dim], rtol=1e-5, atol=1e-4)
    # held-out conditions are none of those to train on
    values = {tuple(row) for row in target.space.parts[1].values.tolist()}
    shared = sum(tuple(row) in values for row in target.held_out.tolist())
    assert shared == 0 if name == "linear-gaussian" else shared < 0.05 * len(target.held_out)


def test_linear_gaussian_closed_forms():
    """Bayes' rule at any z: log R(z; c) - log p(z | c) = log Z(c); both densities again by scipy."""
    target = LinearGaussian()
    x = points(target, 8)
    z, c = x[:, :4], x[:, 4:]
    log_z = target.log_z_of(c)
    a = target.matrix.numpy()
    marginal = stats.multivariate_normal(np.zeros(3), a @ a.T + 0.25 * np.eye(3)).logpdf(c.numpy())
    np.testing.assert_allclose(log_z.numpy(), marginal, rtol=1e-10)
    torch.testing.assert_close(log_z, target.held_out_log_z[:8])
    for row in range(8):
        posterior = stats.multivariate_normal(target.posterior_mean(c)[row].numpy(), target.covariance.numpy())
        joint = stats.norm.logpdf(z[row]).sum() + stats.norm(a @ z[row].numpy(), 0.5).logpdf(c[row]).sum()
        assert float(target.log_prob(x)[row]) == pytest.approx(joint, rel=1e-10)
        assert joint - posterior.logpdf(z[row].numpy()) == pytest.approx(float(log_z[row]), rel=1e-9)
    drawn = target.sample_posterior(c[:1].expand(20_000, -1), seeded(1)) - target.posterior_mean(c[:1])
    assert_mean(drawn, 0.0)
    assert_mean(drawn[:, :, None] * drawn[:, None, :], target.covariance)
    # one direction of z is not seen: its posterior is the prior
    assert float(torch.linalg.eigvalsh(target.covariance)[-1]) == pytest.approx(1.0)


def test_a_run_on_a_density_of_ones_own_takes_no_conditions():
    with pytest.raises(InputError, match="single condition"):
        as_target(LinearGaussian())


def test_digits_are_zeros_and_ones_and_the_decoder_knows_them():
    target = VaeDigits()
    images = target.space.parts[1].values
    assert images.shape == (1597, PIXELS) and target.held_out.shape == (HELD_OUT, PIXELS)
    assert set(images.unique().tolist()) == {0.0, 1.0} and 0.2 < float(images.mean()) < 0.5
    x = points(target)
    p = torch.sigmoid(decode(x[:, :LATENT], target.decoder)).numpy()
    image = x[:, LATENT:].numpy()
    expected = stats.bernoulli.logpmf(image, p).sum(1) + stats.norm.logpdf(x[:, :LATENT].numpy()).sum(1)
    np.testing.assert_allclose(target.log_prob(x).numpy(), expected, rtol=1e-5)
    rate = images.mean(0).double().clamp(0.01, 0.99)  # of every pixel by itself: the model that knows no digits
    alone = (target.held_out * rate.log() + (1.0 - target.held_out) * (-rate).log1p()).sum(1)
    assert float(target.held_out_log_z.mean()) > float(alone.mean()) + 5.0


def test_log_evidence_of_held_out_images_by_another_method():
    """Importance sampling from a Student-t about the posterior's top, 100,000 draws; 4.5 combined standard errors."""
    target = VaeDigits()
    for k in range(3):
        image = target.held_out[k : k + 1].double()

        def energy(z, image=image):
            return -target.log_joint(z, image.expand(len(z), -1)).sum()

        z = torch.zeros(1, LATENT, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([z], max_iter=200, line_search_fn="strong_wolfe")
        optimiser.step(lambda z=z, optimiser=optimiser: _backward(optimiser, energy(z)))
        top = z.detach()
        hessian = torch.autograd.functional.hessian(energy, top).reshape(LATENT, LATENT)
        factor = torch.linalg.cholesky(1.3 * torch.linalg.inv(hessian))
        noise = torch.randn(100_000, LATENT, generator=seeded(k), dtype=torch.float64)
        degrees = 8.0
        chi = 2.0 * torch._standard_gamma(torch.full((100_000, 1), degrees / 2.0).double(), generator=seeded(k + 9))
        t = noise * (degrees / chi).sqrt()
        log_q = stats.multivariate_t(np.zeros(LATENT), np.eye(LATENT), df=degrees).logpdf(t.numpy())
        x = top + t @ factor.T
        log_w = target.log_joint(x, image.expand(len(x), -1)).numpy() - log_q + float(factor.diagonal().log().sum())
        w = np.exp(log_w - log_w.max())
        found, error = np.log(w.mean()) + log_w.max(), w.std() / w.mean() / len(w) ** 0.5
        combined = np.hypot(error, max(float(target.held_out_log_z_error[k]), 0.02))
        assert error < 0.05 and abs(found - float(target.held_out_log_z[k])) < 4.5 * combined


def _backward(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> torch.Tensor:
    optimiser.zero_grad()
    loss.backward()
    return loss
