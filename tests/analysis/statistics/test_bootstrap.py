"""Bootstrap errors against the spread of repetitions, floors against pairs of finite samples of the truth."""

from __future__ import annotations

import numpy as np
import pytest

from molsampler.analysis.statistics.bootstrap import Weighting, compare, floor_draws, resampled
from molsampler.analysis.statistics.estimates import independent_blocks
from molsampler.analysis.statistics.measures import Distances, Histograms, Lines, TorusTransport
from molsampler.basis.log_weights import effective_frames

TRUTH = [0.5, 0.3, 0.15, 0.05]


def delta_method(values: np.ndarray, weights: np.ndarray, groups: np.ndarray | None = None) -> float:
    """sqrt(sum w^2 (f - mean)^2), sums over groups in place of frames where these are independent (Owen, "Monte Carlo
    theory, methods and examples", section 9.2)."""
    values = np.where(weights > 0, values, 0.0)
    residual = weights * (values - weights @ values)
    return float(np.sqrt(np.square(residual if groups is None else np.bincount(groups, residual)).sum()))


def test_bootstrap_errors_of_means_are_those_of_the_delta_method() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=600), rng.exponential(size=600)
    weights[::7] = 0.0
    weights /= weights.sum()
    values[0] = np.inf  # of zero weight
    weighting = Weighting.of("", weights, 600, rng, replicates=800)
    assert weighting.effective == pytest.approx(effective_frames(weights))
    assert weighting.stderr(values) == pytest.approx(delta_method(values, weights), rel=0.12)
    groups = np.arange(600) // 20
    grouped = Weighting.of("", weights, 600, rng, groups, replicates=800)
    copies = np.repeat(rng.normal(size=30), 20)
    assert grouped.stderr(copies) == pytest.approx(delta_method(copies, weights, groups), rel=0.15)
    assert grouped.stderr(copies) > 2 * weighting.stderr(copies)


def test_replicates_are_normalised_even_where_one_frame_has_all_weight() -> None:
    weights = np.zeros(50)
    weights[3] = 1.0
    found = resampled(weights, np.random.default_rng(1), replicates=40)
    assert (found[:, 3] == 1.0).all() and found.sum() == 40.0


def test_a_single_ladder_is_cut_into_blocks() -> None:
    assert independent_blocks(np.full(50, 4)).tolist() == np.repeat(np.arange(10), 5).tolist()
    assert independent_blocks(np.array([7, 7, 2])).tolist() == [1, 1, 0]
    draw = floor_draws(12.4, np.repeat(np.arange(4), 10), np.random.default_rng(2), count=1)[0]
    assert len(draw.samples) == 12 and len(draw.reference) == 40
    assert set(np.bincount(draw.reference // 10, minlength=4)) <= {0, 10, 20, 30, 40}


MEASURES = {
    "map": lambda a, b: Histograms(a, b, 36, {"kl": "kl", "jsd": "jsd", "tv": "tv"}),
    "fine map": lambda a, b: Histograms(a, b, 100, {"kl": "kl", "jsd": "jsd", "tv": "tv"}),
    "torsion": lambda a, b: Histograms(a[:, :1], b[:, :1], 100, {"kl": "kl", "jsd": "jsd"}),
    "torus": lambda a, b: TorusTransport(a, b, 24, "w2"),
    "energy": lambda a, b: Lines(a[:, 0], b[:, 0], {"w1": 1, "w2": 2}),
    "distances": lambda a, b: Distances(a, b, "mean", "largest"),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_floor_is_what_two_finite_samples_of_the_truth_show(mixture, name) -> None:
    """1,500 independent frames against a reference of 20 ladders with 150 frames each, 12 repetitions.

    Smoothing by 4 degrees widens modes of 14 degrees a little, a few per cent of the floor; the mean of 12 repetitions
    and that of the floor are known to a few per cent each.
    """
    rng = np.random.default_rng(3)
    repeats, floors = [], []
    for _ in range(12):
        samples, reference = mixture(rng, 1500, TRUTH)[0], mixture(rng, 3000, TRUTH)[0]
        measure = MEASURES[name](samples, reference)
        uniform = np.full(1500, 1 / 1500), np.full(3000, 1 / 3000)
        repeats.append(measure.between(*uniform, 1500.0))
        draws = floor_draws(1500.0, np.arange(3000) // 150, rng, count=4)
        floors.append(np.mean([measure.drawn(draw, rng) for draw in draws], 0))
    repeats, floors = np.array(repeats), np.array(floors)
    error = np.hypot(repeats.std(0), floors.std(0)) / np.sqrt(12)
    assert (np.abs(floors.mean(0) - repeats.mean(0)) < 4.5 * error + 0.08 * repeats.mean(0)).all()
    assert (repeats.mean(0) > 0).all()


def test_errors_are_the_spread_of_repetitions_where_samples_are_wrong(mixture) -> None:
    """Samples of wrong populations against a reference of 20 ladders, 40 repetitions: a spread known to 11 %."""
    rng = np.random.default_rng(4)
    repeats = []
    for _ in range(40):
        samples, reference = mixture(rng, 1500, [0.3, 0.3, 0.3, 0.1])[0], mixture(rng, 3000, TRUTH)[0]
        measure = Histograms(samples, reference, 24, {"tv": "tv", "jsd": "jsd"})
        ladders = np.arange(3000) // 150
        weighting = Weighting.of("", None, 1500, rng, replicates=30)
        replicates = resampled(np.full(3000, 1 / 3000), rng, ladders, 30)
        found = compare(measure, weighting, replicates, floor_draws(1500.0, ladders, rng, count=3), rng)
        repeats.append([(f.value, f.stderr) for f in found.values()])
    array = np.array(repeats)
    assert np.abs(array[:, :, 1].mean(0) / array[:, :, 0].std(0, ddof=1) - 1).max() < 0.45
    assert all(f.value > 1.5 * f.floor for f in found.values())


def test_reweighted_samples_of_another_density_are_at_their_floor(mixture) -> None:
    rng = np.random.default_rng(5)
    proposal = np.array([0.4, 0.2, 0.3, 0.1])
    samples, mode = mixture(rng, 6000, list(proposal))
    weights = (np.array(TRUTH) / proposal)[mode]
    weights /= weights.sum()
    reference, ladders = mixture(rng, 4000, TRUTH)[0], np.arange(4000) // 200
    measure = Histograms(samples, reference, 48, {"tv": "tv", "jsd": "jsd"})
    replicates = resampled(np.full(4000, 1 / 4000), rng, ladders)
    for weighted, at_floor in ((weights, True), (None, False)):
        weighting = Weighting.of("", weighted, 6000, rng)
        draws = floor_draws(weighting.effective, ladders, rng)
        for figure in compare(measure, weighting, replicates, draws, rng).values():
            assert (abs(figure.value - figure.floor) < 4.5 * figure.floor_spread + 0.05 * figure.floor) is at_floor
