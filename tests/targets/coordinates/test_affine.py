"""The linear chart: change of variables, fits, refusals."""

from __future__ import annotations

import io

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.gaussian_mixture import gmm25, gmm40
from molsampler.targets.many_well import ManyWell
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian, TwoWells


def base() -> Gaussian:
    return Gaussian(torch.tensor([0.3, -1.0, 5.0]).double(), torch.tensor([0.6, 1.2, 3.0]).double(), log_z=1.5)


def full(dim: int = 3) -> torch.Tensor:
    scale = torch.randn(dim, dim, generator=seeded(0), dtype=torch.float64).tril(-1)
    return scale + torch.diag(torch.linspace(0.5, 2.0, dim, dtype=torch.float64))


SCALES = {"diagonal": torch.tensor([0.5, 2.0, 4.0]).double(), "full": full()}
MEAN = torch.tensor([1.0, -2.0, 3.0]).double()


@pytest.fixture(params=list(SCALES))
def chart(request) -> Affine:
    return Affine(base(), MEAN, SCALES[request.param])


def test_change_of_variables(chart):
    """Against the Jacobian by autograd and against the normal density of z in closed form."""
    z = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64)
    x = chart.to_natural(z)
    torch.testing.assert_close(chart.to_standard(x), z)
    jacobian = torch.autograd.functional.jacobian(lambda row: chart.to_natural(row[None])[0], z[0])
    torch.testing.assert_close(chart.log_prob(z), chart.base.log_prob(x) + torch.linalg.slogdet(jacobian)[1])
    inverse = torch.linalg.inv(jacobian)
    mean = inverse @ (chart.base.mean - MEAN)
    factor = inverse @ torch.diag(chart.base.std)
    closed = torch.distributions.MultivariateNormal(mean, factor @ factor.T)
    torch.testing.assert_close(chart.log_prob(z), closed.log_prob(z) + 1.5)
    assert chart.log_z == 1.5


def test_score_and_evaluations(chart):
    z = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(chart.log_prob(z).sum(), z)
    assert chart.counter is chart.base.counter and chart.counter.total == 0
    log_r, score = chart.log_prob_and_score(z)
    torch.testing.assert_close(score, gradient)
    torch.testing.assert_close(log_r, chart.log_prob(z).detach())
    assert chart.counter.total == 5 and not log_r.requires_grad and not score.requires_grad
    single = chart.log_prob_and_score(z.detach().float()[:0])
    assert single[0].shape == (0,) and single[1].shape == (0, 3) and chart.counter.total == 5
    single, single_score = chart.log_prob_and_score(z.detach().float())
    torch.testing.assert_close(single_score.double(), score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_fit(kind):
    """Samples of the fitted chart have mean 0 and unit covariance, by an independent draw; log Z stays."""
    target = ManyWell(6)
    mixing = Affine(target, torch.full((6,), 3.0), full(6))  # correlated, off the origin
    chart = Affine.fit(mixing, mixing.sample(seeded(2), 50_000), kind)
    z = chart.sample(seeded(3), 50_000)
    assert_mean(z, 0.0, bound=4.5 * 2**0.5)  # the fit itself scatters as much
    covariance = z.T @ z / len(z)
    torch.testing.assert_close(covariance.diagonal(), torch.ones(6).double(), rtol=0.0, atol=0.04)
    off = (covariance - torch.diag(covariance.diagonal())).abs().max()
    assert (float(off) < 0.04) == (kind == "full")
    assert chart.log_z == target.log_z and chart.counter is target.counter


def test_log_z_is_unchanged_by_quadrature():
    target = gmm25()
    chart = Affine.fit(target, target.sample(seeded(4), 2000) @ torch.tensor([[1.0, 0.7], [0.0, 1.0]]).double(), "full")
    line = torch.arange(-5.0, 5.0, 0.03, dtype=torch.float64)
    total = chart.log_prob(torch.cartesian_prod(line, line)).exp().sum() * 0.03**2
    assert float(total) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_state_dict(kind):
    target = gmm40(5)
    chart = Affine.fit(target, target.sample(seeded(5), 100), kind)
    buffer = io.BytesIO()
    torch.save(chart.state_dict(), buffer)
    buffer.seek(0)
    other = Affine(target, target.centre, target.extent)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    z = torch.randn(3, 5, generator=seeded(6), dtype=torch.float64)
    assert torch.equal(other.log_prob(z), chart.log_prob(z)) and torch.equal(other.to_natural(z), chart.to_natural(z))
    with pytest.raises(InputError, match="needs"):
        Affine(base(), MEAN, SCALES["full"]).load_state_dict(chart.state_dict())


def degenerate() -> dict[str, tuple[torch.Tensor, str, str]]:
    x = torch.randn(10, 3, generator=seeded(7), dtype=torch.float64)
    constant, flat, broken = x.clone(), x.clone(), x.clone()
    constant[:, 1] = 1e6
    flat[:, 2] = flat[:, 0] + flat[:, 1]
    broken[4, 0] = torch.nan
    return {
        "constant coordinate": (constant, "diagonal", "coordinate 1 has the same value"),
        "in a plane": (flat, "full", "do not spread in all 3 directions"),
        "not finite": (broken, "full", "1 of 10 samples are not finite"),
        "too few": (x[:3], "full", r"shape \(3, 3\).*M of at least 4"),
        "one": (x[:1], "diagonal", "M of at least 2"),
        "other dimension": (x[:, :2], "diagonal", r"shape \(10, 2\)"),
        "unknown kind": (x, "block", "'block'; choose diagonal or full"),
    }


@pytest.mark.parametrize("case", list(degenerate()))
def test_degenerate_samples_are_refused(case):
    x, kind, message = degenerate()[case]
    with pytest.raises(InputError, match=message):
        Affine.fit(base(), x, kind)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.ones(2), r"shapes \(3,\) and \(2,\)"),
        (torch.tensor([1.0, -0.5, 1.0]), "smallest scale is -0.5"),
        (torch.tensor([1.0, torch.nan, 1.0]), "smallest scale is nan"),
        (full().T, "above its diagonal"),
    ],
)
def test_bad_scales_are_refused(scale, message):
    with pytest.raises(InputError, match=message):
        Affine(base(), MEAN, scale)


def test_angles_are_refused():
    with pytest.raises(InputError, match="1 angles"):
        Affine(TwoWells(), torch.zeros(2), torch.ones(2))


def test_base_off_its_support():
    """-inf and a zero gradient come through as they are."""
    target = gmm25()
    log_r, score = Affine(target, target.centre, target.extent).log_prob_and_score(torch.full((1, 2), 1e30))
    assert bool(torch.isneginf(log_r).all()) and bool((score == 0.0).all())
