"""Angles drawn one by one from mixtures: densities that integrate to one, draws that follow them, an exact p_B."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import Space
from molsampler.diffusion.torsions import Reveal, TorsionConfig, TorsionPolicy
from tests.stochastic import seeded

SPACE = Space.of(0, 3)
PROCESS = Reveal(SPACE)


def policy(trained: bool = True, states: int = 100, **more) -> TorsionPolicy:
    """A small policy; `trained` gives its last layer weights, so that mixtures differ and depend on what was drawn."""
    config = TorsionConfig(components=4, width=16, states=states, **more)
    made = TorsionPolicy(PROCESS, config, seeded(0), slice(0, 3)).double()
    if trained:
        with torch.no_grad():
            made.density.network.weights[-1].normal_(0.0, 0.5, generator=seeded(1))
    return made


def drawn_before(n: int, batch: int = 6) -> torch.Tensor:
    """States (batch, 3) with n angles drawn."""
    x = SPACE.sample_prior(batch, seeded(2), dtype=torch.float64)
    return PROCESS.before(x, n)


@pytest.mark.parametrize("n", [0, 1, 2])
@torch.no_grad()
def test_the_density_of_a_step_integrates_to_one(n):
    p, x = policy(), drawn_before(n)
    grid = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1]
    for row in x:
        points = row.expand(4000, -1).clone()
        points[:, n] = grid
        density = p.log_prob(points, row.expand(4000, -1), n).exp()
        assert float(density.mean()) * 2.0 * math.pi == pytest.approx(1.0, abs=1e-6)  # the images left out


@pytest.mark.parametrize("exploration", [0.0, 0.5])
@torch.no_grad()
def test_draws_follow_the_density(exploration):
    """E_q[cos k angle] by a grid against draws, 4.5 standard errors each; ten of them fail by chance in 7e-5."""
    p, n, size = policy(), 1, 40_000
    x = drawn_before(n, 1).expand(size, -1)
    y, log_q = p.sample_step(x, n, seeded(3), exploration)
    assert bool((y[:, [0, 2]] == x[:, [0, 2]]).all()) and bool((y[:, n].abs() <= math.pi).all())
    if not exploration:
        assert torch.allclose(log_q, p.log_prob(y, x, n))
    for k in range(1, 6):
        for wave in (torch.cos, torch.sin):
            # by importance weights of the draws themselves: E[f / q] = integral of f = 0 for every harmonic
            values = wave(k * y[:, n]) / log_q.exp()
            assert abs(float(values.mean())) < 4.5 * float(values.std()) / math.sqrt(size)
    volume = 1.0 / log_q.exp()
    assert float(volume.mean()) == pytest.approx(2.0 * math.pi, abs=4.5 * float(volume.std()) / math.sqrt(size))


@torch.no_grad()
def test_an_untrained_policy_of_sixteen_components_is_uniform():
    p = TorsionPolicy(PROCESS, TorsionConfig(), seeded(0), slice(0, 3)).double()
    x = SPACE.sample_prior(200, seeded(4), dtype=torch.float64)
    for n in range(3):
        assert torch.allclose(
            p.log_prob(x, PROCESS.before(x, n), n), torch.tensor(-math.log(2.0 * math.pi)).double(), atol=1e-5
        )


@torch.no_grad()
def test_the_density_of_a_step_sees_what_was_drawn_and_nothing_else():
    p, x = policy(), drawn_before(2)
    y = x.clone()
    y[:, 2] = 0.7
    other = x.clone()
    other[:, 0] += 1.0
    assert not torch.allclose(p.log_prob(y, x, 2), p.log_prob(y, other, 2))
    # many steps in one call are the steps one by one
    steps = torch.arange(3)
    data = SPACE.sample_prior(5, seeded(5), dtype=torch.float64).expand(3, -1, -1)
    before = PROCESS.before(data, steps)
    together = p.log_prob(data, before, steps)
    assert torch.allclose(together, torch.stack([p.log_prob(data[k], before[k], k) for k in range(3)]))


def test_the_backward_kernel_takes_one_angle_away_for_certain():
    x = SPACE.sample_prior(4, seeded(6))
    path = PROCESS.sample_path(x, seeded(7))
    assert path.shape == (4, 4, 3) and torch.equal(path[-1], x) and not bool(path[0].any())
    for n in range(3):
        assert torch.equal(path[n][:, :n], x[:, :n]) and not bool(path[n][:, n:].any())
        assert not bool(PROCESS.log_prob(path[n], path[n + 1], n).any())
        reference = PROCESS.log_reference(path[n], n)
        assert torch.allclose(reference, torch.tensor(-n * math.log(2.0 * math.pi)))
    steps = torch.arange(3)
    assert torch.equal(PROCESS.sample_step(path[1:], steps, seeded(8)), path[:-1])


def test_the_loss_is_the_negative_log_likelihood():
    """fit_losses is -log q of each angle over as many states as are asked for, and its gradient is not zero."""
    p = policy(states=10, dropout=0.0)
    data = SPACE.sample_prior(12, seeded(9), dtype=torch.float64)
    losses = p.fit_losses(data, data, lambda a, w: a, seeded(10))
    for n in range(3):
        expected = -p.log_prob(data[:10], PROCESS.before(data[:10], n), n).mean()
        assert losses[n].item() == pytest.approx(expected.item())
    losses.sum().backward()
    assert all(bool(w.grad.abs().sum() > 0) for w in p.density.network.weights)


def test_what_an_angle_is_not_told_leaves_no_trace():
    """With nothing told the mixture of the last angle is that of an angle without others, whatever they are; told all,
    it is the mixture itself."""
    p = policy()
    x = SPACE.sample_prior(6, seeded(11), dtype=torch.float64)
    other = torch.cat([SPACE.sample_prior(6, seeded(12), dtype=torch.float64)[:, :2], x[:, 2:]], 1)
    assert not torch.equal(p.density(x, 2), p.density(other, 2))
    nothing = torch.zeros_like(x)
    torch.testing.assert_close(p.density(x, 2, nothing), p.density(other, 2, nothing))
    torch.testing.assert_close(p.density(x, 2, torch.ones_like(x)), p.density(x, 2))
    second = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(6, 3)
    mixed = torch.cat([other[:, :1], x[:, 1:]], 1)
    torch.testing.assert_close(p.density(x, 2, second), p.density(mixed, 2, second))


def test_denoising_hides_its_share_of_the_angles():
    """The loss of the first angle, which is told nothing, is exact at any dropout; that of the last is -log q of draws
    that are told part: its mean over many masks lies where the masks that were handed in put it."""
    p, data = policy(states=500, dropout=0.3), SPACE.sample_prior(500, seeded(13), dtype=torch.float64)
    told: list[torch.Tensor] = []
    p._log_density = lambda x, n, mask: (told.append(mask), p.density(x, n, mask))[1]
    losses = p.fit_losses(data, data, lambda a, w: a, seeded(14))
    (mask,), p = told, policy(states=500)
    assert mask.shape == (3, 500, 3) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(float(mask.mean()) - 0.7) < 4.5 * math.sqrt(0.3 * 0.7 / mask.numel())
    exact = -p.log_prob(data, PROCESS.before(data, 0), 0).mean()
    assert losses[0].item() == pytest.approx(exact.item())
    assert losses[2].item() == pytest.approx(-p.density(data, 2, mask[2]).mean().item())
