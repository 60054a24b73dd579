"""A density seen through coordinates: change of variables, scores by the base's own way, overflow, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.space import Space
from molsampler.targets.charted import Charted, first_coordinates
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.coordinates.sinh import Sinh
from molsampler.targets.density import start_of
from molsampler.targets.gaussian_mixture import gmm25
from molsampler.targets.many_well import ManyWell
from molsampler.targets.synthetic import make_synthetic
from molsampler.targets.target import Target
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian, TwoWells


def base() -> Gaussian:
    return Gaussian(torch.tensor([0.3, -1.0, 5.0]).double(), torch.tensor([0.6, 1.2, 3.0]).double(), log_z=1.5)


def full(dim: int = 3) -> Tensor:
    scale = torch.randn(dim, dim, generator=seeded(0), dtype=torch.float64).tril(-1)
    return scale + torch.diag(torch.linspace(0.5, 2.0, dim, dtype=torch.float64))


MEAN = torch.tensor([1.0, -2.0, 3.0]).double()
SCALE = torch.tensor([0.5, 2.0, 4.0]).double()
COORDINATES = {"diagonal": Affine(MEAN, SCALE), "full": Affine(MEAN, full(), "full"), "sinh": Sinh(MEAN, SCALE)}


@pytest.fixture(params=list(COORDINATES))
def charted(request: pytest.FixtureRequest) -> Charted:
    return Charted(base(), COORDINATES[request.param])


def points(n: int = 5) -> Tensor:
    return torch.randn(n, 3, generator=seeded(1), dtype=torch.float64)


def test_change_of_variables(charted):
    """Against the Jacobian by autograd."""
    z = points()
    x, _ = charted.coordinates.to_natural(z)
    for row, log_r, natural in zip(z, charted.log_prob(z), x, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: charted.coordinates.to_natural(z[None])[0][0], row)
        expected = charted.base.log_prob(natural) + torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_r, expected)
    assert charted.log_z == 1.5 and charted.space is charted.coordinates.space


@pytest.mark.parametrize("name", ["diagonal", "full"])
def test_a_normal_density_in_closed_form(name):
    """N(m, S) seen through x = mean + scale z is N(scale^-1 (m - mean), scale^-1 S scale^-T)."""
    charted = Charted(base(), COORDINATES[name])
    inverse = torch.linalg.inv(torch.diag(SCALE) if name == "diagonal" else full())
    factor = inverse @ torch.diag(charted.base.std)
    closed = torch.distributions.MultivariateNormal(inverse @ (charted.base.mean - MEAN), factor @ factor.T)
    torch.testing.assert_close(charted.log_prob(points()), closed.log_prob(points()) + 1.5)


def test_score_and_evaluations(charted):
    """The gradient by autograd, in float64; one booked evaluation a state; no graph."""
    z = points().requires_grad_()
    (gradient,) = torch.autograd.grad(charted.log_prob(z).sum(), z)
    assert charted.counter is charted.base.counter and charted.counter.total == 0
    log_r, score = charted.log_prob_and_score(z)
    torch.testing.assert_close(score, gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_r, charted.log_prob(z).detach(), rtol=1e-12, atol=1e-12)
    assert charted.counter.total == 5 and not log_r.requires_grad and not score.requires_grad
    nothing = charted.log_prob_and_score(z.detach().float()[:0])
    assert nothing[0].shape == (0,) and nothing[1].shape == (0, 3) and charted.counter.total == 5
    single, single_score = charted.log_prob_and_score(z.detach().float())
    assert single_score.dtype == torch.float32 and single.shape == (5,)
    torch.testing.assert_close(single_score.double(), score, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(charted.log_prob_and_score(z)[1], score)


class OwnScore(Gaussian):
    """Its score does not come from autograd, as that of forces does not."""

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.counter.add(len(x))
        return self.log_prob(x.detach()).detach(), 2.0 * (self.mean - x) / self.std.square()


def test_the_score_is_the_bases_own_pulled_back():
    target = OwnScore(base().mean, base().std)
    z = points()
    plain, own = (Charted(t, COORDINATES["full"]).log_prob_and_score(z)[1] for t in (base(), target))
    torch.testing.assert_close(own, 2.0 * plain)  # a linear map has a constant determinant


def test_samples_are_the_bases_standardised():
    charted = Charted(base(), COORDINATES["full"])
    z = charted.sample(seeded(2), 30_000)
    inverse = torch.linalg.inv(full())
    assert_mean(z, inverse @ (base().mean - MEAN))
    covariance = inverse @ torch.diag(base().std.square()) @ inverse.T
    deviation = z - inverse @ (base().mean - MEAN)
    assert_mean(deviation[:, :, None] * deviation[:, None, :], covariance)


def test_log_z_is_unchanged_by_quadrature():
    target = gmm25()
    skewed = target.sample(seeded(4), 2000) @ torch.tensor([[1.0, 0.7], [0.0, 1.0]]).double()
    charted = Charted(target, Affine(target.centre, target.extent, "full").fit(skewed))
    line = torch.arange(-5.0, 5.0, 0.03, dtype=torch.float64)
    total = charted.log_prob(torch.cartesian_prod(line, line)).exp().sum() * 0.03**2
    assert float(total) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_what_is_fitted_to_samples_standardises_others(kind):
    """Samples on the fitted coordinates have mean 0 and unit covariance, by an independent draw; log Z stays."""
    target = ManyWell(6)
    mixing = Charted(target, Affine(torch.full((6,), 3.0), full(6)))  # correlated, off the origin
    charted = Charted(mixing, Affine(torch.zeros(6), torch.ones(6), kind).fit(mixing.sample(seeded(2), 50_000)))
    z = charted.sample(seeded(3), 50_000)
    assert_mean(z, 0.0, bound=4.5 * 2**0.5)  # the fit itself scatters as much
    covariance = z.T @ z / len(z)
    torch.testing.assert_close(covariance.diagonal(), torch.ones(6).double(), rtol=0.0, atol=0.04)
    off = (covariance - torch.diag(covariance.diagonal())).abs().max()
    assert (float(off) < 0.04) == (kind == "full")
    assert charted.log_z == target.log_z and charted.counter is target.counter


class Wave(Target):
    """Bounded, and no number at infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.space = Space.of(2)

    def log_prob(self, x: Tensor) -> Tensor:
        return (x + 1.0).cos().sum(-1)


