"""Coordinates through sinh: what they are fitted to and what is refused; the contract is in tests/basis."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.targets.coordinates.sinh import Sinh
from molsampler.targets.synthetic import make_synthetic
from tests.stochastic import seeded


def test_the_map_and_its_determinant():
    coordinates = Sinh(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.3]))
    z = 3.0 * torch.randn(50, 2, generator=seeded(0), dtype=torch.float64)
    x, log_det = coordinates.to_natural(z)
    expected = torch.tensor([0.5, -1.0]) + torch.tensor([2.0, 0.3]).double() * z.sinh()
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det, math.log(0.6) + z.cosh().log().sum(-1), rtol=1e-6, atol=1e-6)
    # log cosh where cosh itself overflows
    _, far = coordinates.to_natural(torch.tensor([[1000.0, -1000.0]]))
    assert float(far) == pytest.approx(math.log(0.6) + 2000.0 - 2.0 * math.log(2.0))


def test_fit_gives_median_zero_and_unit_spread_whatever_the_tails():
    x = make_synthetic("student-2d").sample(seeded(2), 20_000)
    coordinates = Sinh(torch.zeros(2), torch.ones(2)).fit(x)
    z = coordinates.to_standard(x)
    torch.testing.assert_close(z.square().mean(0), torch.ones(2).double(), rtol=1e-6, atol=1e-6)
    assert float(z.median(0).values.abs().max()) < 1e-9
    assert float(z.abs().max()) < 8.0 < float(x.abs().max()) / float(x.abs().median())  # tails: two degrees of freedom


def test_one_scale_a_coordinate():
    with pytest.raises(InputError, match="one positive number a coordinate"):
        Sinh(torch.zeros(2), torch.eye(2))


def test_what_cannot_be_standardised_is_refused():
    with pytest.raises(InputError, match="coordinate 1 has the same value in all 9 samples"):
        Sinh(torch.zeros(2), torch.ones(2)).fit(torch.stack([torch.arange(9.0), torch.ones(9)], 1))
