"""Rows of metrics.csv: the registry of columns, and a row's values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from molsampler.basis import ranks
from molsampler.basis.counter import PURPOSES
from molsampler.basis.log_weights import LogWeights
from molsampler.training.behaviours import SMCReport

if TYPE_CHECKING:
    from molsampler.training.trainer import Trainer


@dataclass(frozen=True)
class Column:
    """name and meaning of a column; unit : "" for a plain number or text"""

    name: str
    meaning: str
    unit: str = ""


COLUMNS = (
    Column("update", "updates made"),
    Column("seconds", "training time, without evaluations", "s"),
    Column("phase", "denoising, or the objective"),
    Column("denoising_loss", "of the last update; empty outside denoising", "nat"),
    Column("loss", "of the last update of the objective; empty in denoising"),
    Column("twist_loss", "of the last update of the twist; empty before the first"),
    Column("teacher_loss", "of the last update of the adaptive teacher; empty without one"),
    Column("elbo", "mean log-weight of the evaluation's samples on the support", "nat"),
    Column("elbo_median", "median of these log-weights", "nat"),
    Column("ess", "effective sample size as a fraction of the evaluation's samples"),
    Column("log_z", "the learnt log Z: what balances the residuals of all trained trajectories, above log Z", "nat"),
    Column("log_z_running", "running estimate from the weights of training rollouts and SMC passes", "nat"),
    Column("log_z_estimate", "log of the mean weight of the evaluation's samples", "nat"),
    Column("eubo", "mean log-weight of held-out exact samples noised back; synthetic targets only", "nat"),
    Column("eubo_gap", "eubo less the mean true log Z of the same conditions; targets with conditions only", "nat"),
    Column("outside_support", "fraction of the evaluation's samples off the support"),
    Column("replay_lambda", "tempering exponent of the replay buffer"),
    Column("replay_size", "states in the replay buffer"),
    Column("replay_rejected", "states that were not finite and never entered it"),
    Column("smc_runs", "SMC passes since the last row, without those that collapsed"),
    Column("smc_collapsed", "passes beside them whose weights were all zero or not finite"),
    Column("smc_resampled_at", "step:count, how often these passes resampled at each chunk end"),
    Column("resampling_steps", "resamplings a pass"),
    Column("smc_lambda", "mean tempering exponent where they resampled"),
    Column("distinct_ancestors", "mean number of particles at n = 0 with descendants at n = N"),
    Column("smc_log_z", "mean of the passes' estimates of log Z", "nat"),
    Column("skipped", "updates skipped so far because something was not finite"),
    Column("energy_evaluations", "evaluations of the target so far, without those for analysis"),
    Column("guide_scores", "scores of the guide so far: no evaluations of the target, but of a cheaper stand-in"),
    Column(
        "evaluations_non_finite",
        "of energy_evaluations and evaluations_analysis, how many gave NaN or an exception and were returned as +inf",
    ),
    *(Column(f"evaluations_{word}", f"so far, for {meaning}") for word, meaning in PURPOSES.items()),
)
"""docs/METRICS_CSV.md is made from these; a row holds no other column."""


def training_row(trainer: Trainer, weights: LogWeights) -> dict[str, Any]:
    """The row of a trainer, by the weights of all ranks' samples of an evaluation; the report on SMC passes begins anew
    (collective)."""
    log_w = weights.log_w
    inside = log_w[log_w > -math.inf]
    behaviours, buffer = trainer.behaviours, trainer.behaviours.buffer
    smc = SMCReport.merged(ranks.objects(behaviours.take_report()))
    counter = trainer.target.counter.over_ranks()
    warm = trainer.done <= trainer.warm_updates
    row: dict[str, Any] = {
        "update": trainer.done,
        "seconds": round(trainer.seconds, 2),
        "phase": trainer.phase,
        "denoising_loss": trainer.last_loss if warm else math.nan,
        "loss": math.nan if warm else trainer.last_loss,
        "twist_loss": trainer.last_twist_loss,
        "teacher_loss": math.nan if trainer.teacher is None else trainer.teacher.last_loss,
        "elbo": float(inside.mean()) if len(inside) else math.nan,
        "elbo_median": float(inside.median()) if len(inside) else math.nan,
        "ess": weights.ess_fraction,
        "log_z": float(trainer.learner.log_z),
        "log_z_running": behaviours.log_z.value,
        "log_z_estimate": weights.log_mean,
        "outside_support": 1.0 - len(inside) / len(log_w),
        "replay_lambda": buffer.exponent,
        "replay_size": ranks.total(len(buffer)),
        "replay_rejected": ranks.total(buffer.rejected),
        "smc_runs": smc.passes,
        "smc_collapsed": smc.collapsed,
        "smc_resampled_at": " ".join(f"{k}:{v}" for k, v in sorted(smc.resampled.items())),
        "resampling_steps": sum(smc.resampled.values()) / smc.passes if smc.passes else math.nan,
        "smc_lambda": _mean(smc.exponents),
        "distinct_ancestors": _mean(smc.ancestors),
        "smc_log_z": _mean(smc.log_z),
        "skipped": sum(trainer.learner.skipped.values()),
        "energy_evaluations": counter.spent,
        "guide_scores": counter.guide,
        "evaluations_non_finite": counter.non_finite,
    }
    return row | {f"evaluations_{word}": counter.by_purpose.get(word, 0) for word in PURPOSES}


def _mean(values: list) -> float:
    return sum(values) / len(values) if values else math.nan
