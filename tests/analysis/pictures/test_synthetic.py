"""The pictures are taken apart again: what is drawn where, and what the words on them say."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from molsampler.analysis.pictures import synthetic as synthetic_figures
from molsampler.analysis.pictures.figures import COLOURS
from molsampler.analysis.pictures.synthetic import (
    ArmMetric,
    Mark,
    draw_arms,
    draw_curves,
    draw_resampling,
    draw_samples,
)
from molsampler.basis.errors import InputError

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=(3000, 4))


def gaussian(x: np.ndarray) -> np.ndarray:
    return -0.5 * np.square(x).sum(1)


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that are drawn, instead of files."""
    seen: list[Figure] = []
    monkeypatch.setattr(synthetic_figures, "save", lambda figure, path: seen.append(figure))
    return seen


def dots(axis) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) and areas (n,) of the samples of a panel."""
    (found,) = (c for c in axis.collections if c.get_rasterized())
    return np.asarray(found.get_offsets()), found.get_sizes()


def test_every_picture_is_a_png(tmp_path):
    rows = [{"update": "100", "smc_runs": "4", "smc_resampled_at": "6:3"}]
    draw_samples(tmp_path / "samples.png", TRUTH, None, TRUTH, limits=(-4, 4), title="four Gaussians")
    draw_arms(tmp_path / "arms.png", {"a": {"ess": (40.0, 2.0)}}, [ArmMetric("ess", "ESS (%)")])
    draw_curves(tmp_path / "curves.png", {"a": [{"energy_evaluations": np.arange(9.0), "ess": np.arange(9.0)}]}, "ess")
    draw_resampling(tmp_path / "resampling.png", rows, 24, 6)
    for name in ("samples", "arms", "curves", "resampling"):
        picture = imread(tmp_path / f"{name}.png")
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.02


def test_samples_are_shown_in_their_coordinates_and_counted(figures):
    x = np.concatenate([TRUTH[:1000], np.full((7, 4), 9.0)])
    weights = np.zeros(1007)
    weights[[3, 8]] = 0.25, 0.75
    draw_samples("", x, weights, TRUTH, limits=(-4.0, 4.0), axes=(1, 3))
    truth, raw, reweighted = figures[0].axes
    np.testing.assert_array_equal(dots(raw)[0], x[:, [1, 3]])
    assert len(dots(truth)[0]) == 2000
    assert raw.get_xlabel() == "$x_{2}$" and truth.get_ylabel() == "$x_{4}$"
    assert raw.get_xlim() == raw.get_ylim() == (-4.0, 4.0)
    assert [axis.get_title().split("\n")[0] for axis in figures[0].axes] == [
        "exact samples",
        "raw samples",
        "reweighted samples",
    ]
    assert "2,000 of 3,000" in truth.get_title() and "1,007; 7 outside" in raw.get_title()
    area = dots(reweighted)[1]
    assert area[3] > 0 and set(np.nonzero(area)[0]) == {3, 8}


def test_areas_are_proportional_to_weights(figures):
    weights = np.linspace(1.0, 3.0, 3000)
    draw_samples("", TRUTH, weights / weights.sum(), TRUTH, limits=(-4.0, 4.0))
    _, raw, reweighted = figures[0].axes
    area = dots(reweighted)[1]
    assert area[-1] == pytest.approx(3 * area[0], rel=1e-6)
    assert area.sum() == pytest.approx(len(area) * dots(raw)[1][0])  # as much ink as without weights


def test_contours_hold_their_shares():
    """Of a standard normal in the plane, share m lies within r^2 = -2 ln(1 - m), where the density is 1 - m."""
    _, (_, levels) = synthetic_figures._levels(TRUTH[:, :2], (-6.0, 6.0), gaussian)
    np.testing.assert_allclose(levels, [0.01, 0.1, 0.5], rtol=0.02)
    many = np.random.default_rng(1).normal(size=(100_000, 2))
    grid, (density, levels) = synthetic_figures._levels(many, (-6.0, 6.0), None)
    for level, share in zip(levels, (0.9, 0.5), strict=True):
        inside = grid[np.abs(density[:, len(grid) // 2]) > level]  # a cut through the middle
        assert np.abs(inside).max() == pytest.approx(np.sqrt(-2 * np.log(1 - share)), abs=0.15)


def test_limits_that_miss_everything_are_told(figures):
    with pytest.raises(InputError, match=r"no exact sample lies within the limits \(20.0, 30.0\)"):
        draw_samples("", TRUTH, None, TRUTH, limits=(20.0, 30.0))


def test_modes_without_a_sample_are_ringed_in_every_coordinate(figures):
    modes = np.array([[0.0, 0, 0, 0], [0.0, 0, 0, 50.0], [3.0, 3, 0, 0]])  # the second hides behind the first
    x = np.random.default_rng(2).normal(size=(500, 4)) * 0.1
    draw_samples("", x, None, TRUTH, limits=(-4.0, 4.0), modes=modes, mode_radius=1.0)
    raw = figures[0].axes[1]
    assert raw.get_legend().get_texts()[0].get_text() == "2 of 3 modes without a sample"
    (rings,) = (c for c in raw.collections if c.get_label().endswith("sample"))
    np.testing.assert_array_equal(rings.get_offsets(), modes[1:, :2])
    draw_samples("", x, None, TRUTH, limits=(-4.0, 4.0), modes=modes[:1], mode_radius=1.0)
    assert figures[1].axes[1].get_legend() is None


def test_arms_stand_beside_floor_and_truth(figures):
    arms = {
        "default": {"w2": (30.0, 4.0), "gap": (0.1, 0.05)},
        "one seed": {"w2": (40.0, np.nan), "gap": (-0.2, 0.1)},
        "lost": {"w2": (np.inf, np.nan)},
    }
    metrics = [
        ArmMetric("w2", "W2", Mark("floor", 28.0, 3.0), log=True),
        ArmMetric("gap", "gap (nats)", Mark("truth", 0.0)),
    ]
    draw_arms("", arms, metrics)
    w2, gap = figures[0].axes
    assert [label.get_text() for label in w2.get_yticklabels()] == list(arms)
    assert w2.get_ylim()[0] > w2.get_ylim()[1]  # the first arm is on top
    assert w2.get_xscale() == "log" and gap.get_xscale() == "linear"
    np.testing.assert_array_equal(w2.containers[0].lines[0].get_xydata(), [[30.0, 0], [40.0, 1]])
    np.testing.assert_allclose(w2.containers[0].lines[2][0].get_segments()[0], [[26.0, 0], [34.0, 0]])
    np.testing.assert_array_equal(gap.containers[0].lines[0].get_xydata(), [[0.1, 0], [-0.2, 1]])
    assert [text.get_text() for text in w2.texts] == ["∞"] and [t.get_text() for t in gap.texts] == ["not measured"]
    assert w2.get_legend().get_texts()[0].get_text() == "floor 28"
    (floor,) = (line for line in w2.lines if line.get_label() == "floor 28")
    assert set(floor.get_xdata()) == {28.0} and to_hex(floor.get_color()) == COLOURS["reference"]


def test_a_bar_that_reaches_zero_on_a_logarithmic_axis(figures):
    draw_arms("", {"a": {"w2": (2.0, 5.0)}, "b": {"w2": (0.0, 0.0)}}, [ArmMetric("w2", "W2", log=True)])
    (axis,) = figures[0].axes
    np.testing.assert_allclose(axis.containers[0].lines[2][0].get_segments()[0], [[0.2, 0], [7.0, 0]])
    assert [text.get_text() for text in axis.texts] == ["0"]


def test_curves_of_seeds_and_their_median(figures):
    """Three straight lines over unequal ranges: the median and the band over what all of them cover."""
    seeds = [
        {"energy_evaluations": 1e6 * at, "elbo": k + 2.0 * at}
        for k, at in enumerate([np.linspace(0, 4, 9), np.linspace(1, 5, 5), np.linspace(0.5, 3, 11)])
    ]
    draw_curves("", {"a": seeds, "b": seeds[:1], "empty": [{"update": np.ones(3)}]}, "elbo")
    (axis,) = figures[0].axes
    lines = {line.get_label(): line for line in axis.lines}
    median = lines["a (3 seeds)"]
    assert median.get_xdata()[[0, -1]].tolist() == [1.0, 3.0]
    np.testing.assert_allclose(median.get_ydata(), 1.0 + 2.0 * median.get_xdata())
    band = axis.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(2.0) and band[:, 1].max() == pytest.approx(8.0)
    np.testing.assert_allclose(lines["b"].get_xydata()[:, 1], 2.0 * np.linspace(0, 4, 9))
    assert "empty (0 of 1 seeds)" in lines
    assert axis.get_xlabel() == "energy evaluations (millions)"


def test_curves_show_where_they_end_not_where_they_begin(figures):
    elbo = np.append(-1e6 * np.ones(5), np.linspace(-3.0, -1.0, 35))
    seed = {"energy_evaluations": 1e6 * np.arange(40.0), "elbo": elbo}
    draw_curves("", {"a": [seed]}, "elbo")
    (axis,) = figures[0].axes
    assert -3.0 < axis.get_ylim()[0] < -1.5
    assert axis.lines[-1].get_xdata().max() == pytest.approx(39.0)
    draw_curves("", {"a": [seed | {"gap": -elbo}, seed | {"gap": elbo}]}, "gap", log=True)
    (axis,) = figures[1].axes
    assert axis.get_yscale() == "log" and "a (1 of 2 seeds)" in [line.get_label() for line in axis.lines]


ROWS = [
    {"update": "0", "smc_runs": "0", "smc_resampled_at": ""},
    {"update": "100", "smc_runs": "0", "smc_resampled_at": ""},
    {"update": "200", "smc_runs": "4", "smc_resampled_at": "6:3 12:1"},
    {"update": "350", "smc_runs": "2", "smc_resampled_at": "18:2"},
]


def test_where_smc_resampled(figures):
    draw_resampling("", ROWS, n_steps=24, chunk=6)
    grid, total = figures[0].axes[:2]
    mesh = grid.collections[-1]
    expected = [[np.nan, 75.0, 0.0], [np.nan, 25.0, 0.0], [np.nan, 0.0, 100.0]]  # steps 6, 12, 18 by row
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan).reshape(3, 3), expected)
    corners = mesh.get_coordinates()
    assert corners[0, :, 0].tolist() == [0.0, 100.0, 200.0, 350.0]
    assert corners[:, 0, 1].tolist() == [3.0, 9.0, 15.0, 21.0]
    np.testing.assert_allclose([bar.get_width() for bar in total.patches], [50.0, 100 / 6, 100 / 3])
    assert "grey: no run" in grid.get_title() and grid.get_ylim() == (0.0, 24.0)


def test_resampling_of_other_numbers_of_steps_is_told(figures):
    with pytest.raises(InputError, match="resampled at step 18, which is no multiple of 6 below 18"):
        draw_resampling("", ROWS, n_steps=18, chunk=6)
    with pytest.raises(InputError, match="step 6, which is no multiple of 4"):
        draw_resampling("", ROWS, n_steps=24, chunk=4)


def test_no_smc_says_so(figures):
    for rows, chunk, text in ((ROWS[:2], 6, "no run of SMC"), ([], 6, "no run of SMC"), (ROWS[:2], 24, "one chunk")):
        draw_resampling("", rows, 24, chunk)
        assert text in figures[-1].texts[0].get_text() and not figures[-1].axes
