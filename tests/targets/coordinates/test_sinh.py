from __future__ import annotations

import math

import pytest
import torch
from molsampler.preparation.synthetic import first_chart, prepare_synthetic
from molsampler.targets.coordinates.heavy_tailed import HeavyTailed

from molsampler.basis.errors import InputError
from molsampler.smc.annealed import AnnealConfig
from molsampler.targets.synthetic import make_synthetic
from tests.stochastic import assert_mean, seeded

BASE = make_synthetic("student-2d")


@pytest.fixture()
def chart() -> HeavyTailed:
    return HeavyTailed(BASE, torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.3]))


def test_there_and_back(chart):
    z = 3.0 * torch.randn(50, 2, generator=seeded(0), dtype=torch.float64)
    x = chart.to_natural(z)
    torch.testing.assert_close(chart.to_standard(x), z)
    assert float(x[0, 0]) == pytest.approx(0.5 + 2.0 * math.sinh(float(z[0, 0])))


def test_density_is_the_base_s_times_the_jacobian(chart):
    z = 2.0 * torch.randn(6, 2, generator=seeded(1), dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda z: chart.to_natural(z[None])[0]))(z)
    expected = BASE.log_prob(chart.to_natural(z)) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(chart.log_prob(z), expected)
    log_r, score = chart.log_prob_and_score(z)
    torch.testing.assert_close(log_r, expected)
    leaf = z.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(chart.log_prob(leaf).sum(), leaf)[0], score)


def test_where_sinh_overflows_there_is_no_density(chart):
    z = torch.tensor([[0.0, 0.0], [200.0, 0.0], [0.0, -1e4]])
    log_r, score = chart.log_prob_and_score(z)
    assert bool(torch.isfinite(log_r[0])) and bool(torch.isneginf(log_r[1:]).all()) and bool((score[1:] == 0.0).all())


def test_fit_gives_median_zero_and_unit_spread_whatever_the_tails():
    x = BASE.sample(seeded(2), 20_000)
    chart = HeavyTailed.fit(BASE, x)
    z = chart.to_standard(x)
    torch.testing.assert_close(z.square().mean(0), torch.ones(2).double(), rtol=1e-6, atol=1e-6)
    assert float(z.median(0).values.abs().max()) < 1e-9
    assert float(z.abs().max()) < 8.0 < float(x.abs().max()) / float(x.abs().median())  # tails: two degrees of freedom
    loaded = HeavyTailed(BASE, torch.zeros(2), torch.ones(2))
    loaded.load_state_dict(chart.state_dict())
    torch.testing.assert_close(loaded.to_standard(x[:5]), z[:5])


def test_one_scale_a_coordinate(chart):
    with pytest.raises(InputError, match="one positive number a coordinate"):
        HeavyTailed(BASE, torch.zeros(2), torch.eye(2))


@pytest.mark.parametrize("kind", ["prior", "diagonal", "full", "sinh"])
def test_annealed_start_on_every_chart(kind):
    """States and log R that belong together on the final chart, at the spread that the kind promises."""
    target = make_synthetic("gmm25")
    chart, start = prepare_synthetic(target, kind, AnnealConfig(particles=512, moves=4, last_moves=5), seeded(0))
    for state in (start.state, start.explorers):
        log_r, score = chart.log_prob_and_score(state.x)
        torch.testing.assert_close(state.log_r, log_r)
        torch.testing.assert_close(state.score, score)
    x = chart.to_natural(start.state.x)
    assert target.count_modes(x) == 25 and abs(start.log_z) < 0.5
    spread = start.state.x.double().square().mean(0)
    if kind != "prior":
        torch.testing.assert_close(spread, torch.ones(2).double(), rtol=0.1, atol=0.0)
    assert target.counter.by_purpose["prefill"] == target.counter.total - 1024 > 0


def test_the_first_chart_is_what_is_known_beforehand():
    cox = make_synthetic("cox-16")
    torch.testing.assert_close(first_chart(cox).scale, cox.prior_cholesky)
    funnel = make_synthetic("funnel-10d")
    torch.testing.assert_close(first_chart(funnel).scale, funnel.extent)
    # N(0, I) on the Cox process' chart is its prior: log R there differs from N(0, I) by the likelihood alone
    z = torch.randn(4, 256, generator=seeded(3), dtype=torch.float64)
    x = first_chart(cox).to_natural(z)
    likelihood = x @ cox.counts - x.exp().sum(-1) / 256
    torch.testing.assert_close(first_chart(cox).log_prob(z) - likelihood, cox.space.log_prior(z))
    assert_mean(x.mean(1, keepdim=True), float(cox.centre[0]), bound=6.0)
