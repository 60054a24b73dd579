"""Distances between samples against closed forms, brute force and the values that they have by chance alone."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from molsampler.analysis.statistics import two_sample
from molsampler.analysis.statistics.two_sample import eubo, mmd, w2_squared
from molsampler.basis.errors import InputError
from tests.stochastic import assert_mean


def test_w2_of_a_shifted_sample_is_the_shift():
    x = np.random.default_rng(0).normal(size=(300, 5))
    shift = np.array([0.5, -1.0, 0.0, 2.0, 0.1])
    assert w2_squared(x, x + shift) == pytest.approx(shift @ shift, rel=1e-9)
    assert w2_squared(x, x) == 0.0


def test_w2_on_the_line_matches_sorted_points():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=400), rng.gamma(2.0, size=400)
    expected = np.square(np.sort(x) - np.sort(y)).mean()
    assert w2_squared(x[:, None], y[:, None]) == pytest.approx(expected, rel=1e-9)


def test_w2_against_every_assignment():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    every = [np.square(x - y[list(order)]).sum(1).mean() for order in permutations(range(6))]
    assert w2_squared(x, y) == pytest.approx(min(every), rel=1e-9)


def test_w2_between_gaussians():
    """x -> A x + b with A symmetric and positive is the gradient of a convex function, so it is optimal between the
    samples as well as between N(0, I) and N(b, A^2), whose W2^2 is |b|^2 + tr (A - I)^2."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1500, 3))
    a, b = np.array([[1.5, 0.4, 0.0], [0.4, 0.8, -0.2], [0.0, -0.2, 0.5]]), np.array([1.0, 0.0, -2.0])
    y = x @ a + b
    moved = np.square(y - x).sum(1)
    assert w2_squared(x, y[::-1]) == pytest.approx(moved.mean(), rel=1e-9)
    assert_mean(torch.as_tensor(moved), b @ b + np.trace((a - np.eye(3)) @ (a - np.eye(3))))
    q = norm.ppf((rng.permutation(2000) + 0.5) / 2000)[:, None]
    assert w2_squared(q, 3.0 - 2.0 * rng.permutation(q)) == pytest.approx(9.0 + 1.0, rel=3e-3)


def test_w2_follows_the_weights_and_not_the_order():
    rng = np.random.default_rng(4)
    x, y, times = rng.normal(size=(40, 2)), rng.normal(size=(90, 2)), rng.integers(0, 4, 40)
    repeated = w2_squared(np.repeat(x, times, 0), y)
    bad = np.where(times[:, None] > 0, x, 1e6)  # where there is no weight it does not matter
    assert w2_squared(bad, y, times / times.sum()) == pytest.approx(repeated, rel=1e-9)
    assert w2_squared(y, x, None, times / times.sum()) == pytest.approx(repeated, rel=1e-9)
    order = rng.permutation(90)
    assert w2_squared(x, y[order], times / times.sum()) == pytest.approx(repeated, rel=1e-9)
    assert w2_squared(x, y) != pytest.approx(repeated, rel=1e-3)


def test_a_solver_that_stops_early_is_an_error(monkeypatch):
    rng = np.random.default_rng(5)
    monkeypatch.setattr(two_sample, "_MAX_PIVOTS", 20)
    with pytest.raises(RuntimeError, match="between 200 and 150 points stopped before"):
        w2_squared(rng.normal(size=(200, 2)), rng.normal(size=(150, 2)))


