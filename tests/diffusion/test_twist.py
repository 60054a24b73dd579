from __future__ import annotations

import pytest
import torch

from molsampler.basis.space import Space
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.twist import Twist, TwistConfig
from tests.stochastic import seeded

SPACE = Space.of(2, 1)
LOG_Z = torch.tensor(-1.7)


def twist(**config) -> Twist:
    return Twist(NoisingProcess(SPACE, ScheduleConfig(n_steps=8)), TwistConfig(8, 2, **config), seeded(0))


def stirred(network: Twist) -> Twist:
    with torch.no_grad():
        network.network.mlp.last.weight.copy_(torch.randn(network.network.mlp.last.weight.shape, generator=seeded(1)))
    return network


def states() -> torch.Tensor:
    return SPACE.sample_prior(20, seeded(2))


def test_zero_output_is_the_reference_marginal_times_z():
    x = states()
    for n in (1, 4, 7):
        torch.testing.assert_close(twist()(x, n, LOG_Z), SPACE.log_prior(x) + LOG_Z)


def test_partial_energy():
    x, log_r = states(), torch.randn(20, generator=seeded(3)) - 4.0
    partial = stirred(twist(partial_energy=True, partial_power=2.0))
    for n in (1, 4, 7):
        beta = (n / 8) ** 2
        # DESIGN: (1 - beta_n) log p_ref + beta_n log R + network, with Z kept in the part that the reference holds
        expected = (1.0 - beta) * (SPACE.log_prior(x) + LOG_Z) + beta * log_r
        network = partial.network(x, n)[:, 0]
        assert float(network.detach().abs().max()) > 0.1
        torch.testing.assert_close(partial(x, n, LOG_Z, log_r), expected + network, rtol=1e-4, atol=1e-4)


def test_missing_energy_is_refused():
    with pytest.raises(ValueError, match="log_r is missing"):
        twist(partial_energy=True)(states(), 3, LOG_Z)


def test_energy_is_not_asked_for_without_partial_energy():
    plain = stirred(twist())
    assert not plain.needs_energy and twist(partial_energy=True).needs_energy
    x = states()
    torch.testing.assert_close(plain(x, 7, LOG_Z, torch.full((20,), -torch.inf)), plain(x, 7, LOG_Z))
