"""The job on a synthetic target: train, sample, compare with exact samples, and write a run directory."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from molsampler.analysis.pictures import synthetic as synthetic_figures
from molsampler.analysis.pictures.training import draw_training
from molsampler.analysis.statistics import two_sample
from molsampler.analysis.statistics.estimates import (
    Estimate,
    elbo,
    ess_fraction,
    log_z_estimate,
    outside_support,
    run_estimates,
)
from molsampler.basis.log_weights import LogWeights, normalised
from molsampler.diffusion.policy import Policy
from molsampler.diffusion.trajectories import score_states
from molsampler.preparation.synthetic import first_chart, prepare_synthetic
from molsampler.runs.loop import MISFITS, Say, TrainingRun, misfit, read_checkpoint, settle, write_config
from molsampler.runs.methods import apply_arm, find_arm
from molsampler.runs.sampling import sample_policy, sample_smc
from molsampler.runs.synthetic_settings import SyntheticConfig
from molsampler.smc.annealed import annealed_smc
from molsampler.store.atomic import write_npz
from molsampler.store.config_file import update
from molsampler.store.run_directory import RunDirectory
from molsampler.targets.coordinates.affine import Affine
from molsampler.targets.synthetic import SyntheticTarget, make_synthetic
from molsampler.training.trainer import Trainer, averaged_policy

DISTANCE_SAMPLES = 2000  # as in the literature
DISTANCE_REPEATS = 4
FLOOR_PAIRS = 12
FILES = ("config.toml", "metrics.csv", "checkpoint.pt", "samples.npz", "metrics.json")
PICTURES = ("samples.png", "training.png", "resampling.png")
BASELINE_RUNS = 8  # independent ones of a classical arm, whose scatter is its error
HELD_OUT_SEED = 20_251_011  # of the exact samples that rows of metrics.csv compare with


class SyntheticRunDirectory(RunDirectory):
    """A run's folder without a molecule."""

    files = (*FILES, *PICTURES)


@dataclass
class SyntheticJob(TrainingRun):
    """A target in its own coordinates, the chart on which it is sampled, and the trainer."""

    config: SyntheticConfig
    target: SyntheticTarget
    chart: Affine
    truth: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Held-out exact samples, which only `row` and the metrics see."""
        drawn = self.target.sample(torch.Generator().manual_seed(HELD_OUT_SEED), self.config.train.evaluation_samples)
        self.truth = self.chart.to_standard(drawn.float())

    def row(self) -> dict[str, Any]:
        log_w = self.trainer.learner.with_averaged(lambda policy: self.backward_log_weights(policy, self.truth))
        return self.trainer.evaluate() | {"eubo": float(log_w.mean())}

    def backward_log_weights(self, policy: Policy, truth: torch.Tensor) -> torch.Tensor:
        """log w (M,) of exact samples (M, D) on the chart, noised back to the prior."""
        generator = torch.Generator().manual_seed(HELD_OUT_SEED + 1)
        with torch.no_grad(), self.target.counter.purpose("analysis"):
            path = self.trainer.learner.process.sample_path(truth, generator)
            log_r = self.chart.log_prob_and_score(truth)[0]
            return score_states(policy, path, log_r).log_weights().double()

    def target_state(self) -> dict:
        return self.chart.state_dict()


def start(config: SyntheticConfig, run: RunDirectory, say: Say = print) -> SyntheticJob:
    """Set up a new run of the configuration's arm: annealing and prefill where it has them, and the budget."""
    begun = time.perf_counter()
    config = settle(dataclasses.replace(config, train=apply_arm(config.arm, config.train)))
    target = make_synthetic(config.target)
    generator = torch.Generator().manual_seed(config.train.seed)
    say(f"{config.target}: {target.space.dim} dimensions; {config.arm}: {find_arm(config.arm).description}")
    prefill, chart = None, first_chart(target, config.standardise)
    if config.train.start == "annealed":
        chart, prefill = prepare_synthetic(target, config.standardise, config.train.anneal, generator, say)
    trainer = Trainer(chart, config.train, generator)
    trainer.begin(prefill)
    job = SyntheticJob(config, run, trainer, say, target, chart)
    job.fix_budget()
    job.timings["setup"] = time.perf_counter() - begun
    say(
        f"set-up took {job.timings['setup']:.0f} s and {target.counter.total:,} evaluations; "
        f"{trainer.warm_updates:,} updates of denoising and {trainer.updates:,} of {config.train.objective} follow"
    )
    job.save()
    return job


def resume(run: RunDirectory, say: Say = print) -> SyntheticJob:
    """Go on from the checkpoint of a run directory; rows of metrics.csv after it are dropped."""
    state = read_checkpoint(run / "checkpoint.pt")
    try:
        config = settle(update(SyntheticConfig(), state["config"], str(run / "checkpoint.pt")))
        target = make_synthetic(config.target)
        chart = first_chart(target, config.standardise)
        chart.load_state_dict(state["target"])
        trainer = Trainer(chart, config.train, torch.Generator())
        trainer.load_state_dict(state["trainer"])
    except MISFITS as error:
        raise misfit(run / "checkpoint.pt", error) from error
    run.truncate_metrics(trainer.done)
    say(f"resumed at update {trainer.done:,} of {trainer.total:,}")
    return SyntheticJob(config, run, trainer, say, target, chart, timings=dict(state["timings"]))


