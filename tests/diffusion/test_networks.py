from __future__ import annotations

import pytest
import torch

from molsampler.basis.space import Circle, Line, Space
from molsampler.diffusion.networks import make_network
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.trajectories import rollout, score_states
from tests.stochastic import seeded


def filled(parameter: torch.Tensor, seed: int) -> None:
    with torch.no_grad():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=seeded(seed)))


@pytest.mark.parametrize("space", [Space.of(3), Space.of(2, 2), Space((Circle(1), Line(1)))])
def test_a_network_is_made_for_a_space_and_is_zero_before_training(space):
    network = make_network(space, PolicyConfig(8, 3, frequencies=2), 5, 4, seeded(0))
    x = space.sample_prior(12, seeded(1)).view(2, 6, space.dim)
    n = torch.tensor([3, 1])
    assert network(x, n).shape == (2, 6, 5) and bool((network(x, n) == 0.0).all())
    filled(network.mlp.last.weight, 2)
    filled(network.mlp.scale, 3)
    # it sees the features of the space, with its own frequencies
    torch.testing.assert_close(network(x, n), network.mlp(space.features(x, 2), n))
    # slices of a tensor of steps are the single steps, and steps differ
    for k, step in enumerate(n.tolist()):
        torch.testing.assert_close(network(x, n)[k], network(x[k], step))
    assert float((network(x[0], 3) - network(x[0], 1)).detach().abs().max()) > 1e-3


def test_the_same_generator_gives_the_same_network_and_another_does_not():
    space = Space.of(2, 1)
    one, two, other = (make_network(space, PolicyConfig(8, 2), 3, 4, seeded(k)).state_dict() for k in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["mlp.first.weight"], other["mlp.first.weight"])


def test_a_policy_with_frequencies_weighs_its_rollouts_consistently():
    process = NoisingProcess(Space.of(2), ScheduleConfig(5))
    policy = DiffusionPolicy(process, PolicyConfig(8, 2, frequencies=4), seeded(0))
    filled(policy.network.mlp.last.weight, 1)
    path, log_ratio = rollout(policy, 40, seeded(2))
    log_w = score_states(policy, path, torch.zeros(40)).log_weights()
    torch.testing.assert_close(log_w, -log_ratio, rtol=1e-4, atol=1e-3)
    assert float(log_w.detach().std()) > 0.01
