"""A chart for several temperatures: what is stretched, what is not, and what is kept."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.basis.space import Condition
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.stored import coordinates_from
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from tests.molecules.coordinates import chart_cases
from tests.molecules.energy import energy_cases
from tests.stochastic import seeded


@pytest.fixture(scope="module")
def made() -> TemperatureChart:
    molecule = energy_cases.molecule("aldp")
    chart = Chart(molecule, dtype=torch.float64).fit(chart_cases.langevin_frames())
    return TemperatureChart(chart, molecule.temperature, 280.0, 600.0)


def states(made: TemperatureChart, n: int = 8) -> torch.Tensor:
    """(n, dim) of conformations that a simulation visited, at temperatures of the whole range."""
    frames = chart_cases.langevin_frames()[:: 200 // n][:n]
    return made.to_standard(frames, torch.linspace(280.0, 600.0, n, dtype=torch.float64))


def test_there_and_back_at_every_temperature(made):
    """The same conformations whatever the temperature; the line shorter by sqrt(T / T_0), torsions as they are."""
    frames = chart_cases.langevin_frames()[::25]
    x = states(made)
    positions, _ = made.to_natural(x)
    torch.testing.assert_close(made.to_standard(positions, x[:, -1]), x, rtol=0.0, atol=1e-9)
    plain = made.chart.to_standard(frames)
    torch.testing.assert_close(made.plain(x), plain)
    line, factor = slice(0, made.n_stiff), (x[:, -1:] / 300.0).sqrt()
    torch.testing.assert_close(x[:, line] * factor, plain[:, line])
    assert torch.equal(x[:, made.n_stiff : -1], plain[:, made.n_stiff :])
    torch.testing.assert_close(made.to_standard(frames)[:, :-1], plain)
    assert bool(made.inside(x).all()) and not bool(made.inside(made.to_standard(-frames)).any())


def test_log_det_is_that_of_the_derivative(made):
    x = states(made)
    _, log_det = made.to_natural(x)
    expected = made.chart.to_natural(made.plain(x))[1] + 0.5 * made.n_stiff * (x[:, -1] / 300.0).log()
    torch.testing.assert_close(log_det, expected)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: made.plain(z[None])[0]))(x)[:, :, :-1]
    by_hand = made.chart.to_natural(made.plain(x))[1] + jacobian.det().abs().log()
    torch.testing.assert_close(log_det, by_hand)


def test_pull_back_is_the_derivative_and_none_by_temperature(made):
    x = states(made)
    weights = torch.randn(made.n_atoms, 3, generator=seeded(0), dtype=torch.float64)
    z = x.clone().requires_grad_()
    positions, log_det = made.to_natural(z)
    (by_hand,) = torch.autograd.grad(((weights * positions).sum((1, 2)) + log_det).sum(), z)
    charted = made.place_batch_last(x.T.contiguous())
    gradient = weights.T[:, :, None].expand(-1, -1, len(x))
    found = made.pull_back(charted, gradient).T
    torch.testing.assert_close(found[:, :-1], by_hand[:, :-1])
    assert bool((found[:, -1] == 0.0).all()) and float(by_hand[:, -1].abs().min()) > 0.0


def test_turned_rotors_are_those_of_the_chart_at_the_same_temperature(made):
    x = states(made)
    score = torch.randn(x.shape, generator=seeded(1), dtype=torch.float64)
    turned, by_turned = made.turn_rotors(x, score, made.rotors, seeded(2))
    factor = (x[:, -1:] / 300.0).sqrt()
    own = torch.cat([score[:, : made.n_stiff] / factor, score[:, made.n_stiff : -1]], 1)
    plain, by_plain = made.chart.turn_rotors(made.plain(x), own, made.rotors, seeded(2))
    torch.testing.assert_close(made.plain(turned), plain)
    torch.testing.assert_close(by_turned[:, : made.n_stiff] / factor, by_plain[:, : made.n_stiff])
    torch.testing.assert_close(by_turned[:, made.n_stiff : -1], by_plain[:, made.n_stiff :])
    assert torch.equal(turned[:, -1], x[:, -1]) and bool((turned != x).any(1).any())


def test_space_has_the_temperature_for_a_condition(made):
    assert made.space.conditional and made.space.count(Condition) == 1 and made.space.dim == made.dim == 61
    drawn = made.space.condition_of(made.space.sample_prior(4000, seeded(0)))
    assert 280.0 <= float(drawn.min()) < 285.0 and 590.0 < float(drawn.max()) <= 600.0
    share = float((drawn < math.sqrt(280.0 * 600.0)).double().mean())
    assert abs(share - 0.5) < 4.0 * 0.5 / math.sqrt(4000)  # evenly in log T


def test_guess_goes_through_a_polynomial_and_is_zero_at_the_molecules_own(made):
    t = torch.tensor([280.0, 300.0, 350.0, 420.0, 500.0, 600.0], dtype=torch.float64)
    u = (t / 300.0).log()
    log_z = -40.0 * u + 12.0 * u**2 - 3.0 * u**3
    made.fit_guess(t, log_z)
    torch.testing.assert_close(made.log_z_guess(t), log_z, rtol=0.0, atol=1e-8)
    between = torch.tensor([330.0, 550.0], dtype=torch.float64)
    v = (between / 300.0).log()
    torch.testing.assert_close(made.log_z_guess(between), -40.0 * v + 12.0 * v**2 - 3.0 * v**3, rtol=0.0, atol=1e-6)
    assert float(made.log_z_guess(torch.tensor([300.0]))) == 0.0
    made.fit_guess(t[1:3], log_z[1:3])  # two temperatures: a line in log T
    torch.testing.assert_close(made.log_z_guess(t[1:3]), log_z[1:3])
    torch.testing.assert_close(made.log_z_guess(t[3:4]), log_z[2:3] / u[2:3] * u[3:4])


def test_guess_of_a_temperature_that_float32_does_not_hold(made):
    """298.15 K in float32 is not T_0 to the last bit; it is no equation of its own for all that."""
    odd = TemperatureChart(made.chart, 298.15, 298.15, 340.0)
    t = torch.tensor([298.15, 318.0, 340.0])
    odd.fit_guess(t, -39.0 * (t.double() / 298.15).log())
    between = torch.tensor([307.0, 330.0], dtype=torch.float64)
    torch.testing.assert_close(odd.log_z_guess(between), -39.0 * (between / 298.15).log(), rtol=0.0, atol=1e-3)


def test_what_is_stored_comes_back_and_belongs_to_its_temperatures(made):
    molecule = energy_cases.molecule("aldp")
    made.fit_guess(torch.tensor([300.0, 600.0]), torch.tensor([0.0, -14.0]))
    again = coordinates_from(molecule, made.state_dict(), torch.float64)
    assert isinstance(again, TemperatureChart)
    x = states(made)
    for ours, theirs in zip(made.to_natural(x), again.to_natural(x), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(made.guess, again.guess)
    other = TemperatureChart(made.chart, 300.0, 300.0, 600.0)
    with pytest.raises(InputError, match=r"280\.0, 600\.0.*begin a new run"):
        other.load_state_dict(made.state_dict())
    with pytest.raises(InputError, match="from 310 to 600 K do not hold the molecule's own, 300 K"):
        TemperatureChart(made.chart, 300.0, 310.0, 600.0)
