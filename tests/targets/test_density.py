"""The door for densities of one's own: what is let in as it is, what is made a target, and each refusal's sentence."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.space import Line, Space
from molsampler.targets.density import Density, as_target, start_of
from molsampler.targets.synthetic import make_synthetic
from tests.stochastic import seeded
from tests.targets.analytic import Gaussian, TwoWells


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def test_a_density_of_a_function():
    density = Density(normal, 3, centre=[1.0, 0.0, -1.0], extent=2.0, log_z=0.7, name="mine")
    assert density.space == Space.of(3) and density.name == "mine" and density.log_z == 0.7
    assert density.centre.tolist() == [1.0, 0.0, -1.0] and density.extent.tolist() == [2.0, 2.0, 2.0]
    x = torch.randn(4, 3, generator=seeded(0), dtype=torch.float64)
    log_r, score = density.log_prob_and_score(x)
    torch.testing.assert_close(log_r, normal(x))
    torch.testing.assert_close(score, -x)
    assert density.counter.total == 4
    plain = Density(normal, 2)
    assert plain.centre.tolist() == [0.0, 0.0] and plain.extent.tolist() == [1.0, 1.0]
    assert plain.log_z is None and plain.name == "density"


class Own:
    """Fulfils the contract by duck typing."""

    dim = 2
    centre, extent, log_z, name = 3.0, [1.0, 2.0], -1.5, "own"

    def log_prob(self, x: Tensor) -> Tensor:
        return normal(x - 3.0)


def test_objects_that_are_let_in():
    target = Gaussian(torch.zeros(2), torch.ones(2))
    assert as_target(target) is target
    funnel = make_synthetic("funnel-10d")
    assert as_target(funnel) is funnel
    made = as_target(Own())
    assert isinstance(made, Density) and made.space == Space.of(2) and made.name == "own" and made.log_z == -1.5
    assert made.centre.tolist() == [3.0, 3.0] and made.extent.tolist() == [1.0, 2.0]
    # a space in place of a dimension; what is not named is left out
    by_space = as_target(SimpleNamespace(log_prob=normal, space=Space.of(4)))
    assert by_space.space.count(Line) == 4 and by_space.extent.tolist() == [1.0] * 4
    by_space = as_target(SimpleNamespace(log_prob=normal, dim=np.int64(3)))
    assert by_space.space == Space.of(3)
    # -inf here and there is a support, not a fault
    half = Density(lambda x: torch.where(x[:, 0] > 0.0, normal(x), -torch.inf), 2)
    assert as_target(half) is half
    assert as_target(Own()).counter is not made.counter


def test_trying_costs_no_evaluation():
    density = Density(normal, 2)
    assert as_target(density).counter.total == 0


class Angular:
    """Has no density at all."""

    dim = 2


def raising(x: Tensor) -> Tensor:
    raise RuntimeError("no such matrix")


REFUSED = {
    "no log_prob": (
        lambda: as_target(Angular()),
        "Angular is no target: give an object with log_prob(x), (B, dim) -> (B,), and dim, or a molsampler.Density",
    ),
    "no dimension": (
        lambda: as_target(SimpleNamespace(log_prob=normal)),
        "SimpleNamespace is no target: give an object with log_prob(x), (B, dim) -> (B,), and dim, or a "
        "molsampler.Density",
    ),
    "a number": (
        lambda: as_target(3),
        "int is no target: give an object with log_prob(x), (B, dim) -> (B,), and dim, or a molsampler.Density",
    ),
    "angles": (
        lambda: as_target(TwoWells()),
        "the target has 1 angles; densities of one's own live on the line for now",
    ),
    "raises": (
        lambda: as_target(Density(raising, 2)),
        "log_prob of Density fails on states (64, 2) in float32: no such matrix",
    ),
    "shape": (
        lambda: as_target(Density(lambda x: normal(x)[:, None], 2)),
        "log_prob of Density gives (64, 1) for states (64, 2): return (64,)",
    ),
    "no tensor": (
        lambda: as_target(Density(lambda x: normal(x).detach().numpy(), 2)),
        "log_prob of Density gives ndarray for states (64, 2): return (64,)",
    ),
    "no gradient": (
        lambda: as_target(Density(lambda x: normal(x.detach()), 2)),
        "log_prob of Density cannot be differentiated: compute it from x with torch alone",
    ),
    "nowhere finite": (
        lambda: as_target(Density(lambda x: normal(x) + torch.where(x[:, 0] > 50.0, 0.0, -torch.inf), 2)),
        "log_prob of Density is finite at none of 64 draws from N(centre, extent^2): say with centre and extent where "
        "the density lies",
    ),
    "dimension 0": (lambda: Density(normal, 0), "a density of dimension 0 has nothing to sample: give at least 1"),
    "extent": (
        lambda: Density(normal, 2, extent=[1.0, 0.0]),
        "the extent [1.0, 0.0] is not positive: give the half-width of each coordinate",
    ),
    "centre": (
        lambda: Density(normal, 2, centre=[0.0, 1.0, 2.0]),
        "the centre [0.0, 1.0, 2.0] is not usable: give a finite number, or 2 of them",
    ),
    "infinite": (
        lambda: Density(normal, 2, extent=float("inf")),
        "the extent inf is not usable: give a finite number, or 2 of them",
    ),
    "no number": (
        lambda: Density(normal, 2, centre="left"),
        "the centre 'left' is not usable: give a finite number, or 2 of them",
    ),
    "a matrix": (
        lambda: Density(normal, 1, extent=[[1.0]]),
        "the extent [[1.0]] is not usable: give a finite number, or 1 of them",
    ),
}


def test_a_density_for_float64_alone_is_refused():
    with pytest.raises(InputError, match=r"^log_prob of Density fails on states \(64, 2\) in float32: .*dtype"):
        as_target(Density(lambda x: normal(x @ torch.eye(2, dtype=torch.float64)), 2))


@pytest.mark.parametrize("name", list(REFUSED))
def test_each_refusal_is_one_sentence(name):
    make, sentence = REFUSED[name]
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == sentence


def test_a_density_far_from_the_origin_is_found_where_it_is_said_to_be():
    def far(x: Tensor) -> Tensor:
        return torch.where((x - 1000.0).abs().amax(-1) < 30.0, normal(x - 1000.0), -torch.inf)

    named = Density(far, 2, centre=1000.0, extent=3.0)
    assert as_target(named) is named
    with pytest.raises(InputError, match="say with centre and extent"):
        as_target(Density(far, 2))


def test_where_a_sampler_may_start():
    cox = make_synthetic("cox-16")
    centre, scale = start_of(cox)
    assert torch.equal(centre, cox.centre) and torch.equal(scale, cox.first_scale) and scale.ndim == 2
    centre, scale = start_of(Density(normal, 2, centre=1.0, extent=4.0))
    assert centre.tolist() == [1.0, 1.0] and scale.tolist() == [4.0, 4.0]
    centre, scale = start_of(Gaussian(torch.ones(2), torch.ones(2)))  # names none
    assert centre.tolist() == [0.0, 0.0] and scale.tolist() == [1.0, 1.0]
