"""Whole runs on targets with conditions: what they write, how they resume, what they refuse."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import molsampler
from molsampler.cli.synthetic import Options, main
from molsampler.runs import conditional, tables
from molsampler.runs.synthetic_config import synthetic_config
from molsampler.store.run_directory import RunDirectory
from molsampler.targets.synthetic import CONDITIONAL, make_synthetic
from tests import tiny as tiny_config

VALUES = tiny_config.merged(
    tiny_config.SYNTHETIC,
    {"train": {"evaluation_samples": 192, "moves": {"every": 2}, "batch": {"balance": 64}}},
)


@pytest.fixture(scope="module", autouse=True)
def threads_are_put_back():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("conditional") / "tiny.toml"
    path.write_text(tiny_config.toml(VALUES))
    return path


def run(tiny: Path, out: Path, *more: str, target: str = "linear-gaussian") -> int:
    return tiny_config.run_synthetic(target, tiny, out, *more)


@pytest.fixture(scope="module")
def table(tiny) -> Path:
    out = tiny.parent / "table"
    assert run(tiny, out, "--arms", "tb", "log-variance", "tb+langevin", "tb+local-search") == 0
    return out


def metrics_of(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def test_a_run_writes_what_it_promises(table):
    for arm in ("tb", "log-variance", "tb+langevin", "tb+local-search"):
        out = table / f"{arm}-0"
        metrics = metrics_of(out)
        assert all(math.isfinite(metrics[name]["value"]) for name in ("ess", "ess_tenth", "log_z_learnt_error"))
        assert metrics["elbo"]["value"] < metrics["log_z_true"]["value"] < metrics["eubo"]["value"]
        assert metrics["conditions"]["value"] == 64 and metrics["samples"]["value"] == 64 * 15
        for name in ("training.png", "config.toml", "checkpoint.pt", "metrics.csv", "samples.npz"):
            assert (out / name).stat().st_size > 0, name
    assert "log-variance" in (table / "table.md").read_text()


def test_figures_are_those_of_the_samples_written(table):
    """Each again from samples.npz, condition by condition."""
    with np.load(table / "tb-0" / "samples.npz") as stored:
        x, log_w, log_prob, condition = (stored[k] for k in ("x", "log_weights", "log_prob", "condition"))
    metrics, target = metrics_of(table / "tb-0"), make_synthetic("linear-gaussian")
    np.testing.assert_array_equal(x[:, 4:], target.held_out.numpy()[condition])
    np.testing.assert_allclose(log_prob, target.log_prob(torch.as_tensor(x)).numpy(), rtol=1e-4, atol=1e-4)
    rows = [log_w[condition == k] for k in range(64)]
    w = [np.exp(row - row.max()) for row in rows]
    ess = [one.sum() ** 2 / (one**2).sum() / len(one) for one in w]
    log_z = np.array([math.log(one.mean()) + row.max() for one, row in zip(w, rows, strict=True)])
    assert metrics["ess"]["value"] == pytest.approx(np.mean(ess))
    assert metrics["elbo"]["value"] == pytest.approx(log_w.mean())
    assert metrics["log_z_estimate"]["value"] == pytest.approx(log_z.mean())
    truth = target.held_out_log_z.numpy()
    assert metrics["log_z_true"]["value"] == pytest.approx(truth.mean())
    assert metrics["log_z_error"]["value"] == pytest.approx(np.sqrt(np.square(log_z - truth).mean()))


def test_samples_are_read_with_their_conditions(table):
    """Weights sum to 1 within each: Z(c) is another for every condition."""
    samples = molsampler.load_samples(table / "tb-0")
    assert np.unique(samples.condition, return_counts=True)[1].tolist() == [15] * 64
    np.testing.assert_allclose(np.bincount(samples.condition, weights=samples.weights), 1.0)
    first = np.exp(samples.log_weights[:15] - samples.log_weights[:15].max())
    np.testing.assert_allclose(samples.weights[:15], first / first.sum())
    none = dataclasses.replace(samples, log_weights=np.where(samples.condition == 3, -np.inf, samples.log_weights))
    assert none.weights.sum() == pytest.approx(63.0) and not none.weights[none.condition == 3].any()
    assert dataclasses.replace(samples, log_weights=np.full(64 * 15, -np.inf)).weights is None


def test_rows_of_training_are_of_held_out_conditions(table):
    rows = RunDirectory(table / "tb-0").read_metrics_rows()
    truth = float(make_synthetic("linear-gaussian").held_out_log_z[: conditional.IN_ROWS].mean())
    assert all(float(row["elbo"]) < truth < float(row["eubo"]) for row in rows)
    assert all(float(row["eubo_gap"]) == pytest.approx(float(row["eubo"]) - truth) for row in rows)
    assert all(float(row["elbo"]) < float(row["log_z_estimate"]) for row in rows) and not rows[0]["log_z_running"]


def test_curves_compare_the_eubo_with_log_z_of_the_same_conditions(table, monkeypatch):
    """metrics.json has the mean log Z of all 64 held-out conditions, a row that of 32."""
    drawn = {}
    monkeypatch.setattr(tables, "draw_arms", lambda *arguments: None)
    monkeypatch.setattr(tables, "draw_curves", lambda path, curves, name, **rest: drawn.update(curves))
    run = tables.Finished("tb", 0, table / "tb-0", metrics_of(table / "tb-0"))
    tables.draw("linear-gaussian", [run], table)
    log_z = make_synthetic("linear-gaussian").held_out_log_z
    truth = float(log_z[: conditional.IN_ROWS].mean())
    assert abs(truth - float(log_z.mean())) > 0.01
    (curve,) = drawn["tb"]
    np.testing.assert_allclose(curve["eubo_gap"], curve["eubo"] - truth, rtol=1e-6)


def test_every_figure_is_documented(table):
    page = (Path(__file__).parents[2] / "docs" / "METRICS.md").read_text(encoding="utf-8")
    said = set(re.findall(r"`([a-z_0-9*]+)`", page.split("## Synthetic targets")[1]))
    found = metrics_of(table / "tb+local-search-0")
    assert not [name for name in found if name not in said and f"{name.split('_')[0]}_*" not in said]


def test_a_stopped_run_ends_where_an_unstopped_one_ends(tiny, table, monkeypatch):
    out, row = tiny.parent / "stopped", conditional.ConditionalRun.row

    def stop(run):
        run.stop = run.trainer.done >= 10
        return row(run)

    monkeypatch.setattr(conditional.ConditionalRun, "row", stop)
    assert run(tiny, out, "--arms", "tb+local-search") == 130 and not (out / "metrics.json").exists()
    monkeypatch.undo()
    assert run(tiny, out, "--arms", "tb+local-search", "--resume") == 0
    whole, stopped = metrics_of(table / "tb+local-search-0"), metrics_of(out)
    timed = [name for name in whole if "seconds" in name]
    assert {k: v for k, v in whole.items() if k not in timed} == {k: v for k, v in stopped.items() if k not in timed}


def test_what_has_no_meaning_is_refused_before_anything_is_written(tiny, tmp_path, capsys):
    for arm, words in (("default", "resamples"), ("smc-mala", "one density")):
        out = tmp_path / arm
        assert main(["vae-digits", "--arms", arm, "--out", str(out)]) != 0
        assert words in capsys.readouterr().err and not out.exists()
    few = tmp_path / "few"
    assert main(["linear-gaussian", "--arms", "tb", "--samples", "100", "--out", str(few)]) != 0
    assert "two for each of 64" in capsys.readouterr().err


@pytest.mark.parametrize("target", list(CONDITIONAL))
def test_settings_of_conditional_targets_are_good(target):
    conditional.check(Options(target).resolve("tb", 0))
    assert synthetic_config(target).samples >= 2 * len(make_synthetic(target).held_out)
