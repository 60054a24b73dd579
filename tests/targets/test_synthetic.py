"""One contract, walked through by every synthetic target of the registry; then what is special about each."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from molsampler.basis.errors import InputError
from molsampler.basis.space import Circle
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.targets.charted import Charted
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.many_well import ManyWell
from molsampler.targets.pines import PineSaplings
from molsampler.targets.robot_arm import Elbow
from molsampler.targets.synthetic import SYNTHETIC, SyntheticTarget, make_synthetic
from tests.stochastic import BOUND, assert_mean, seeded

# the largest takes a minute for its samples
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "cox-40" else name for name in SYNTHETIC]
NORMALISED = [name for name in SYNTHETIC if name.startswith(("gmm", "student", "funnel"))]


@cache
def target(name: str) -> SyntheticTarget:
    return make_synthetic(name)


@cache
def samples(name: str) -> torch.Tensor:
    """Float64; fewer where they cost more."""
    dim = target(name).space.dim
    n = 4000 if dim >= 50 or name.startswith("logistic") else 20_000
    return target(name).sample(seeded(1), n if dim < 100 else 1000)


def points(name: str, n: int = 4) -> torch.Tensor:
    """(2 n, D) float64: samples, and draws of the first prior, which lie off the modes."""
    wide = torch.randn(n, target(name).space.dim, generator=seeded(2), dtype=torch.float64)
    return torch.cat([samples(name)[:n], target(name).centre + target(name).extent * wide])


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_dtypes(name):
    found, x = target(name), points(name)
    dim = found.space.dim
    assert found.name == name and found.space.count(Circle) == 0
    assert found.centre.shape == found.extent.shape == (dim,) and bool((found.extent > 0.0).all())
    assert max(found.plot_axes) < dim and found.limits[0] < found.limits[1]
    assert samples(name).shape == (len(samples(name)), dim) and samples(name).dtype == torch.float64
    assert found.sample(seeded(0), 0).shape == (0, dim)
    log_r, score = found.log_prob_and_score(x)
    assert log_r.shape == (8,) and score.shape == x.shape and log_r.dtype == score.dtype == torch.float64
    single, single_score = found.log_prob_and_score(x.float())
    assert single.dtype == single_score.dtype == torch.float32
    # the thin modes of the arm magnify the rounding of its end, 1e-6, by up to 1e4 a spread of 0.01
    torch.testing.assert_close(single.double(), log_r, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_know_each_other(name):
    x = points(name)
    whole, single = target(name).log_prob_and_score(x), target(name).log_prob_and_score(x[2:3])
    torch.testing.assert_close(single[0], whole[0][2:3])
    torch.testing.assert_close(single[1], whole[1][2:3])
    log_r, score = target(name).log_prob_and_score(x[:0])
    assert log_r.shape == (0,) and score.shape == x[:0].shape and target(name).count_modes(x[:0]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_score_by_finite_differences(name):
    h, found = 1e-6, target(name)
    shifts = h * torch.eye(found.space.dim, dtype=torch.float64)
    for row in points(name, 2):
        difference = (found.log_prob(row + shifts) - found.log_prob(row - shifts)) / (2.0 * h)
        torch.testing.assert_close(difference, found.log_prob_and_score(row[None])[1][0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_first_prior_and_picture_hold_the_target(name):
    """As a user may expect: most samples lie within two extents of the centre, and inside the picture."""
    found, x = target(name), samples(name)
    assert float(((x - found.centre).abs() <= 2.0 * found.extent).double().mean()) > 0.9
    shown = x[:, list(found.plot_axes)]
    assert float(((shown >= found.limits[0]) & (shown <= found.limits[1])).double().mean()) > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_stein_identity(name):
    """E[score] = 0 and E[score_i (x_i - c_i)] = -1."""
    x = samples(name)
    score = target(name).log_prob_and_score(x)[1]
    if not name.startswith("funnel"):  # its scores have tails too heavy for a mean
        assert_mean(score, 0.0)
    assert_mean(score * (x - target(name).centre), -1.0)


def gaussian_draws(found: PineSaplings, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the Gaussian with the highest ELBO, ESS 6 %."""
    normal = torch.distributions.MultivariateNormal(*found.gaussian)
    x = found.gaussian[0] + torch.randn(n, 1600, generator=seeded(4), dtype=torch.float64) @ normal.scale_tril.T
    return x, found.log_prob(x) - normal.log_prob(x)