def conclude(job: SyntheticJob) -> dict[str, Any]:
    """Sample with the averaged policy and with SMC; write samples, pictures and metrics.json; return the metrics."""
    config, trainer, chart, counter = job.config, job.trainer, job.chart, job.target.counter
    spent = dict(sorted(counter.by_purpose.items()))
    policy = averaged_policy(trainer)
    generator = torch.Generator().manual_seed(config.train.seed + 1)
    with counter.purpose("analysis"):
        drawn = sample_policy(policy, lambda x: chart.log_prob_and_score(x)[0], config.samples, generator)
        particles, _ = sample_smc(
            policy,
            lambda x, k: trainer.learner.log_twist(x, k, trainer.twist_log_r(x, k)),
            lambda x: chart.log_prob_and_score(x)[0],
            config.samples,
            config.train.smc,
            generator,
        )
    log_w = (drawn.log_r.double() - drawn.log_ratio).numpy()
    smc_log_w = (particles.log_r.double() - particles.log_ratio).numpy()
    truth = job.target.sample(generator, config.samples).float()
    backward = job.backward_log_weights(policy, chart.to_standard(truth)).numpy()
    smc_ess, smc_log_z = run_estimates(smc_log_w, particles.group.numpy())
    metrics: dict[str, Any] = {
        "elbo": elbo(log_w),
        "eubo": two_sample.eubo(backward),
        "log_z_estimate": log_z_estimate(log_w),
        "ess": ess_fraction(log_w),
        "outside_support": outside_support(log_w),
        "log_z_learnt": Estimate(float(trainer.learner.log_z.detach()), float("nan")),
    }
    if config.train.objective != "reverse_kl":  # which trains no twist
        metrics |= {"smc_ess": smc_ess, "smc_log_z_estimate": smc_log_z}
    x = chart.to_natural(drawn.x)
    metrics |= _against_truth(job.target, x, normalised(log_w), generator)
    metrics |= _gaps(metrics, job.target)
    metrics |= _costs(spent, trainer.seconds, job.timings)
    write_npz(job.run / "samples.npz", x=x.numpy(), log_weights=log_w, log_prob=drawn.log_r.double().numpy())
    _draw_samples(job.run, job.target, x, normalised(log_w), truth)
    _draw_training(job)
    job.run.write_metrics(metrics)
    return job.run.load_metrics()


