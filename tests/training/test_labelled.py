"""Training on a density in pieces: their shares come out right, and the label's probabilities are learnt."""

from __future__ import annotations

import pytest
import torch

from molsampler.basis.settings import change
from tests.stochastic import seeded
from tests.targets.analytic import Labelled
from tests.training.small import CONFIG, assert_same, make, train

FIRST = change(
    CONFIG,
    schedule={"torsions": "first"},
    torsions={"components": 6, "width": 16, "states": 512},
    balanced="torsions",
)


@pytest.mark.parametrize("config", [CONFIG, FIRST], ids=["joint", "first"])
def test_training_learns_the_shares_of_the_pieces(config):
    """Shares and log Z by the weights of 10,000 samples within 4.5 standard errors; the policy's own probabilities
    within 0.08 of the shares after a second of training, from a third each."""
    target = Labelled(1.7)
    trainer = train(make(config, target))
    drawn = trainer.sampler().draw(10_000, seeded(5))
    w = drawn.log_w.exp()
    shares = target.piece_shares(drawn.x).double()
    own = w / w.sum()
    error = (own[:, None] * (shares - own @ shares)).square().sum(0).sqrt()
    z = (own @ shares - torch.tensor(target.share).double()) / error
    assert bool((z.abs() < 4.5).all()), z
    log_z_error = float(w.std() / w.mean()) / len(w) ** 0.5
    assert abs(float(w.mean().log()) - 1.7) < 4.5 * log_z_error and log_z_error < 0.05
    learnt = trainer.learner.averaged.policies[0].log_probabilities().exp()
    torch.testing.assert_close(learnt, torch.tensor(target.share), rtol=0.0, atol=0.08)


def test_a_run_with_labels_resumes_to_the_last_bit():
    short = change(FIRST, warm_updates=4, updates=4)
    whole = train(make(short, Labelled(1.7)))
    first = train(make(short, Labelled(1.7)), until=5)
    second = make(short, Labelled(1.7), seed=1)
    second.load_state_dict(first.state_dict())
    assert_same(train(second).state_dict(), whole.state_dict())
