from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import Space
from molsampler.diffusion.networks import FREQUENCY_RANGE, Features
from molsampler.diffusion.policy import Policy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess, ScheduleConfig
from molsampler.diffusion.trajectories import rollout, score_states
from tests.stochastic import seeded


@pytest.mark.parametrize("space", [Space.of(3), Space.of(2, 2)])
def test_fourier_features_of_the_line(space):
    features = Features(space, 3)
    x = space.sample_prior(7, seeded(0))
    found = features(x)
    assert found.shape == (7, features.width) == (7, space.n_features + 6 * space.n_line)
    torch.testing.assert_close(found[:, : space.n_features], space.features(x))
    k, d = 2, space.n_line
    angle = k * math.pi * x[:, 1] / (2.0 * FREQUENCY_RANGE)
    first = space.n_features + (k - 1) * d + 1
    torch.testing.assert_close(found[:, first], angle.sin())
    torch.testing.assert_close(found[:, first + 3 * d], angle.cos())
    torch.testing.assert_close(Features(space, 0)(x), space.features(x))


def test_a_policy_with_frequencies_weighs_its_rollouts_consistently():
    policy = Policy(NoisingProcess(Space.of(2), ScheduleConfig(5)), PolicyConfig(8, 2, frequencies=4), seeded(0))
    with torch.no_grad():
        policy.network.last.weight.copy_(0.3 * torch.randn(policy.network.last.weight.shape, generator=seeded(1)))
    path, log_ratio = rollout(policy, 40, seeded(2))
    log_w = score_states(policy, path, torch.zeros(40)).log_weights()
    torch.testing.assert_close(log_w, -log_ratio, rtol=1e-4, atol=1e-3)
    assert float(log_w.detach().std()) > 0.01