def baseline(config: SyntheticConfig, run: RunDirectory, say: Say = print) -> dict[str, Any]:
    """The classical arm of the configuration: independent runs of annealed SMC; returns the metrics."""
    begun = time.perf_counter()
    config = settle(config)
    write_config(config, run)
    target = make_synthetic(config.target)
    chart, generator = first_chart(target, config.standardise), torch.Generator().manual_seed(config.train.seed)
    anneal = dataclasses.replace(config.train.anneal, kernel=find_arm(config.arm).baseline)
    if anneal.kernel == "hmc":  # at equal evaluations
        moves = {name: max(getattr(anneal, name) // anneal.leapfrog_steps, 1) for name in ("moves", "last_moves")}
        anneal = dataclasses.replace(anneal, **moves)
    say(f"{config.arm}: {anneal.kernel}, {BASELINE_RUNS} runs of {anneal.particles} particles")
    found = []
    with target.counter.purpose("smc"):
        for _ in range(BASELINE_RUNS):
            found.append(annealed_smc(chart.log_prob_and_score, chart.space, anneal, generator, explore=False))
    seconds = time.perf_counter() - begun
    log_z = torch.tensor([result.log_z for result in found], dtype=torch.float64)
    relative = (log_z - log_z.max()).exp()
    error = float(relative.std() / relative.mean()) / len(found) ** 0.5
    order = torch.randperm(len(found) * anneal.particles, generator=generator)
    x = chart.to_natural(torch.cat([result.state.x for result in found]))[order]
    weights = (relative / relative.sum() / anneal.particles).repeat_interleave(anneal.particles)[order].numpy()
    spent = dict(target.counter.by_purpose)
    metrics: dict[str, Any] = {"log_z_estimate": Estimate(LogWeights(log_z).log_mean, error)}
    metrics |= _against_truth(target, x, weights, generator)
    metrics |= _gaps(metrics, target) | _costs(spent, seconds, {})
    write_npz(run / "samples.npz", x=x.numpy(), log_weights=np.log(weights))
    _draw_samples(run, target, x, weights, target.sample(generator, config.samples).float())
    run.write_metrics(metrics)
    return run.load_metrics()


def _against_truth(
    target: SyntheticTarget, x: torch.Tensor, weights: np.ndarray | None, generator: torch.Generator
) -> dict[str, Any]:
    """Distances of samples x (n, D), raw and reweighted, to exact ones, with the floors; modes among them.

    Every distance is the mean over disjoint blocks of samples, each against exact samples of its own, and its error
    theirs; the floor is that of pairs of exact samples, with the standard deviation of a single pair beside it.
    """
    n, points = DISTANCE_SAMPLES, x.double().numpy()
    blocks = [slice(k * n, (k + 1) * n) for k in range(min(DISTANCE_REPEATS, len(points) // n))]
    exact = target.sample(generator, (len(blocks) + 2 * FLOOR_PAIRS) * n).numpy().reshape(-1, n, points.shape[1])
    partners, ours, theirs = exact[: len(blocks)], exact[len(blocks) :: 2], exact[len(blocks) + 1 :: 2]
    metrics: dict[str, Any] = {}
    for name, distance in {"w2_squared": two_sample.w2_squared, "mmd": two_sample.mmd}.items():
        metrics[name] = _mean([distance(points[b], y) for b, y in zip(blocks, partners, strict=True)])
        floor = [distance(a, b) for a, b in zip(ours, theirs, strict=True)]
        metrics[f"{name}_floor"] = _mean(floor)
        metrics[f"{name}_floor_std"] = Estimate(float(np.std(floor, ddof=1)), float("nan"))
    if weights is not None:
        metrics["w2_squared_reweighted"] = _mean(
            [
                two_sample.w2_squared(points[b], y, weights[b] / weights[b].sum())
                for b, y in zip(blocks, partners, strict=True)
                if weights[b].sum() > 0.0
            ]
        )
    if target.n_modes is not None:
        metrics["modes_found"] = Estimate(float(target.count_modes(x[:n])), float("nan"))
    return metrics


def _mean(values: list[float]) -> Estimate:
    """Mean of independent values and its standard error, NaN for fewer than two."""
    if not values:
        return Estimate(float("nan"), float("nan"))
    stderr = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return Estimate(float(np.mean(values)), stderr)


def _gaps(metrics: dict[str, Any], target: SyntheticTarget) -> dict[str, Any]:
    """Distances of the bounds from each other and, where it is known, from log Z."""
    gaps: dict[str, Any] = {}
    if "elbo" in metrics:
        error = float(np.hypot(metrics["eubo"].stderr, metrics["elbo"].stderr))
        gaps["eubo_minus_elbo"] = Estimate(metrics["eubo"].value - metrics["elbo"].value, error)
    if target.log_z is None:
        return gaps
    log_z, log_z_error = target.log_z, target.log_z_error
    gaps["log_z_true"] = Estimate(log_z, log_z_error)
    if "elbo" in metrics:
        gaps["elbo_gap"] = Estimate(log_z - metrics["elbo"].value, float(np.hypot(metrics["elbo"].stderr, log_z_error)))
        gaps["eubo_gap"] = Estimate(metrics["eubo"].value - log_z, float(np.hypot(metrics["eubo"].stderr, log_z_error)))
        gaps["log_z_learnt_error"] = Estimate(abs(metrics["log_z_learnt"].value - log_z), float("nan"))
    found = metrics["log_z_estimate"]
    gaps["log_z_error"] = Estimate(abs(found.value - log_z), float(np.hypot(found.stderr, log_z_error)))
    return gaps


def _costs(spent: dict[str, int], seconds: float, timings: dict[str, float]) -> dict[str, Any]:
    counts = {word: n for word, n in spent.items() if word != "analysis"}
    costs = {f"evaluations_{word}": Estimate(float(n), float("nan")) for word, n in counts.items()}
    costs["evaluations"] = Estimate(float(sum(counts.values())), float("nan"))
    costs["training_seconds"] = Estimate(seconds, float("nan"))
    return costs | {f"seconds_{name}": Estimate(value, float("nan")) for name, value in timings.items()}


def _draw_samples(
    run: RunDirectory, target: SyntheticTarget, x: torch.Tensor, weights: np.ndarray | None, truth: torch.Tensor
) -> None:
    def log_density(plane: np.ndarray) -> np.ndarray:
        return target.log_prob(torch.as_tensor(plane, dtype=torch.float64)).numpy()

    synthetic_figures.draw_samples(
        run / "samples.png",
        x.numpy(),
        weights,
        truth.numpy(),
        limits=target.limits,
        axes=target.plot_axes,
        log_density=log_density if target.space.dim == 2 else None,
        modes=None if target.modes is None else target.modes.numpy(),
        mode_radius=target.mode_radius,
        title=target.name,
    )


def _draw_training(job: SyntheticJob) -> None:
    draw_training(job.run.metrics_columns(), job.run / "training.png")
    rows = job.run.read_metrics_rows()
    if any(float(row.get("smc_runs") or 0.0) > 0.0 for row in rows):
        schedule, chunk = job.config.train.schedule, job.config.train.smc.chunk
        synthetic_figures.draw_resampling(job.run / "resampling.png", rows, schedule.n_steps, chunk)
