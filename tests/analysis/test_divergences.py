"""Divergences and transport distances of distributions for which they are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import i0, i1
from scipy.stats import norm, wasserstein_distance

from molsampler.analysis import divergences as d


def test_kl_jsd_and_tv_by_hand() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    assert d.kl(p, q) == pytest.approx(0.5 * np.log(2))
    assert d.kl(q, p) == np.inf
    m = (p + q) / 2
    assert d.jensen_shannon(p, q) == pytest.approx(
        0.5 * (0.5 * np.log(0.5 / m[0]) + 0.25 * np.log(0.25 / m[0]) + 0.25 * np.log(0.25 / m[2]))
    )
    assert d.total_variation(p, q) == pytest.approx(0.25)
    assert d.jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(np.log(2))
    assert d.kl(p, p) == d.jensen_shannon(p, p) == d.total_variation(p, p) == 0.0


def test_torsions_of_two_von_mises_have_their_closed_form() -> None:
    rng = np.random.default_rng(0)
    kappa, shift, n = 3.0, 0.4, 400_000
    found = d.compare_torsion(rng.vonmises(shift, kappa, n), None, rng.vonmises(0.0, kappa, n))
    truth = kappa * i1(kappa) / i0(kappa) * (1 - np.cos(shift))
    assert found["kl"] == pytest.approx(truth, rel=0.03)
    assert 0 < found["jsd"] < found["kl"] and 0 < found["tv"] < 1


def test_kl_stays_finite_where_samples_miss_a_bin() -> None:
    found = d.compare_torsion(np.zeros(100), None, np.array([0.0, 2.0]))
    # half a frame in 100.5 over 72 bins at the missed one; nearly all at the other
    floor, near = 0.5 / 72 / 100.5, (100 + 0.5 / 72) / 100.5
    assert found["kl"] == pytest.approx(0.5 * np.log(0.5 / floor) + 0.5 * np.log(0.5 / near))


def test_transport_on_the_torus_goes_the_short_way_round() -> None:
    a, b = np.deg2rad([[175.0, 0.0]]), np.deg2rad([[-175.0, 3.0]])
    assert d.torus_w2(a, None, b, None) == pytest.approx(np.deg2rad(np.hypot(10.0, 3.0)))


def test_transport_of_a_shifted_cloud_is_the_shift() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(0.0, 0.3, (300, 2))
    assert d.torus_w2(a, None, a + [0.2, -0.1], None) == pytest.approx(np.hypot(0.2, 0.1), rel=1e-6)


def test_transport_follows_the_weights() -> None:
    a = np.array([[0.0], [1.0], [2.0]])
    assert d.torus_w2(a, np.array([0.5, 0.5, 0.0]), a, np.array([1.0, 0.0, 0.0])) == pytest.approx(np.sqrt(0.5))


def test_map_transport_of_a_rolled_histogram_is_its_shift() -> None:
    p = np.zeros((36, 36))
    p[34:, 3:6] = 1 / 6
    assert d.map_w2(p, np.roll(p, (2, 0), (0, 1))) == pytest.approx(np.deg2rad(20.0))


def test_energies_of_two_gaussians_have_their_closed_form() -> None:
    levels = (np.arange(20_000) + 0.5) / 20_000
    a, b = norm.ppf(levels), 3.0 + 2.0 * norm.ppf(levels)
    assert d.line_wasserstein(a, None, b, None, 2) == pytest.approx(np.sqrt(9.0 + 1.0), rel=1e-3)
    assert d.line_wasserstein(a, None, a + 2.5, None, 1) == pytest.approx(2.5)


def test_weighted_energies_agree_with_scipy_and_zero_weight_infinities_are_ignored() -> None:
    rng = np.random.default_rng(2)
    a, b, w = rng.normal(size=50), rng.gamma(2.0, size=31), rng.random(50)
    truth = wasserstein_distance(a, b, u_weights=w)
    a, w = np.append(a, np.inf), np.append(w, 0.0)
    assert d.line_wasserstein(a, w / w.sum(), b, None, 1) == pytest.approx(truth, rel=1e-9)


def test_line_wasserstein_where_rounding_sums_the_weights_past_one():
    """The sum of all weights but a tiny last one, in floating point, is above one for some of these; W1 of two equal
    sets of values with almost equal weights stays near zero and nothing runs out of bounds."""
    values = np.arange(10_001.0)
    past_one = 0
    for seed in range(20):
        weights = np.append(np.random.default_rng(seed).random(10_000), 1e-20)
        weights /= weights.sum()
        past_one += np.cumsum(weights)[-2] > 1.0
        assert d.line_wasserstein(values, weights, values[:10_000], weights[:-1]) < 1e-6
        assert d.line_wasserstein(values[:10_000], None, values, weights) > 0.0
    assert past_one > 0
