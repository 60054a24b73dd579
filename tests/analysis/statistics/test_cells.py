from __future__ import annotations

import numpy as np
import pytest

from molsampler.analysis.statistics.cells import cells, flat_cells, histogram


def test_cells_begin_at_minus_180_degrees_and_wrap() -> None:
    angles = np.deg2rad([-179.0, -91.0, 1.0, 179.0, 181.0, 541.0])
    assert cells(angles, 4).tolist() == [0, 0, 2, 3, 0, 0]
    assert cells(np.array([-np.pi, np.pi]), 4).tolist() == [0, 0]


def test_the_last_angle_runs_fastest() -> None:
    assert flat_cells(np.deg2rad([[-179.0, 179.0], [179.0, -179.0]]), 10).tolist() == [9, 90]


def test_histograms_agree_with_numpys() -> None:
    rng = np.random.default_rng(0)
    angles, weights = rng.uniform(-np.pi, np.pi, (500, 2)), rng.dirichlet(np.ones(500))
    truth = np.histogramdd(angles, bins=12, range=[(-np.pi, np.pi)] * 2, weights=weights)[0]
    assert histogram(angles, weights, 12) == pytest.approx(truth)
    assert histogram(angles[:, :1], None, 12) == pytest.approx(np.histogram(angles[:, 0], 12, (-np.pi, np.pi))[0] / 500)
