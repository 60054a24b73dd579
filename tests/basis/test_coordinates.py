"""One contract, walked through by all coordinates: linear ones, sinh, and the internal chart of a molecule, in float64.

What is special about each is tested beside it.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from molsampler.basis.coordinates import Coordinates
from molsampler.basis.errors import InputError
from molsampler.basis.space import Circle, Line
from molsampler.molecules.coordinates.chart import Chart
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.coordinates.sinh import Sinh
from tests.molecules.coordinates import chart_cases
from tests.stochastic import seeded

DIM = 4


@dataclass(frozen=True)
class Case:
    """make : fresh coordinates; states : natural states to fit to; outside : z off the support
    rigid : whether natural states have rigid motions besides; full : whether a fit leaves no correlation
    weighted : whether a fit takes weights; centre : what a fit brings to 0; other : the state of other coordinates
    """

    make: Callable[[], Coordinates]
    states: Callable[[], Tensor]
    outside: Callable[[Coordinates], Tensor]
    rigid: bool = False
    full: bool = False
    weighted: bool = True
    centre: Callable[[Tensor], Tensor] = lambda z: z.mean(0)
    other: Callable[[], dict] = lambda: Affine(torch.zeros(DIM + 1), torch.ones(DIM + 1)).state_dict()


def correlated() -> Tensor:
    """(60, DIM) float64: skewed, off the origin, of different spreads."""
    z = torch.randn(60, DIM, generator=seeded(0), dtype=torch.float64)
    mixing = torch.eye(DIM, dtype=torch.float64) + 0.5 * torch.ones(DIM, DIM).tril(-1)
    return (z + 0.2 * z.square()) @ mixing.T * torch.tensor([0.1, 1.0, 3.0, 10.0]) + torch.tensor([5.0, 0.0, -2.0, 1.0])


def toluene() -> dict:
    molecule = chart_cases.toluene()
    return Chart(molecule).fit(chart_cases.perturbed(molecule, 200)).state_dict()


def affine(kind: str) -> Case:
    infinite = torch.full((2, DIM), torch.inf, dtype=torch.float64)
    make = functools.partial(Affine, torch.zeros(DIM), torch.ones(DIM), kind)
    return Case(make, correlated, lambda _: infinite, full=kind == "full")


CASES = {
    "affine, diagonal": affine("diagonal"),
    "affine, full": affine("full"),
    "sinh": Case(
        lambda: Sinh(torch.zeros(DIM), torch.ones(DIM)),
        correlated,
        lambda _: torch.full((2, DIM), torch.nan, dtype=torch.float64),
        weighted=False,
        centre=lambda z: z.median(0).values,
    ),
    "alanine dipeptide": Case(
        lambda: Chart(chart_cases.alanine_dipeptide(), dtype=torch.float64),
        chart_cases.langevin_frames,
        lambda chart: chart.to_standard(-chart_cases.langevin_frames()[:3]),
        rigid=True,
        full=True,
        other=toluene,
    ),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture()
def fitted(case: Case) -> Coordinates:
    return case.make().fit(case.states())


def wide(coordinates: Coordinates, n: int) -> Tensor:
    """(n, D) float64 draws of the prior, which the chart's support holds nearly all of."""
    return coordinates.space.sample_prior(n, seeded(1), dtype=torch.float64)


def assert_same_state(space, one: Tensor, two: Tensor, tolerance: float = 1e-9) -> None:
    assert float(space.wrap(one - two).abs().max()) < tolerance


def test_there_and_back(case, fitted):
    z = wide(fitted, 50)
    x, log_det = fitted.to_natural(z)
    assert z.shape == (50, fitted.space.dim) and log_det.shape == (50,) and x.shape[1:] == case.states().shape[1:]
    assert_same_state(fitted.space, fitted.to_standard(x), z)
    states = case.states()
    there = fitted.to_standard(states)
    assert_same_state(fitted.space, fitted.to_standard(fitted.to_natural(there)[0]), there)
    if case.rigid:
        assert chart_cases.aligned_error(fitted.to_natural(there)[0], states) < 1e-9
    else:
        torch.testing.assert_close(fitted.to_natural(there)[0], states)


