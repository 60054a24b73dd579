"""Maps of a residue: weights show, differences are those of free energies."""

from __future__ import annotations

from io import BytesIO

import matplotlib.image
import numpy as np
import pytest

from molsampler.analysis.pictures.figures import Ensemble
from molsampler.analysis.pictures.ramachandran import Map, difference, draw_ramachandran
from molsampler.basis.units import thermal_energy


def test_the_reweighted_map_shows_the_weights(mixture) -> None:
    angles, mode = mixture(np.random.default_rng(5), 5000, [0.25] * 4)
    weights = np.where(mode == 0, 1.0, 1e-4)
    pictures = []
    for w in (None, weights / weights.sum()):
        buffer = BytesIO()
        draw_ramachandran(
            [Map("ALA2", [Ensemble("reweighted", angles, w), Ensemble("raw", angles)], None)], 300.0, buffer
        )
        pictures.append(matplotlib.image.imread(BytesIO(buffer.getvalue())))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).mean() > 0.01


def test_the_difference_of_two_maps_is_that_of_their_logarithms(mixture) -> None:
    rng = np.random.default_rng(8)
    a, b = mixture(rng, 40_000, [0.5, 0.3, 0.1, 0.1])[0], mixture(rng, 40_000, [0.25, 0.3, 0.35, 0.1])[0]
    gap = difference(Ensemble("reweighted", a), Ensemble("reference", b), 300.0, 18)
    cell = [tuple(np.floor((mode + np.pi) / (2 * np.pi) * 18).astype(int)) for mode in mixture.modes]
    expected = -thermal_energy(300.0) * np.log(np.array([0.5 / 0.25, 1.0, 0.1 / 0.35, 1.0]))
    # a cell holds some 1,000 frames: 3 %, 0.1 kJ/mol
    assert [gap[c] for c in cell] == pytest.approx(expected, abs=0.4)
    assert np.isnan(gap[11, 3])