class Flat(Wave):
    """Finite everywhere, with a score of its own."""

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x[:, 0]), torch.ones_like(x)


OVERFLOWN = {"student": lambda: make_synthetic("student-2d"), "wave": Wave, "flat": Flat}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(OVERFLOWN))
def test_where_sinh_overflows_there_is_no_density(name, dtype):
    """Whatever the base makes of infinite states."""
    target = OVERFLOWN[name]()
    charted = Charted(target, Sinh(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.3])))
    z = torch.tensor([[0.1, 0.1], [2000.0, 0.0], [0.0, -1e4]], dtype=dtype)
    log_r, score = charted.log_prob_and_score(z)
    assert bool(torch.isfinite(log_r[0])) and bool((score[0] != 0.0).all())
    assert bool(torch.isneginf(log_r[1:]).all()) and bool((score[1:] == 0.0).all())


def test_base_off_its_support():
    """-inf and a zero gradient come through as they are."""
    target = gmm25()
    charted = Charted(target, Affine(target.centre, target.extent))
    log_r, score = charted.log_prob_and_score(torch.full((1, 2), 1e30))
    assert bool(torch.isneginf(log_r).all()) and bool((score == 0.0).all())


def test_a_base_that_breaks_is_seen():
    """NaN stays NaN, for who asked to skip; it moves nothing."""

    class Broken(Gaussian):
        def log_prob(self, x: Tensor) -> Tensor:
            return super().log_prob(x) + torch.where(x[:, 0] > 1.0, torch.nan, 0.0)

    charted = Charted(Broken(base().mean, base().std), COORDINATES["sinh"])
    log_r, score = charted.log_prob_and_score(torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).double())
    assert math.isfinite(log_r[0]) and math.isnan(log_r[1]) and bool((score[1] == 0.0).all())


def test_angles_are_refused():
    with pytest.raises(InputError, match="^the target has 1 angles, which these coordinates do not keep on the circle"):
        Charted(TwoWells(), Affine(torch.zeros(2), torch.ones(2)))


def test_coordinates_of_another_dimension_are_refused():
    with pytest.raises(InputError, match="^the coordinates have dimension 2 and the target 3: make them alike$"):
        Charted(base(), Affine(torch.zeros(2), torch.ones(2)))


def test_the_first_coordinates_are_what_is_known_beforehand():
    cox, funnel = make_synthetic("cox-16"), make_synthetic("funnel-10d")
    torch.testing.assert_close(first_coordinates(*start_of(cox)).scale, cox.prior_cholesky)
    torch.testing.assert_close(first_coordinates(*start_of(funnel)).scale, funnel.extent)
    # N(0, I) there is the prior of the Cox process: log R differs from N(0, I) by the likelihood alone
    z = torch.randn(4, 256, generator=seeded(3), dtype=torch.float64)
    first = Charted(cox, first_coordinates(*start_of(cox)))
    x, _ = first.coordinates.to_natural(z)
    likelihood = x @ cox.counts - x.exp().sum(-1) / 256
    torch.testing.assert_close(first.log_prob(z) - likelihood, cox.space.log_prior(z))
    assert_mean(x.mean(1, keepdim=True), float(cox.centre[0]), bound=6.0)


@pytest.mark.parametrize("standardise", ["prior", "diagonal", "full", "sinh"])
def test_first_coordinates_are_fitted_as_they_were_told(standardise):
    centre, scale = torch.tensor([1.0, -1.0]).double(), torch.tensor([[2.0, 0.0], [1.5, 2.0]]).double()
    found = first_coordinates(centre, scale, standardise)
    assert type(found) is (Sinh if standardise == "sinh" else Affine)
    assert found.kind == ("full" if standardise == "full" else "diagonal")
    if standardise == "sinh":  # one number a coordinate: the spread of the first prior
        torch.testing.assert_close(found.scale, torch.tensor([2.0, 2.5]).double())
        torch.testing.assert_close(first_coordinates(centre, scale.diagonal(), "sinh").scale, scale.diagonal())
    else:
        assert torch.equal(found.scale, scale)
    assert torch.equal(found.mean, centre)