def test_log_det_is_that_of_the_jacobian(case, fitted):
    for z in wide(fitted, 1 if case.rigid else 5):

        def positions(p: Tensor) -> Tensor:
            x = fitted.to_natural(p[-fitted.space.dim :][None])[0][0]
            if case.rigid:  # (translation, rotation, z) -> R^{3N}, at no rotation, where its Haar measure is one
                x = x + torch.linalg.cross(p[3:6].expand_as(x), x) + p[:3]
            return x.reshape(-1)

        motions = torch.zeros(6 if case.rigid else 0, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(positions, torch.cat([motions, z]))
        expected = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(fitted.to_natural(z[None])[1][0], expected, rtol=0.0, atol=1e-8)


def test_a_fit_gives_the_line_centre_0_and_spread_1(case, fitted):
    z = fitted.to_standard(case.states())[:, fitted.space.mask(Line)]
    assert float(case.centre(z).abs().max()) < 1e-8
    square = z.T @ z / len(z)
    torch.testing.assert_close(square.diagonal(), torch.ones(len(square)).double(), rtol=0.02, atol=0.0)  # M or M - 1
    off = float((square - torch.diag(square.diagonal())).abs().max())
    assert (off < 1e-8) == case.full
    # a fit is of the states alone: what it was before does not matter, and it comes back itself
    again = fitted.fit(3.0 * case.states())
    assert again is fitted
    fresh = case.make().fit(3.0 * case.states())
    assert_same_state(fitted.space, fitted.to_standard(case.states()), fresh.to_standard(case.states()))


def test_weights_in_a_fit_count_as_repeated_states(case):
    states = case.states()
    counts = torch.arange(len(states)) % 3  # a state of weight 0 is not there
    if not case.weighted:
        with pytest.raises(InputError, match="equally weighted states: resample them first$"):
            case.make().fit(states, counts)
        return
    weighted = case.make().fit(states, 0.1 * counts.double())  # the sum of weights has no say
    twice = states.repeat_interleave(counts, dim=0)
    repeated = case.make().fit(twice, torch.ones(len(twice)))
    plain = case.make().fit(states)
    z = repeated.to_standard(states)
    assert_same_state(repeated.space, weighted.to_standard(states), z, 1e-7)
    assert float(repeated.space.wrap(plain.to_standard(states) - z).abs().max()) > 1e-3


def test_standardising_by_a_mean_and_a_covariance_is_a_fit_to_states_that_have_them(case):
    states = case.states()
    if case.rigid:
        fitted = case.make().fit(states)
        given = case.make().standardise(fitted.mean, fitted.covariance)
    else:
        fitted = case.make().fit(states, torch.ones(len(states))) if case.weighted else None
        mean, covariance = states.mean(0), torch.cov(states.T, correction=0)
        given = case.make().standardise(mean, covariance)
        z = torch.zeros(1, DIM, dtype=torch.float64)
        torch.testing.assert_close(given.to_natural(z)[0][0], mean)  # 0 stands for the mean
    assert isinstance(given, Coordinates)
    if fitted is not None:
        assert_same_state(given.space, given.to_standard(states), fitted.to_standard(states))
    else:  # through sinh the spread is that of small deviations
        small = states.mean(0) + 1e-6 * states.std(0, correction=0) * torch.ones(1, DIM)
        torch.testing.assert_close(given.to_standard(small), torch.full((1, DIM), 1e-6).double(), rtol=1e-6, atol=1e-12)


def test_state_dict_through_a_file(case, fitted):
    file = io.BytesIO()
    torch.save(fitted.state_dict(), file)
    file.seek(0)
    other = case.make()
    other.load_state_dict(torch.load(file, weights_only=True))
    z = wide(fitted, 5)
    for one, two in zip(fitted.to_natural(z), other.to_natural(z), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(fitted.to_standard(case.states()), other.to_standard(case.states()))


def test_the_state_of_other_coordinates_is_refused(case):
    with pytest.raises(InputError):
        case.make().load_state_dict(case.other())


def test_inside(case, fitted):
    z = torch.cat([fitted.to_standard(case.states())[:4], case.outside(fitted)])
    inside = fitted.inside(z)
    assert inside.dtype == torch.bool and inside.tolist() == [True] * 4 + [False] * (len(z) - 4)
    given = fitted.inside(z[:4], fitted.to_natural(z[:4])[0])
    assert bool(given.all())
    # the circle has no edge
    turned = z[:4] + 2.0 * torch.pi * fitted.space.mask(Circle)
    assert bool(fitted.inside(turned).all())


def test_states_that_are_not_finite_are_refused(case):
    states = case.states().clone()
    states[3] = torch.nan
    with pytest.raises(InputError, match="not finite|non-finite"):
        case.make().fit(states)


def test_too_few_states_are_refused(case):
    with pytest.raises(InputError):
        case.make().fit(case.states()[:1])


def test_to_natural_is_differentiable(case, fitted):
    z = wide(fitted, 2).requires_grad_()
    assert torch.autograd.gradcheck(fitted.to_natural, z, fast_mode=True)
