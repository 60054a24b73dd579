"""Measures against plain formulas and other programs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import i0, i1
from scipy.stats import wasserstein_distance

from molsampler.analysis.statistics.bootstrap import Draw
from molsampler.analysis.statistics.cells import histogram
from molsampler.analysis.statistics.divergences import kl, total_variation, with_half_a_frame
from molsampler.analysis.statistics.measures import Distances, Histograms, Lines, TorusTransport


def equal(n: int) -> np.ndarray:
    return np.full(n, 1.0 / n)


def test_torsions_of_two_von_mises_have_their_closed_form() -> None:
    rng = np.random.default_rng(0)
    kappa, shift, n = 3.0, 0.4, 400_000
    a, b = rng.vonmises(shift, kappa, (n, 1)), rng.vonmises(0.0, kappa, (n, 1))
    measure = Histograms(a, b, 100, {"x": "kl", "y": "jsd", "z": "tv"})
    assert measure.names == ("x", "y", "z")
    found = measure.between(equal(n), equal(n), n)
    assert found[0] == pytest.approx(kappa * i1(kappa) / i0(kappa) * (1 - np.cos(shift)), rel=0.03)
    assert 0 < found[1] < found[0] and 0 < found[2] < 1


def test_histograms_follow_the_weights_of_both_sides() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.uniform(-np.pi, np.pi, (200, 1)), rng.uniform(-np.pi, np.pi, (300, 1))
    w, v = rng.dirichlet(np.ones(200)), rng.dirichlet(np.ones(300))
    found = Histograms(a, b, 20, {"kl": "kl", "tv": "tv"}).between(w, v, 80.0)
    q, p = histogram(a, w, 20), histogram(b, v, 20)
    assert found == pytest.approx([kl(p, with_half_a_frame(q, 80.0)), total_variation(p, q)])


def test_maps_have_phi_first_and_wrap() -> None:
    a, b = np.deg2rad([[179.0, 1.0]]), np.deg2rad([[-181.0, 1.0]])
    assert Histograms(a, b, 100, {"tv": "tv"}).between(equal(1), equal(1), 1.0) == [0.0]
    assert Histograms(a, a[:, ::-1], 100, {"tv": "tv"}).between(equal(1), equal(1), 1.0) == [1.0]


def test_transport_of_maps_is_the_shift() -> None:
    a = np.deg2rad([[-176.0, 4.0], [-168.0, 4.0]])
    measure = TorusTransport(a, a + np.deg2rad([[-15.0, 22.5]]), 48, "w2")
    assert measure.between(equal(2), equal(2), 2.0)[0] == pytest.approx(np.deg2rad(np.hypot(15.0, 22.5)), rel=1e-6)


def test_distances_agree_with_scipy() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(70, 3)), rng.normal(0.3, 1.5, size=(90, 3))
    w, v = rng.dirichlet(np.ones(70)), rng.dirichlet(np.ones(90))
    truth = [wasserstein_distance(a[:, k], b[:, k], w, v) for k in range(3)]
    measure = Distances(a, b, "mean", "largest")
    assert measure.each(w, v) == pytest.approx(truth)
    assert measure.between(w, v, 70.0) == pytest.approx([np.mean(truth), max(truth)])
    i, j = rng.integers(90, size=40), rng.integers(90, size=90)
    truth = [wasserstein_distance(b[i, k], b[j, k]) for k in range(3)]
    assert measure.drawn(Draw(i, j), rng) == pytest.approx([np.mean(truth), max(truth)])


def test_energies_that_are_infinite_count_only_where_they_have_weight() -> None:
    measure = Lines(np.array([1.0, 2.0, np.inf]), np.array([1.0, 3.0]), {"w1": 1, "w2": 2})
    assert measure.between(np.array([0.5, 0.5, 0.0]), equal(2), 2.0) == pytest.approx([0.5, np.sqrt(0.5)])
    assert measure.between(equal(3), equal(2), 3.0) == [np.inf, np.inf]