def test_two_thousand_points_in_many_dimensions():
    """The sizes of the benchmark, and weights that span many orders, with the solver run to its end."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2000, 256)), rng.normal(size=(2000, 256))
    weights = rng.exponential(size=2000) ** 4
    assert 400.0 < w2_squared(x, y) < w2_squared(x, y, weights / weights.sum()) < 600.0
    # nearly all pairs are equally far, at the bandwidth; the floor itself scatters by a few per cent
    assert mmd(x, y) == pytest.approx(np.sqrt(2 * (1 - np.exp(-0.5)) / 2000), rel=0.1)


def test_mmd_of_a_sample_with_itself_is_zero():
    x = np.random.default_rng(7).normal(size=(200, 3))
    assert mmd(x, x) == pytest.approx(0.0, abs=1e-7)
    assert mmd(x, x[::-1]) == pytest.approx(0.0, abs=1e-7)


def test_mmd_by_hand():
    """Distances 1 (within x), 2 (within y, of three points: 2, 2, 4) and six across; the median of the ten is 2.5."""
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0], [5.0], [7.0]])
    gaps = np.array([1, 2, 2, 4, 3, 5, 7, 2, 4, 6.0])
    h = np.sqrt(np.median(gaps**2))

    def kernel(a, b):
        return np.exp(-np.square(a - b.T) / (2 * h**2)).mean()

    assert mmd(x, y) == pytest.approx(np.sqrt(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)))
    assert mmd(x, y) == pytest.approx(mmd(x, y, h)) == pytest.approx(mmd(y, x))
    assert mmd(3.0 * x, 3.0 * y) == pytest.approx(mmd(x, y))  # the median knows no unit


def gaussian_kernel_mean(h: float, shift: np.ndarray) -> float:
    """E k(x, y) of x ~ N(0, I), y ~ N(shift, I)."""
    return float((h**2 / (h**2 + 2)) ** (len(shift) / 2) * np.exp(-shift @ shift / (2 * (h**2 + 2))))


def test_mmd_of_gaussians():
    """The mean of MMD^2 over samples of n is its closed form and 2 (1 - E k) / n from the diagonals."""
    rng, h, n, shift = np.random.default_rng(8), 1.3, 40, np.array([0.8, -0.3])
    same, across = gaussian_kernel_mean(h, 0 * shift), gaussian_kernel_mean(h, shift)
    found = [mmd(rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + shift, h) ** 2 for _ in range(800)]
    assert_mean(torch.tensor(found), 2 * (same - across) + 2 * (1 - same) / n)


def test_distances_between_samples_of_one_distribution():
    """W2^2 of two samples of n uniform numbers is 1 / (3 (n + 1)) on average: order statistics are Beta variables. That
    of MMD^2 is as in the test above, without a shift."""
    rng, n, repeats, h = np.random.default_rng(9), 30, 600, 0.9
    found = [w2_squared(rng.random((n, 1)), rng.random((n, 1))) for _ in range(repeats)]
    assert_mean(torch.tensor(found), 1 / (3 * (n + 1)))
    found = [mmd(rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), h) ** 2 for _ in range(repeats)]
    assert_mean(torch.tensor(found), 2 * (1 - gaussian_kernel_mean(h, np.zeros(3))) / n)


def test_eubo():
    log_w = np.random.default_rng(10).normal(2.0, 0.5, 400)
    assert eubo(log_w) == (pytest.approx(log_w.mean()), pytest.approx(log_w.std(ddof=1) / 20))
    assert eubo(np.append(log_w, np.inf)).value == np.inf
    for bad in (np.append(log_w, -np.inf), np.append(log_w, np.nan), np.array([])):
        with pytest.raises(InputError, match="EUBO needs log-weights of exact samples"):
            eubo(bad)


def test_bad_samples_are_told():
    good = np.zeros((3, 2)) + np.arange(3)[:, None]
    with pytest.raises(InputError, match=r"shapes \(3, 2\) and \(3, 1\)"):
        w2_squared(good, good[:, :1])
    with pytest.raises(InputError, match="none of them empty"):
        mmd(good, good[:0])
    with pytest.raises(InputError, match="1 of 6 points are not finite"):
        w2_squared(good, np.where(good == 2, np.nan, good))
    with pytest.raises(InputError, match="bandwidth 0"):
        mmd(np.zeros((3, 2)), np.zeros((3, 2)))