def annealed_draws(found: SyntheticTarget) -> tuple[torch.Tensor, torch.Tensor]:
    """Every second particle of a run of annealed SMC: moved for so long at the target that they are independent."""
    config = AnnealConfig(particles=4000, ess=0.5, moves=4, last_moves=60, kernel="mala")
    mode, hessian = found.mode
    chart = Charted(found, Affine(mode, torch.linalg.cholesky(torch.linalg.inv(hessian))))
    x = annealed_smc(chart.log_prob_and_score, chart.space, config, seeded(4), explore=False).state.x[::2].double()
    return chart.coordinates.to_natural(x)[0], torch.zeros(len(x), dtype=torch.float64)


def independent(name: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, D) draws by another method than `sample`, with log-weights (n,): numpy and scipy, or importance sampling."""
    found, rng = target(name), np.random.default_rng(3)
    dim = found.space.dim
    if name == "robot-arm-4":
        return Elbow(found, 3).weighted(seeded(4), n)
    if name == "cox-16":
        return found.weighted(seeded(4), 3000)
    if name == "cox-40":
        return gaussian_draws(found, 4000)
    if name.startswith("logistic"):
        return annealed_draws(found)
    if name.startswith("funnel"):
        first = rng.normal(0.0, 3.0, (n, 1))
        x = np.concatenate([first, rng.normal(0.0, np.exp(first / 2.0), (n, dim - 1))], 1)
    elif name.startswith("manywell"):
        grid = np.linspace(-4.0, 4.0, 40_001)
        mass = np.exp(-(grid**4) + 6.0 * grid**2 + 0.5 * grid).cumsum()
        x = rng.normal(size=(n, dim))
        x[:, 0::2] = np.interp(rng.uniform(size=(n, dim // 2)), mass / mass[-1], grid)
    else:
        centre = found.modes.numpy()[rng.integers(len(found.modes), size=n)]
        noise = rng.normal(size=(n, dim)) * found.std if name.startswith("gmm") else rng.standard_t(2, (n, dim))
        x = centre + noise
    return torch.from_numpy(x), torch.zeros(n, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_density(name):
    """Cumulative histograms of log R and of coordinates, against an independent method."""
    x, (y, log_w) = samples(name), independent(name, 20_000)
    weight = log_w.softmax(0)
    energies = [target(name).log_prob(z)[:, None] for z in (x, y)]
    x, y = (torch.cat([energy, z[:, :8]], 1) for energy, z in zip(energies, (x, y), strict=True))
    levels = y.quantile(torch.linspace(0.1, 0.9, 9, dtype=torch.float64), dim=0)  # (9, functions)
    below, other = ((z[:, None, :] <= levels).double() for z in (x, y))  # (n, 9, functions)
    expected = (weight[:, None, None] * other).sum(0)
    variance = below.var(0) / len(below) + ((weight[:, None, None] * (other - expected)) ** 2).sum(0)
    deviation = (below.mean(0) - expected) / variance.sqrt().clamp_min(1e-9)
    assert float(deviation.abs().max()) < BOUND


@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_densities_agree_with_scipy(name):
    """log Z = 0 because every part is a density of scipy's, far out in the tails as well."""
    found, x = target(name), torch.cat([points(name), 10.0 * points(name)])
    if name.startswith("funnel"):
        first, others = x[:, :1].numpy(), x[:, 1:].numpy()
        log_p = stats.norm.logpdf(first, 0.0, 3.0) + stats.norm.logpdf(others, 0.0, np.exp(first / 2.0)).sum(1)[:, None]
        log_p = torch.from_numpy(log_p[:, 0])
    else:
        distance = (x[:, None, :] - found.modes).numpy()
        one = stats.norm.logpdf(distance, 0.0, found.std) if name.startswith("gmm") else stats.t.logpdf(distance, 2)
        log_p = torch.from_numpy(one.sum(-1)).logsumexp(1) - math.log(len(found.modes))
    torch.testing.assert_close(found.log_prob(x), log_p, rtol=1e-10, atol=1e-10)
    assert found.log_z == 0.0


