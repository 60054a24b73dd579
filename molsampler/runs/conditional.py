"""The job on a target with conditions: train on some of them, and judge the sampler by others, one by one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from molsampler.analysis.pictures.training import draw_training
from molsampler.analysis.statistics.conditional import averaged, by_condition, conditional_figures, rms
from molsampler.analysis.statistics.estimates import Estimate, log_z_estimate
from molsampler.analysis.statistics.two_sample import eubo
from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.runs import density, synthetic
from molsampler.runs.density import DensityRun
from molsampler.runs.given import conditional_row, draw_given, learnt_log_z
from molsampler.runs.loop import Say
from molsampler.runs.methods import apply_arm, find_arm
from molsampler.runs.synthetic_config import SyntheticConfig
from molsampler.smc.trained import Drawn
from molsampler.store.atomic import write_npz
from molsampler.store.run_directory import RunDirectory
from molsampler.targets.conditional import ConditionalTarget
from molsampler.targets.synthetic import make_synthetic

IN_ROWS = 32  # of the held-out conditions are looked at in every row of metrics.csv


@dataclass
class ConditionalRun(DensityRun):
    """A run whose target depends on a condition."""

    kind: ClassVar[str] = "conditional"
    config: SyntheticConfig
    target: ConditionalTarget

    @torch.no_grad()
    def row(self) -> dict[str, Any]:
        """Of samples of the averaged policy for held-out conditions, as `Trainer.evaluate`; what belongs to a condition
        is averaged over them."""
        given = self.target.held_out[:IN_ROWS]
        generator = self.trainer.evaluation_generator()
        n = self.config.train.evaluation_samples // len(given)
        row = conditional_row(self.trainer, given, draw_given(self.trainer, given, n, generator))
        exact = self.backward_log_weights(given, n, generator)
        if exact is None:
            return row
        row["eubo"] = found = float(exact.mean())
        truth = self.target.held_out_log_z
        return row if truth is None else row | {"eubo_gap": found - float(truth[:IN_ROWS].mean())}

    def backward_log_weights(self, given: Tensor, n: int, generator: torch.Generator) -> Tensor | None:
        """log w (G, n) of n exact samples for each of the conditions (G, K), noised back to the prior; None where the
        target has none to give."""
        rows = given.repeat_interleave(n, 0)
        z = self.target.sample_posterior(rows, generator)
        if z is None:
            return None
        with self.target.counter.purpose("analysis"):
            x = self.charted.coordinates.to_standard(torch.cat([z.float(), rows], 1))
            log_r = self.charted.log_prob_and_score(x)[0]
            return self.trainer.sampler().path_log_weights(x, log_r, generator).double().view(len(given), n)


def check(config: SyntheticConfig) -> None:
    """InputError for whatever would stop a run of this configuration later."""
    density.check(config)
    target, arm = make_synthetic(config.target), find_arm(config.arm)
    if arm.baseline:
        raise InputError(
            f"arm '{config.arm}' is annealed SMC, which is of one density, and '{config.target}' is one for every "
            "condition: choose an arm that learns"
        )
    train = apply_arm(config.arm, config.train)
    train.check(target.space)
    if train.start == "annealed":
        raise InputError(
            f"arm '{config.arm}' begins with annealing, which resamples and would favour some conditions of "
            f"'{config.target}' over others: choose an arm from scratch, such as tb or tb+smc+iw"
        )
    for name, asked, conditions in (
        ("samples", config.samples, len(target.held_out)),
        ("train.evaluation_samples", config.train.evaluation_samples, min(len(target.held_out), IN_ROWS)),
    ):
        if asked < 2 * conditions:
            raise InputError(
                f"{name} = {asked} is too few: give at least {2 * conditions}, two for each of {conditions} held-out "
                "conditions"
            )


def start(config: SyntheticConfig, run: RunDirectory, say: Say = print) -> ConditionalRun:
    """Set up a new run of the configuration's arm (collective)."""
    say = ranks.first_only(say)
    check(config)
    config = dataclasses.replace(config, train=apply_arm(config.arm, config.train))
    target = make_synthetic(config.target)
    z, condition = (part.dim for part in target.space.parts)
    say(
        f"{config.target}: {z} dimensions for each of {len(target.space.parts[1].values):,} conditions of {condition} "
        f"numbers, {len(target.held_out)} held out; {config.arm}: {find_arm(config.arm).description}"
    )
    return density.start(ConditionalRun, target, config, run, say)


def resume(run: RunDirectory, say: Say = print, minutes: float | None = None, **instead: Any) -> ConditionalRun:
    """As `synthetic.resume`."""
    return synthetic.resume_as(ConditionalRun, run, say, minutes, **instead)


def conclude(run: ConditionalRun) -> dict[str, Any]:
    """Sample for every held-out condition with the averaged policy; write samples, a picture of the training and
    metrics.json; return the metrics, on the first rank (collective)."""
    generator = ranks.generator(run.config.train.seed + 1)
    held_out = run.target.held_out
    drawn = draw_given(run.trainer, held_out, run.config.samples // len(held_out), generator)
    return _conclude(run, drawn, density.costs(run), generator) or {}


@ranks.first_only
def _conclude(run: ConditionalRun, drawn: Drawn, spent: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
    target, held_out = run.target, run.target.held_out
    log_w = drawn.log_w.view(len(held_out), -1)
    metrics: dict[str, Any] = conditional_figures(log_w.numpy())
    learnt = learnt_log_z(run.trainer, held_out).numpy()
    metrics["log_z_learnt"] = Estimate(float(learnt.mean()), float("nan"))
    exact = run.backward_log_weights(held_out, log_w.shape[1], generator)
    if exact is not None:
        metrics["eubo"] = averaged(by_condition(eubo, exact.numpy()))
    if target.held_out_log_z is not None:
        truth, errors = target.held_out_log_z.numpy(), target.held_out_log_z_error.numpy()
        true = metrics["log_z_true"] = averaged([Estimate(*pair) for pair in zip(truth, errors, strict=True)])
        metrics["elbo_gap"] = _difference(true, metrics["elbo"])
        if exact is not None:
            metrics["eubo_gap"] = _difference(metrics["eubo"], true)
        found = np.array([one.value for one in by_condition(log_z_estimate, log_w.numpy())])
        metrics["log_z_error"], metrics["log_z_learnt_error"] = rms(found, truth), rms(learnt, truth)
    metrics |= spent
    with torch.no_grad():
        x = run.charted.coordinates.to_natural(drawn.x)[0]
    condition = np.repeat(np.arange(len(held_out)), log_w.shape[1])
    logs = {"log_weights": drawn.log_w.numpy(), "log_prob": drawn.log_r.double().numpy()}
    write_npz(run.run / "samples.npz", x=x.numpy(), condition=condition, **logs)
    draw_training(run.run.metrics_columns(), run.run / "training.png")
    run.run.write_metrics(metrics)
    return run.run.load_metrics()


def _difference(one: Estimate, other: Estimate) -> Estimate:
    return Estimate(one.value - other.value, float(np.hypot(one.stderr, other.stderr)))
