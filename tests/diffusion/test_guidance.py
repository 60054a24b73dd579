"""A policy that sees a guide: what it sees, what its drift has of it, and that its density stays what it says."""

from __future__ import annotations

import pytest
import torch

from molsampler.basis.space import Space
from molsampler.diffusion.chain import PolicyChain
from molsampler.diffusion.guidance import LIMIT, Guidance
from molsampler.diffusion.kinds import make_policy, make_process
from molsampler.diffusion.noise import ScheduleConfig
from molsampler.diffusion.policy import DiffusionPolicy, PolicyConfig
from molsampler.diffusion.process import NoisingProcess
from molsampler.diffusion.torsions import TorsionConfig
from molsampler.diffusion.trajectories import rollout, score_states
from tests.stochastic import seeded

SPACE = Space.of(3, 2)
SCHEDULE = ScheduleConfig(6, torsions="first")
WIDTHS = torch.tensor([0.5, 1.0, 2.0])


class Guide:
    """The score of N(0, WIDTHS^2) on the line and of cos on the circle; `asked` holds where it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, x):
        assert x.ndim == 2 and not x.requires_grad
        self.asked.append(x)
        return torch.cat([-x[:, :3] / WIDTHS**2, -x[:, 3:].sin()], 1)


def made(guide) -> PolicyChain:
    process = make_process(SPACE, SCHEDULE)
    return make_policy(process, PolicyConfig(16, 2, guide=True), TorsionConfig(4, width=16), seeded(0), guide=guide)


def states(n: int = 7) -> torch.Tensor:
    return torch.randn(n, 5, generator=seeded(1))


def test_the_guide_is_asked_at_the_expected_end_with_the_torsions_as_they_are():
    """E[x_N | x_n] = m_n x_n of the Ornstein-Uhlenbeck process for a standard normal, by regression on its paths."""
    guide = Guide()
    guidance: Guidance = made(guide).policies[-1].guidance
    x = states()
    seen = guidance(x, 4)
    (asked,) = guide.asked
    torch.testing.assert_close(asked[:, 3:], x[:, 3:])
    process = NoisingProcess(SPACE.only(type(SPACE.parts[0])), SCHEDULE)
    data = torch.randn(200_000, 3, generator=seeded(2))
    noised = process.sample_marginal(data[None], torch.tensor([4]), seeded(3))[0]
    slope = (data * noised).mean() / noised.square().mean()  # standard error below 1 / sqrt(600,000) = 0.0013
    torch.testing.assert_close(asked[:, :3], float(slope) * x[:, :3], rtol=0.0, atol=0.0065 * float(x.abs().max()))
    own = (1.0 - 1.0 / WIDTHS**2) * asked[:, :3]
    bounded = LIMIT * torch.tanh(torch.cat([own, -x[:, 3:].sin()], 1) / LIMIT)
    torch.testing.assert_close(seen, bounded)


def test_early_steps_go_without():
    guide = Guide()
    guidance = made(guide).policies[-1].guidance
    x = states()
    assert guidance.first == 2
    assert float(guidance(x, 1).abs().max()) == 0.0 and not guide.asked
    steps = torch.arange(6)
    together = guidance(x.expand(6, -1, -1), steps)
    assert guide.asked[0].shape == (4 * 7, 5)
    for n in range(6):
        torch.testing.assert_close(together[n], guidance(x, n))


@pytest.mark.parametrize("score", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_what_explodes_is_bounded(score):
    policy = made(lambda x: torch.full_like(x, score)).policies[-1]
    with torch.no_grad():
        policy.guidance.gate.fill_(1.0)
    drift, log_var = policy.drift_and_log_var(states(), 3)
    assert bool(torch.isfinite(drift).all()) and bool(torch.isfinite(log_var).all())
    assert float(policy.guidance(states(), 3).abs().max()) <= LIMIT


def test_the_drift_has_its_gated_share_and_the_network_sees_it():
    guide = Guide()
    policy: DiffusionPolicy = made(guide).policies[-1]
    x = states()
    silent, _ = policy.drift_and_log_var(x, 3)
    assert float(silent.detach().abs().max()) == 0.0  # gate and network are zero before training
    with torch.no_grad():
        policy.guidance.gate[3] = torch.tensor([1.0, 0.0, 0.5])
    drift, log_var = policy.drift_and_log_var(x, 3)
    scale = policy.process.drift_scale[3]
    torch.testing.assert_close(drift, scale * torch.tensor([1.0, 0.0, 0.5]) * policy.guidance(x, 3)[:, :3])
    assert float(log_var.detach().std(0).max()) == 0.0
    with torch.no_grad():
        policy.network.mlp.last.weight.normal_(0.0, 0.1, generator=seeded(4))
    before = policy.drift_and_log_var(x, 3)
    policy.guidance._guide = lambda x: 2.0 * guide(x)
    after = policy.drift_and_log_var(x, 3)
    assert float((after[1] - before[1]).detach().abs().max()) > 1e-4
    policy.drift_and_log_var(x.requires_grad_(), 3)[0].sum().backward()
    assert float(policy.guidance.gate.grad[3].abs().max()) > 0.0


def test_rollouts_have_the_density_that_they_are_scored_with():
    policy = made(Guide())
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(5))
    path, log_ratio = rollout(policy, 50, seeded(6))
    scored = score_states(policy, path, torch.zeros(50))
    torch.testing.assert_close(scored.log_weights(), -log_ratio, rtol=1e-4, atol=1e-4)


def test_guided_denoising_fits_a_gaussian_better_than_an_unguided_one_of_a_narrow_network():
    """After the same few updates the loss of a policy whose guide is the target's own score is lower, on the same
    states and with the same noise: by 0.042 nats where this was written."""
    losses = []
    data = torch.cat([WIDTHS * torch.randn(6000, 3, generator=seeded(7)), torch.zeros(6000, 2)], 1)
    score = Guide()(data)
    for guide in (None, Guide()):
        policy = made(guide).policies[-1]
        optimiser = torch.optim.Adam(policy.parameters(), 2e-2)
        generator = seeded(8)
        for _ in range(30):
            loss = policy.fit_losses(data, score, lambda a, w: a + w, generator).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            losses.append(float(policy.fit_losses(data, score, lambda a, w: a + w, seeded(9)).sum()))
    assert losses[1] < losses[0] - 0.02, losses
