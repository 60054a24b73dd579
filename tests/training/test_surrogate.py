"""The bounded stand-in for exploding energies."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.training.surrogate import Surrogate


def test_surrogate_is_monotone_bounded_and_the_identity_above_its_knee():
    surrogate = Surrogate(margin=0.0, cap=20.0, knee=-40.0)
    log_r = torch.linspace(-300.0, 50.0, 7001, dtype=torch.float64)
    value = surrogate(log_r)
    assert torch.equal(value[log_r >= -40.0], log_r[log_r >= -40.0])
    assert bool((value.diff() >= 0).all()) and bool((value[log_r > -150.0].diff() > 0).all())
    assert bool((value >= -60.0).all()) and float(value[0]) == pytest.approx(-60.0)
    far = surrogate(torch.tensor([-torch.inf, -1e30, -1e6]))
    torch.testing.assert_close(far, torch.full((3,), -60.0))
    slope = torch.tensor([-40.0 - 1e-4], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(surrogate(slope).sum(), slope)
    assert float(gradient) == pytest.approx(1.0, abs=1e-6)  # no corner at the knee


def test_the_knee_lies_a_margin_below_the_lowest_per_cent():
    surrogate = Surrogate(margin=10.0, cap=5.0)
    surrogate.fit(torch.linspace(0.0, 100.0, 1001))
    assert surrogate.knee == pytest.approx(1.0 - 10.0)
    # the last states count, of a buffer that is larger than a quantile can take
    surrogate.fit(torch.cat([torch.full((20_000,), -1e3), torch.full((16_384,), 7.0)]))
    assert surrogate.knee == pytest.approx(-3.0)


def test_what_is_no_density_is_the_floor_where_it_must_be_finite_and_is_seen_elsewhere():
    surrogate = Surrogate(margin=0.0, cap=2.0, knee=-4.0)
    log_r = torch.tensor([math.nan, math.inf, -math.inf, 1.5])
    assert surrogate.always_finite(log_r).tolist() == [-6.0, -6.0, -6.0, 1.5]
    plain = surrogate(log_r)
    assert math.isnan(plain[0]) and math.isinf(plain[1]) and plain[2:].tolist() == [-6.0, 1.5]


def test_state_dict():
    surrogate = Surrogate(margin=1.0, cap=2.0, knee=-4.0)
    again = Surrogate(margin=1.0, cap=2.0)
    again.load_state_dict(surrogate.state_dict())
    log_r = torch.linspace(-20.0, 3.0, 50)
    assert again.knee == -4.0 and torch.equal(again(log_r), surrogate(log_r))
