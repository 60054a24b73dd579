from __future__ import annotations

import pytest
import torch

from molsampler.basis import resampling
from molsampler.basis.resampling import multinomial, systematic
from tests.stochastic import assert_mean, seeded

RESAMPLERS = [systematic, multinomial]
WEIGHTS = torch.tensor([0.0, 0.11, 0.0, 0.47, 0.03, 0.39, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_frequencies_are_the_weights(resample):
    generator = seeded(0)
    counts = torch.stack([torch.bincount(resample(generator, WEIGHTS, 10), minlength=7) for _ in range(3000)])
    alive = WEIGHTS > 0.0
    assert int(counts[:, ~alive].sum()) == 0
    assert_mean(counts[:, alive], 10.0 * WEIGHTS[alive])


def test_multinomial_has_the_binomial_variance():
    generator = seeded(1)
    counts = torch.stack([torch.bincount(multinomial(generator, WEIGHTS, 10), minlength=7) for _ in range(3000)])
    deviation = (counts[:, 3] - 4.7).square()
    assert_mean(deviation, 10.0 * 0.47 * 0.53)


@pytest.mark.parametrize("n", [7, 64, 1000])
def test_systematic_counts_are_floor_or_ceiling(n):
    generator = seeded(2)
    for _ in range(20):
        w = torch.rand(50, generator=generator, dtype=torch.float64)
        w[torch.rand(50, generator=generator) < 0.4] = 0.0
        w /= w.sum()
        index = systematic(generator, w, n)
        assert index.dtype == torch.int64 and len(index) == n and bool((index.diff() >= 0).all())
        counts = torch.bincount(index, minlength=50)
        assert bool((counts >= (n * w - 1e-9).floor()).all()) and bool((counts <= (n * w + 1e-9).ceil()).all())


@pytest.mark.parametrize("u", [0.0, 0.5, 1.0 - 2.0**-53])
@pytest.mark.parametrize("resample", RESAMPLERS)
def test_zero_weight_is_never_picked_whatever_the_draw(monkeypatch, resample, u):
    monkeypatch.setattr(resampling.torch, "rand", lambda *shape, **kinds: torch.full(shape, u, dtype=torch.float64))
    for k in (4, 10, 1000, 100_000):
        w = torch.full((k,), 0.1, dtype=torch.float64)  # whose sum is not exactly one after division
        w[0] = w[k // 2] = w[-1] = 0.0
        w /= w.sum()
        index = resample(seeded(0), w, 17)
        assert bool((w[index] > 0.0).all()), f"{k} weights, u = {u}"


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_one_positive_weight_takes_all(resample):
    w = torch.zeros(9, dtype=torch.float64)
    w[4] = 1.0
    assert resample(seeded(3), w, 5).tolist() == [4] * 5


@pytest.mark.parametrize("resample", RESAMPLERS)
@pytest.mark.parametrize("k", [1, 2, 77, 999])
def test_tiny_weights_keep_their_places(monkeypatch, resample, k):
    """Weights of 1e-10 behind one of a half: a cumulative sum in float32 would take them for one another."""
    w = torch.full((1001,), 1e-10, dtype=torch.float64)
    w[0], w[-1] = 0.5, 0.5 - 999e-10
    u = 0.5 + (k - 0.5) * 1e-10
    monkeypatch.setattr(resampling.torch, "rand", lambda *shape, **kinds: torch.full(shape, u, dtype=torch.float64))
    assert resample(seeded(0), w, 1).tolist() == [k]


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_nothing_to_resample_from_is_refused(resample):
    with pytest.raises(ValueError, match="all weights are zero"):
        resample(seeded(5), torch.zeros(4, dtype=torch.float64), 4)


def test_a_seed_gives_the_same_draws():
    assert torch.equal(systematic(seeded(6), WEIGHTS, 20), systematic(seeded(6), WEIGHTS, 20))
