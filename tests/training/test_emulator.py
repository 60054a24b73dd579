"""Emulators of log R against the density that they learn."""

from __future__ import annotations

import pytest
import torch

from molsampler.training import emulator as emulator_module
from molsampler.training.emulator import LEAST, Emulator, TooFewStates
from tests.stochastic import seeded
from tests.targets.analytic import TwoWells

TARGET = TwoWells(log_z=0.4)
WALLED = TwoWells(log_z=0.4, wall=-0.5)


def bounded(log_r: torch.Tensor) -> torch.Tensor:
    return log_r.nan_to_num(-30.0, neginf=-30.0).clamp_min(-30.0)


def states(n: int, seed: int = 0) -> torch.Tensor:
    """Half from the target, half from the prior, as a replay buffer has both."""
    return torch.cat([TARGET.sample(seeded(seed), n // 2), TARGET.space.sample_prior(n - n // 2, seeded(seed + 1))])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(emulator_module, "UPDATES", 300)


def test_it_learns_log_r(quick):
    """log R varies by nats over fresh states; what is left of it is small, and is what the emulator says is left."""
    x = states(6000)
    emulator = Emulator(TARGET, bounded, x, TARGET.log_prob(x), seeded(2))
    fresh = states(4000, seed=5)
    left = (emulator(fresh) - TARGET.log_prob(fresh)).double()
    left = left[left.abs() < 3.0]  # beyond the fringe of the fit
    assert len(left) > 3900 and float(TARGET.log_prob(fresh).std()) > 1.0
    assert float(left.std()) < 0.3 and 0.5 < float(left.std()) / emulator.error < 2.0


def test_a_stand_in_is_what_it_starts_from(quick, monkeypatch):
    """With a stand-in that is off by a constant nothing is left to learn; far outside it is all that speaks."""
    monkeypatch.setattr(TARGET, "stand_in", lambda: lambda x: TARGET.log_prob(x) + 7.0)
    x = states(3000)
    emulator = Emulator(TARGET, bounded, x, TARGET.log_prob(x), seeded(2))
    far = TARGET.space.sample_prior(500, seeded(3)) * torch.tensor([4.0, 1.0])
    torch.testing.assert_close(emulator(far), bounded(TARGET.log_prob(far)), atol=1e-4, rtol=1e-4)
    assert emulator.error < 1e-4


def test_it_is_finite_everywhere_and_leaves_out_states_without_density(quick):
    x = states(6000)
    log_r = WALLED.log_prob(x)
    assert not bool(torch.isfinite(log_r).all())
    emulator = Emulator(WALLED, bounded, x, log_r, seeded(2))
    far = torch.cat([x, 1e4 * x[:10], torch.full((1, 2), torch.nan)])
    assert bool(torch.isfinite(emulator(far)).all()) and not emulator(far).requires_grad


def test_the_same_states_and_seed_give_the_same_emulator(quick):
    x = states(3000)
    one, two = (Emulator(TARGET, bounded, x, TARGET.log_prob(x), seeded(4)) for _ in range(2))
    assert torch.equal(one(x), two(x)) and one.error == two.error


def test_too_few_states_are_refused():
    x = states(LEAST - 1)
    with pytest.raises(TooFewStates, match="1,999 replayed states are too few"):
        Emulator(TARGET, bounded, x, TARGET.log_prob(x), seeded(0))
