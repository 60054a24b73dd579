from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.space import Space
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from tests.stochastic import assert_mean, seeded
from tests.targets.analytic import Gaussian, TwoWells, log_von_mises

CONFIG = AnnealConfig(particles=1024, ess=0.6, moves=4, last_moves=10)
BOUND = 5.0  # standard errors from 32 runs: by chance beyond in 2e-5 (Student's t) of all seeds for each mean


class ShiftedGaussianAndTwoTorsionWells(Gaussian):
    """Z N(m, s^2) x (0.75 vM(-1.2, 8) + 0.25 vM(1.6, 8))."""

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        wells = torch.stack(
            [math.log(0.75) + log_von_mises(x[:, 2] + 1.2, 8.0), math.log(0.25) + log_von_mises(x[:, 2] - 1.6, 8.0)]
        )
        return super().log_prob(x) + math.log(2.0 * math.pi) + torch.logsumexp(wells, 0)


def runs(target, n: int, config: AnnealConfig = CONFIG):
    generator = seeded(0)
    return [annealed_smc(target.log_prob_and_score, target.space, config, generator) for _ in range(n)]


def test_log_z_and_basin_weights():
    """32 independent runs: the mean of Z / Z_exact is 1 and the share of each torsion well is its weight, within the
    errors that the runs' own scatter gives. Adaptation biases Z by less: over 300 such runs it was 0.998 (3)."""
    target = ShiftedGaussianAndTwoTorsionWells(torch.tensor([0.6, -1.2]), torch.tensor([0.3, 1.0]), 1, 3.2)
    done = runs(target, 32)
    assert_mean(torch.tensor([run.log_z - 3.2 for run in done]).exp(), 1.0, BOUND)
    x = torch.stack([run.state.x for run in done]).double()  # (32, 1024, 3)
    assert_mean((x[..., 2] < 0.2).double().mean(1), 0.75, BOUND)
    assert_mean(x[..., :2].mean(1), torch.tensor([0.6, -1.2]), BOUND)
    assert_mean((x[..., :2] - target.mean).square().mean(1), torch.tensor([0.09, 1.0]), BOUND)
    for run in done:
        assert run.betas[-1] == 1.0 and run.betas == sorted(run.betas) and len(run.betas) > 3
        assert len(run.acceptance) == len(run.betas) and all(0.1 < rate < 1.0 for rate in run.acceptance[-2:])
        assert 10 < run.distinct_ancestors <= 1024
    assert float(torch.tensor([run.log_z for run in done]).std()) < 0.3


@pytest.mark.parametrize("kernel", ["hmc", "random_walk"])
def test_log_z_with_the_other_kernels(kernel):
    """As above: Z, the share of a torsion well, and moments of the Gaussian; MALA stays what it is without a word."""
    assert CONFIG.kernel == "mala"
    bound = 6.0  # from 16 runs: by chance beyond in 2e-5 (Student's t) of all seeds for each mean
    target = ShiftedGaussianAndTwoTorsionWells(torch.tensor([0.6, -1.2]), torch.tensor([0.3, 1.0]), 1, 3.2)
    moves = 4 if kernel == "hmc" else 16  # evaluations a temperature are the same
    config = replace(CONFIG, kernel=kernel, leapfrog_steps=4, moves=moves, last_moves=10)
    done = runs(target, 16, config)
    assert_mean(torch.tensor([run.log_z - 3.2 for run in done]).exp(), 1.0, bound)
    x = torch.stack([run.state.x for run in done]).double()  # (16, 1024, 3)
    assert_mean((x[..., 2] < 0.2).double().mean(1), 0.75, bound)
    assert_mean((x[..., :2] - target.mean).square().mean(1), torch.tensor([0.09, 1.0]), bound)
    assert_mean(torch.stack([(run.explorer_log_w - 3.2).exp().mean() for run in done]), 1.0, bound)
    for run in done[:3]:
        log_r, score = target.log_prob_and_score(run.state.x)
        torch.testing.assert_close(run.state.log_r, log_r)
        torch.testing.assert_close(run.state.score, score)
        assert run.acceptance[-1] == pytest.approx(0.65 if kernel == "hmc" else 0.234, abs=0.1)


def test_carried_log_r_and_score_are_those_of_the_target():
    target = TwoWells(log_z=1.0, wall=-0.5)
    (run,) = runs(target, 1)
    log_r, score = target.log_prob_and_score(run.state.x)
    torch.testing.assert_close(run.state.log_r, log_r)
    torch.testing.assert_close(run.state.score, score)
    assert bool(torch.isfinite(run.state.log_r).all())


def test_zero_weights_of_the_prior_are_part_of_z():
    target = TwoWells(log_z=1.0, wall=0.8)  # most of the prior's draws are off the support
    done = runs(target, 32)
    assert_mean(torch.tensor([run.log_z - target.log_z for run in done]).exp(), 1.0, BOUND)
    exact = target.sample(seeded(1), 200_000).double()
    assert_mean(torch.stack([run.state.x[:, 0].mean() for run in done]), exact[:, 0].mean(), BOUND)


def test_the_prior_itself_needs_one_temperature():
    space = Space.of(2, 1)

    def prior(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return space.log_prior(x) + 0.5, torch.cat([-x[:, :2], torch.zeros(len(x), 1)], 1)

    seen: list[float] = []
    run = annealed_smc(prior, space, CONFIG, seeded(2), seen.append)
    assert run.betas == seen == [1.0] and run.log_z == pytest.approx(0.5, abs=1e-5)


def test_a_path_that_does_not_get_through_is_told():
    target = Gaussian(torch.tensor([4.0, 4.0]), torch.tensor([0.01, 0.01]))
    with pytest.raises(InputError, match="reached only beta = .* after 3 temperatures"):
        runs(target, 1, AnnealConfig(particles=64, moves=1, last_moves=1, max_temperatures=3))


def test_a_path_too_steep_for_any_step_is_told():
    """No step of beta is small enough, beside draws off the support: 0 times -inf is no weight."""

    def steep(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_r = torch.where(x[:, 0] > 1.0, -torch.inf, -1e28 * x[:, 0].square())
        return log_r, torch.zeros_like(x)

    config = AnnealConfig(particles=64, moves=1, last_moves=1, max_temperatures=3)
    with pytest.raises(InputError, match="reached only beta = 0 after 3 temperatures"):
        annealed_smc(steep, Space.of(1), config, seeded(3))


def test_a_prior_that_misses_the_support_is_told():
    with pytest.raises(InputError, match="none of 1024 draws"):
        runs(TwoWells(wall=6.0), 1)


def test_explorers_estimate_the_same_measure_from_more_rare_states():
    """Annealed importance sampling from the hottest temperature: Z and the rare well's weight are unbiased, and the
    rare well holds more of the explorers than of the equilibrium."""
    target = ShiftedGaussianAndTwoTorsionWells(torch.tensor([0.6, -1.8]), torch.tensor([0.3, 1.3]), 1, 3.2)
    done = runs(target, 24)
    assert_mean(torch.stack([(run.explorer_log_w - 3.2).exp().mean() for run in done]), 1.0)
    rare = torch.stack([(run.explorers.x[:, 2] >= 0.2).double() for run in done])
    w = torch.stack([(run.explorer_log_w - 3.2).exp() for run in done])
    assert_mean((w * rare).mean(1), 0.25)
    assert float(rare.mean()) > 0.3  # against 0.25 in equilibrium
    for run in done:
        log_r, score = target.log_prob_and_score(run.explorers.x)
        torch.testing.assert_close(run.explorers.log_r, log_r)
        torch.testing.assert_close(run.explorers.score, score)
