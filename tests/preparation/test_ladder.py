"""From one temperature to all of a range: log Z(T) in closed form, weighted states of every temperature."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.units import thermal_energy
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.preparation.ladder import LadderConfig, climb
from molsampler.smc.annealed import AnnealConfig, Annealed, annealed_smc
from molsampler.targets.molecule import MoleculeTarget
from molsampler.targets.temperatures import TemperatureTarget
from tests.molecules.coordinates.test_atlas import (
    ANGLES,
    LENGTHS,
    STIFF_ANGLE,
    STIFF_BOND,
    closed_form,
    two_wells,
)
from tests.stochastic import seeded

PARTICLES, COLDEST, HOTTEST = 1024, 250.0, 600.0


def prepared() -> tuple[TemperatureTarget, Annealed]:
    """Four atoms whose torsion has wells at 0 and 180 degrees, annealed at their own temperature."""
    molecule = two_wells()
    chart = Chart(molecule, soft=[(1, 2)], dtype=torch.float64)
    chart.standardise(*measured(chart))
    single = MoleculeTarget(molecule, chart, TorchEnergy(molecule, torch.float64, compile=False), compile=False)
    config = AnnealConfig(particles=PARTICLES, moves=4, last_moves=10)

    def log_prob_and_score(x):
        return single.log_prob_and_score(x.double())

    start = annealed_smc(log_prob_and_score, single.space, config, seeded(0))
    own = molecule.temperature
    return TemperatureTarget(single, TemperatureChart(chart, own, COLDEST, HOTTEST), compile=False), start


def measured(chart: Chart) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the harmonic bonds and angles."""
    beta = two_wells().beta
    means, variances = [], []
    for coordinate in chart.space.table[: chart.n_stiff]:
        bond, first = coordinate.kind == "bond", min(coordinate.atoms)
        means.append(LENGTHS[first] if bond else ANGLES[first])
        variances.append(1.0 / (beta * (STIFF_BOND if bond else STIFF_ANGLE)))
    return torch.tensor(means, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64).diag()


@pytest.fixture(scope="module")
def climbed():
    target, start = prepared()
    told: list[str] = []
    config = LadderConfig(hottest=HOTTEST, coldest=COLDEST, ratio=1.2, states=2048, moves=5)
    return target, start, climb(target, start, config, seeded(1), told.append), told


def test_log_z_of_every_temperature_is_the_closed_form(climbed):
    """Within five standard deviations over ten seeds: the shares of the torsion's wells, and with them its mean energy,
    are as good as 1,024 annealed particles make them."""
    target, _, _, told = climbed
    own = closed_form()[0]
    spread = {250.0: 0.0033, 270.0: 0.0037, 400.0: 0.0067, 500.0: 0.0146, 600.0: 0.022}
    for temperature, error in spread.items():
        expected = closed_form(1.0 / thermal_energy(temperature))[0] - own
        found = float(target.coordinates.log_z_guess(torch.tensor([temperature]).double()))
        assert abs(found - expected) < 5.0 * error
    assert expected > 20.0 * error
    assert len(told) == 1 and told[0].startswith("ladder: 6 temperatures from 250 to 600 K")


def test_states_stand_for_each_temperature_at_their_weights(climbed):
    """Shares of the well about 180 degrees, in bands of temperature, against the closed form; weights, states and
    scores belong together, and are equal but for what the guess misses."""
    target, start, prefill, _ = climbed
    x, temperature = prefill.state.x, prefill.state.x[:, -1]
    log_r, score = target.log_prob_and_score(x)
    torch.testing.assert_close(prefill.state.log_r, log_r)
    torch.testing.assert_close(prefill.state.score, score)
    assert 0.0 < float(prefill.log_w.std()) < 0.1
    assert float(temperature.min()) < 260.0 and float(temperature.max()) > 580.0
    assert len(temperature.unique()) > 1000  # of their own, not the rungs'
    far = x[:, -2].cos() < 0.0
    for low, high in ((250.0, 330.0), (330.0, 450.0), (450.0, 600.0)):
        band = (temperature >= low) & (temperature <= high)
        weight = prefill.log_w[band].exp() / prefill.log_w[band].exp().sum()
        share = float(weight @ far[band].double())
        expected = sum(closed_form(1.0 / thermal_energy(t))[1] for t in temperature[band][::10].tolist())
        expected /= len(temperature[band][::10])
        error = math.sqrt(expected * (1.0 - expected) / (PARTICLES / 4.0))  # descendants are not independent
        assert abs(share - expected) < 4.0 * error


def test_explorers_stay_at_the_molecules_own_temperature(climbed):
    target, start, prefill, _ = climbed
    booked = 5 * PARTICLES * (1 + 5) + PARTICLES + 6 * (2048 // 6)  # five rungs besides the first, and the last draws
    assert bool((prefill.explorers.x[:, -1] == two_wells().temperature).all())
    torch.testing.assert_close(prefill.explorers.x[:, :-1], start.explorers.x)
    assert torch.equal(prefill.explorer_log_w, start.explorer_log_w)
    torch.testing.assert_close(target.log_prob(prefill.explorers.x), prefill.explorers.log_r)
    assert target.counter.by_purpose["prefill"] == booked


def test_bounds_of_a_range():
    assert LadderConfig(hottest=600.0).bounds(300.0) == (300.0, 600.0)
    assert LadderConfig(coldest=250.0).bounds(300.0) == (250.0, 300.0)
    assert not LadderConfig().asked
