"""What is special about Hamiltonian Monte Carlo: its leapfrog, its link to MALA, the scatter of its steps.

What it shares with the other kernels is in test_kernels.py.
"""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.space import Space
from molsampler.smc.moves import hmc as hmc_module
from molsampler.smc.moves.chain import ChainState, ProposalScale, drift
from molsampler.smc.moves.kernels import kernel_named
from molsampler.smc.moves.mala import mala
from tests.smc.moves.chains import start
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian, Skewed


def test_one_leapfrog_step_is_mala(monkeypatch):
    """The same noise and the same decisions: the two formulae of the acceptance are one where the angle's kernel is
    narrow. The score's truncation acts on some of the chains."""
    monkeypatch.setattr(hmc_module, "_JITTER", 0.0)
    target = Skewed(a=2.0, kappa=2.0)
    x = target.sample(seeded(7), 2000).double()
    x[:200, 0] += 2.5  # where forces explode
    state, scale = start(target, x), ProposalScale(torch.tensor([1.2, 0.4], dtype=torch.float64), 1.0)
    monkeypatch.setattr(torch, "rand", lambda *size, generator, **kind: torch.full(size, 0.3, dtype=kind["dtype"]))
    one, _, rate = mala(target.log_prob_and_score, target.space, state, scale, 1, seeded(8))
    other, _, same = kernel_named("hmc", 1)(target.log_prob_and_score, target.space, state, scale, 1, seeded(8))
    torch.testing.assert_close(one.x, other.x, rtol=1e-9, atol=1e-9)
    assert rate == same and 0.3 < rate < 0.99
    assert (
        int(((drift(state.score, scale.scale) - 0.5 * scale.scale**2 * state.score).abs().amax(-1) > 1e-6).sum()) > 50
    )


def test_leapfrog_is_reversible_and_of_second_order():
    target = Skewed(a=2.0, kappa=2.0)
    x = target.sample(seeded(9), 500).double()
    first = start(target, x)
    noise = torch.randn(x.shape, generator=seeded(10), dtype=torch.float64)

    def path(step: float, steps: int) -> tuple[ChainState, torch.Tensor, torch.Tensor]:
        std = step * torch.ones(2, dtype=torch.float64)
        last, v = hmc_module._leapfrog(target.log_prob_and_score, target.space, first, std * noise, std, steps)
        back, w = hmc_module._leapfrog(target.log_prob_and_score, target.space, last, -v, std, steps)
        torch.testing.assert_close(target.space.wrap(back.x - x), torch.zeros_like(x), rtol=0.0, atol=1e-9)
        torch.testing.assert_close(-w, std * noise, rtol=0.0, atol=1e-9)
        return last, v, last.log_r - first.log_r - 0.5 * ((v / std).square() - noise.square()).sum(-1)

    (_, _, rough), (last, _, fine) = path(0.02, 40), path(0.01, 80)
    assert float((last.x - x).abs().max()) > 1.0
    assert float(rough.square().mean().sqrt() / fine.square().mean().sqrt()) == pytest.approx(4.0, abs=0.3)


def test_the_circle_is_crossed_by_a_long_trajectory():
    """Constant velocity on a flat circle: the angle advances by the whole path, wrapped."""
    space = Space.of(0, 1)

    def flat(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(x)), torch.zeros_like(x)

    x, v = torch.tensor([[3.0], [-3.0]]), torch.tensor([[0.5], [-2.0]])
    last, _ = hmc_module._leapfrog(flat, space, ChainState(x, *flat(x)), v, torch.ones(1), 7)
    torch.testing.assert_close(last.x, space.wrap(x + 7 * v), rtol=0.0, atol=1e-5)


def test_trajectories_do_not_fall_in_with_a_period_of_the_target():
    """Eight leapfrog steps of this length are one whole turn of a harmonic oscillator: without the scatter of the step
    every chain would come back to where it was, for ever. With it, a mean shrinks by sin(0.4 pi) / (0.4 pi) a step."""
    target = Gaussian(torch.zeros(1), torch.ones(1))
    scale = ProposalScale(torch.ones(1), 2.0 * math.sin(math.pi / 8.0))
    first = start(target, torch.full((4000, 1), 2.0))
    hmc = kernel_named("hmc", 8)
    state, _, _ = hmc(target.log_prob_and_score, target.space, first, scale, 50, seeded(11), adapt=False)
    assert_mean(state.x[:, 0], 0.0)
    assert_mean(state.x[:, 0].square(), 1.0)