@pytest.mark.parametrize("name", ["gmm25", "gmm40-2d", "gmm40-2d-softplus"])
def test_log_z_by_quadrature(name):
    line = torch.arange(-50.0, 50.0, 0.3, dtype=torch.float64)
    total = target(name).log_prob(torch.cartesian_prod(line, line)).logsumexp(0) + 2.0 * math.log(0.3)
    assert float(total) == pytest.approx(0.0, abs=1e-6)


def test_mixtures_are_those_of_the_literature():
    """The first mean is that of the published program; a global seed gives the same numbers."""
    means = target("gmm40-2d").modes
    torch.testing.assert_close(means[0], torch.tensor([-0.2995, 21.4577]).double(), atol=1e-4, rtol=0.0)
    with torch.random.fork_rng():
        for dim in (2, 5, 50):
            torch.manual_seed(0)
            assert torch.equal(((torch.rand((40, dim)) - 0.5) * 2 * 40).double(), target(f"gmm40-{dim}d").modes)
    assert target("gmm40-2d").std == 1.0 and target("gmm40-2d-softplus").std == pytest.approx(1.3133, abs=1e-4)
    assert torch.equal(means, target("gmm40-2d-softplus").modes)
    assert target("gmm25").modes.unique().tolist() == [-10.0, -5.0, 0.0, 5.0, 10.0]
    assert len(target("gmm25").modes.unique(dim=0)) == 25 and target("gmm25").std == 0.3**0.5


@pytest.mark.parametrize("name", [name for name in SYNTHETIC if name.startswith(("gmm", "student"))])
def test_modes_of_mixtures(name):
    found, x = target(name), samples(name)
    assert found.n_modes == found.count_modes(x) == len(found.modes)
    mode = found.mode_of(x)
    assert found.count_modes(x[mode != 3]) == found.n_modes - 1
    # a draw is outside its own ball as often as the docstrings say
    outside = float((mode < 0).double().mean())
    assert outside < 5e-4 if name.startswith("gmm") else outside < 0.12
    off = torch.full((2, found.space.dim), 200.0, dtype=torch.float64)
    off[1] = math.nan
    assert found.mode_of(off).tolist() == [-1, -1] and found.count_modes(off) == 0
    if found.space.dim == 50:  # far apart: nearest and within the radius leave no doubt
        within = (x - found.modes[mode.clamp_min(0)]).norm(dim=1)[mode >= 0]
        assert float(within.max()) <= found.mode_radius


def test_targets_without_modes():
    for name in ("funnel-10d", "manywell-32d", "cox-16", "logistic-cancer"):
        assert target(name).n_modes is None and target(name).count_modes(samples(name)) == 0


def test_many_well_by_quadrature():
    assert target("manywell-32d").log_z == pytest.approx(164.696, abs=1e-3)
    assert target("manywell-64d").log_z == pytest.approx(329.391, abs=1e-3)
    well = ManyWell(4)
    h = 0.04
    line = torch.arange(-200, 201, dtype=torch.float64) * h
    grid = torch.cartesian_prod(line, line)
    pair = well.log_prob(torch.cat([grid, torch.zeros_like(grid)], 1)).reshape(401, 401)
    assert 2.0 * (float(pair.logsumexp((0, 1))) + 2.0 * math.log(h)) == pytest.approx(well.log_z, abs=1e-9)
    mass = pair.logsumexp(1).softmax(0)
    right = float(mass[201:].sum() + 0.5 * mass[200])
    assert right == pytest.approx(well.right_share, abs=1e-7)
    assert_mean((samples("manywell-32d")[:, 0::2] > 0.0).double(), right)
    occupancy = target("manywell-32d").right_occupancy(samples("manywell-32d"))
    assert occupancy.shape == (16,) and float((occupancy - right).abs().max()) < BOUND * 0.5 / 20_000**0.5
    for dim in (2, 5):
        with pytest.raises(InputError, match=f"dimension is {dim}"):
            ManyWell(dim)


def test_unknown_name_lists_the_names():
    with pytest.raises(InputError, match="'gmm41'.*gmm40-2d, .*cox-16.*logistic-digits"):
        make_synthetic("gmm41")
    assert make_synthetic("gmm25").counter is not make_synthetic("gmm25").counter
