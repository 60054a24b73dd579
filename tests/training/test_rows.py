"""Rows of metrics.csv against the registry of columns and what the pictures read."""

from __future__ import annotations

import math

import pytest
import torch

from molsampler.analysis.pictures.training import PANELS
from molsampler.basis.counter import PURPOSES
from molsampler.basis.log_weights import LogWeights
from molsampler.training.rows import COLUMNS, training_row
from molsampler.training.trainer import Trainer
from tests.training.small import SHORT, make, train

ADDED = {"eubo", "eubo_gap"}  # by a run on a target with exact samples


@pytest.fixture(scope="module")
def rows() -> tuple[Trainer, dict, dict, dict]:
    """A short run: the trainer, and its rows at the start, in denoising and at the end."""
    trainer = make(SHORT)
    first = trainer.evaluate()
    middle = train(trainer, 4).evaluate()
    return trainer, first, middle, train(trainer).evaluate()


def test_every_column_is_in_a_row_and_the_other_way_round(rows):
    names = [column.name for column in COLUMNS]
    assert len(names) == len(set(names)) and all(column.meaning for column in COLUMNS)
    expected = [name for name in names if name not in ADDED]
    assert set(names) > ADDED
    for row in rows[1:]:
        assert list(row) == expected


def test_a_column_speaks_of_others_by_name():
    """Another one may be put between: what "of these" refers to would then change."""
    assert not [column.name for column in COLUMNS if column.meaning.startswith("of these")]


def test_the_row_has_what_the_pictures_read(rows):
    last = rows[3]
    for panel in PANELS:
        assert set(panel.columns) <= {column.name for column in COLUMNS}, panel.title
        assert any(math.isfinite(last[name]) for name in panel.columns if name not in ADDED), panel.title


def test_the_pictures_show_every_bound_and_no_count_for_a_purpose():
    drawn = {name for panel in PANELS for name in panel.columns}
    assert {"elbo", "eubo", "log_z", "log_z_running", "log_z_estimate"} <= drawn
    assert {f"evaluations_{word}" for word in PURPOSES} <= drawn and "evaluations_non_finite" not in drawn


def test_updates_losses_and_phase(rows):
    _, first, middle, last = rows
    assert [row["update"] for row in (first, middle, last)] == [0, 4, SHORT.warm_updates + SHORT.updates]
    assert [row["phase"] for row in (first, middle, last)] == ["denoising", "denoising", "trajectory balance"]
    assert math.isnan(first["denoising_loss"]) and math.isnan(first["loss"])
    assert math.isfinite(middle["denoising_loss"]) and math.isnan(middle["loss"]) and math.isnan(middle["twist_loss"])
    assert math.isnan(last["denoising_loss"]) and math.isfinite(last["loss"]) and math.isfinite(last["twist_loss"])
    assert 0.0 == first["seconds"] < middle["seconds"] < last["seconds"]


def test_evaluations_by_purpose_add_up(rows):
    trainer, first, _, last = rows
    for row in (first, last):
        assert sum(row[f"evaluations_{word}"] for word in PURPOSES if word != "analysis") == row["energy_evaluations"]
    assert last["energy_evaluations"] == trainer.target.counter.spent > first["energy_evaluations"] > 0
    assert last["evaluations_analysis"] == 3 * SHORT.evaluation_samples
    for word in ("prefill", "rollout", "smc", "local_moves"):
        assert last[f"evaluations_{word}"] > 0


@torch.no_grad()
def test_figures_of_the_samples_are_their_closed_forms(rows):
    """By hand: weights 1, 2, 0, 3, 0."""
    log_w = torch.tensor([0.0, math.log(2.0), -torch.inf, math.log(3.0), -torch.inf])
    row = training_row(rows[0], LogWeights(log_w))
    assert row["elbo"] == pytest.approx(math.log(6.0) / 3.0) and row["elbo_median"] == pytest.approx(math.log(2.0))
    assert row["ess"] == pytest.approx(36.0 / 14.0 / 5.0) and row["log_z_estimate"] == pytest.approx(
        math.log(6.0 / 5.0)
    )
    assert row["outside_support"] == pytest.approx(0.4)
    nothing = training_row(rows[0], LogWeights(torch.full((5,), -torch.inf)))
    assert math.isnan(nothing["elbo"]) and nothing["ess"] == 0.0 and nothing["outside_support"] == 1.0
