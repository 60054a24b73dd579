"""The pinned Brownian process: its bridge, its reversal, and the exact solution for Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.basis.space import Space
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.trajectories import rollout, score_states
from molsampler.diffusion.twist import Twist, TwistConfig
from molsampler.smc.sampler import SMCConfig, SMCPass
from tests.stochastic import assert_mean, seeded

SPACE = Space.of(2)
SCHEDULES = [ScheduleConfig(8, process="brownian"), ScheduleConfig(5, process="brownian", line_power=1.6)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_backward_steps_compose_to_the_bridge(schedule):
    process = NoisingProcess(SPACE, schedule).double()
    mean, var = torch.ones(2).double(), torch.zeros(2).double()
    for n in reversed(range(schedule.n_steps)):
        b = process.backward_scale[n]
        mean, var = b * mean, b.square() * var + process.backward_log_var[n].exp()
        torch.testing.assert_close(mean, process.marginal_scale[n], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(var, process.marginal_std[n].square(), rtol=1e-5, atol=1e-6)
        t = float(process.reference_var[n, 0])  # the bridge from 0 at time 0 to the data at time 1
        assert float(mean[0]) == pytest.approx(t, abs=1e-6) and float(var[0]) == pytest.approx(t * (1 - t), abs=1e-6)
    # the reference walks forward as a Brownian motion of total variance 1
    assert float(process.forward_log_var.exp().sum(0)[0]) == pytest.approx(1.0, abs=1e-6)
    assert bool((process.forward_scale == 1.0).all()) and float(process.reference_var[-1, 0]) == 1.0


def test_paths_start_at_zero_and_the_prior_is_that_point():
    process = NoisingProcess(SPACE, SCHEDULES[0])
    path = process.sample_path(torch.full((5000, 2), 1.5), seeded(0))
    assert bool((path[0] == 0.0).all()) and bool((process.sample_prior(7, seeded(1)) == 0.0).all())
    assert float(process.log_prior(path[0]).abs().max()) == 0.0
    t = float(process.reference_var[4, 0])
    assert_mean(path[4].double(), 1.5 * t)
    assert_mean((path[4].double() - 1.5 * t).square(), t * (1 - t))


def test_untrained_policy_is_exact_on_a_standard_normal():
    """Brownian motion ends in N(0, 1): every weight is Z, whichever way the paths were made, in one call or step by
    step."""
    policy = DiffusionPolicy(NoisingProcess(SPACE, SCHEDULES[1]), PolicyConfig(8, 2), seeded(0))
    path, log_ratio = rollout(policy, 300, seeded(1))
    log_r = SPACE.log_prior(path[-1]) + 0.4
    torch.testing.assert_close(log_r - log_ratio, torch.full((300,), 0.4), rtol=0.0, atol=1e-4)
    assert_mean(path[-1].double().square(), 1.0)
    data = SPACE.sample_prior(300, seeded(2))
    trajectories = score_states(policy, policy.process.sample_path(data, seeded(3)), SPACE.log_prior(data))
    assert float(trajectories.log_weights().detach().abs().max()) < 1e-4


def test_drift_of_shifted_data_is_exact():
    """For data N(m, 1) the drift is m at every step, from 0 on."""
    policy = DiffusionPolicy(NoisingProcess(SPACE, SCHEDULES[0]), PolicyConfig(8, 2), seeded(0))
    m = torch.tensor([0.7, -0.4])
    with torch.no_grad():
        policy.network.mlp.last_bias[:, :2] = m
    path, log_ratio = rollout(policy, 300, seeded(1))
    log_r = SPACE.log_prior(path[-1] - m)
    assert float((log_r - log_ratio).abs().max()) < 1e-4


def test_smc_starts_from_the_point_and_is_unbiased():
    """N(m, s^2) with an untrained policy and a twist of random output: the mean of Z over 64 runs is right."""
    process = NoisingProcess(SPACE, SCHEDULES[0])
    policy, twist = (
        DiffusionPolicy(process, PolicyConfig(8, 2), seeded(0)),
        Twist(process, TwistConfig(8, 2), seeded(1)),
    )
    with torch.no_grad():
        twist.network.mlp.last_bias.copy_(0.3 * torch.randn(twist.network.mlp.last_bias.shape, generator=seeded(2)))
    generator = seeded(3)

    def log_prob(x: torch.Tensor) -> torch.Tensor:
        return SPACE.log_prior((x - 0.3) / 0.8) - 2.0 * math.log(0.8) + 1.1

    config, zero = SMCConfig(chunk=2, kappa=1.1), torch.zeros(())
    runs = [SMCPass(policy, lambda x, n: twist(x, n, zero), log_prob, 256, config, generator).run() for _ in range(64)]
    assert all(info.resampled_at == [2, 4, 6] for _, info in runs)
    z = torch.tensor([LogWeights(particles.log_w).log_mean - 1.1 for particles, _ in runs]).exp()
    assert_mean(z, 1.0)


def test_angles_are_refused():
    with pytest.raises(InputError, match="3 angles"):
        NoisingProcess(Space.of(2, 3), SCHEDULES[0])
