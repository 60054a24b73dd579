"""From a density to one that training can begin on: one algorithm for every kind of coordinates."""

from __future__ import annotations

import pytest
import torch

from molsampler.preparation.start import prepare
from molsampler.smc.annealed import AnnealConfig
from molsampler.targets.charted import Charted, first_coordinates
from molsampler.targets.density import Density, start_of
from molsampler.targets.synthetic import make_synthetic
from tests.stochastic import seeded

ANNEAL = AnnealConfig(particles=512, moves=4, last_moves=5)


@pytest.mark.parametrize("kind", ["prior", "diagonal", "full", "sinh"])
def test_annealed_start_on_every_kind_of_coordinates(kind):
    """States and log R that belong together on the final coordinates, at the spread that the kind promises; all that it
    costs is booked as prefill."""
    target = make_synthetic("gmm25")
    charted = Charted(target, first_coordinates(*start_of(target), kind))
    first = {name: value.clone() for name, value in charted.coordinates.state_dict().items()}
    told: list[str] = []
    start = prepare(charted, ANNEAL, seeded(0), told.append, fit=kind != "prior")
    assert dict(target.counter.by_purpose) == {"prefill": target.counter.total}
    assert len(told) == 1 and told[0].startswith("annealing: ") and f"log Z {start.log_z:.3f}" in told[0]
    for state in (start.state, start.explorers):
        log_r, score = charted.log_prob_and_score(state.x)
        torch.testing.assert_close(state.log_r, log_r)
        torch.testing.assert_close(state.score, score)
    x, _ = charted.coordinates.to_natural(start.state.x)
    assert target.count_modes(x) == 25 and abs(start.log_z) < 0.5
    spread = start.state.x.double().square().mean(0)
    if kind == "prior":
        assert all(torch.equal(first[name], value) for name, value in charted.coordinates.state_dict().items())
    else:
        torch.testing.assert_close(spread, torch.ones(2).double(), rtol=0.1, atol=0.0)
    if kind == "full":
        covariance = torch.cov(start.state.x.double().T)
        torch.testing.assert_close(covariance, torch.eye(2).double(), rtol=0.0, atol=1e-3)
    assert len(start.explorer_log_w) == len(start.explorers.x) == 512


def test_states_that_leave_the_support_on_the_new_coordinates_are_left_out_with_their_weights():
    """Here the density forgets a half line after annealing; the states left and their weights still go together."""

    class Forgetful(Density):
        wall = -torch.inf

        def log_prob(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x[:, 0] > self.wall, super().log_prob(x), -torch.inf)

    target = Forgetful(lambda x: -0.5 * x.square().sum(-1), 2)
    charted = Charted(target, first_coordinates(*start_of(target), "diagonal"))

    def forget(text: str) -> None:
        target.wall = 0.0

    start = prepare(charted, ANNEAL, seeded(0), forget)
    assert 150 < len(start.state.x) < 362  # half of 512, within seven standard errors of independent states
    assert 0 < len(start.explorers.x) == len(start.explorer_log_w) < 512
    for state in (start.state, start.explorers):
        assert bool(torch.isfinite(state.log_r).all())
        assert bool((charted.coordinates.to_natural(state.x)[0][:, 0] > 0.0).all())
