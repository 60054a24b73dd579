"""The job on a synthetic target: train, sample, compare with exact samples, and write a run directory."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from molsampler.analysis.pictures import synthetic as pictures
from molsampler.analysis.pictures.training import draw_training
from molsampler.analysis.statistics import two_sample
from molsampler.analysis.statistics.estimates import Estimate, log_z_estimate, run_estimates
from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import LogWeights
from molsampler.runs import density
from molsampler.runs.density import DensityRun, Kind
from molsampler.runs.loop import Say, held_config, settle, write_config
from molsampler.runs.methods import apply_arm, find_arm
from molsampler.runs.synthetic_config import SyntheticConfig
from molsampler.smc.annealed import annealed_smc
from molsampler.smc.trained import Drawn
from molsampler.store.checkpoint import read_checkpoint
from molsampler.store.run_directory import RunDirectory
from molsampler.targets.charted import Charted, first_coordinates
from molsampler.targets.density import start_of
from molsampler.targets.synthetic import SyntheticTarget, make_synthetic

DISTANCE_SAMPLES = 2000  # as in the literature
DISTANCE_REPEATS = 4
FLOOR_PAIRS = 12
BASELINE_RUNS = 8  # independent ones of a classical arm, whose scatter is its error
HELD_OUT_SEED = 20_251_011  # of the exact samples that rows of metrics.csv compare with


@dataclass
class SyntheticRun(DensityRun):
    """A run whose target gives exact samples to compare with."""

    kind: ClassVar[str] = "synthetic"
    config: SyntheticConfig
    target: SyntheticTarget
    truth: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Held-out exact samples, which only `row` and the metrics see."""
        drawn = self.target.sample(torch.Generator().manual_seed(HELD_OUT_SEED), self.config.train.evaluation_samples)
        self.truth = self.charted.coordinates.to_standard(drawn.float())

    def row(self) -> dict[str, Any]:
        row, own = self.trainer.evaluate(), ranks.portion(len(self.truth))
        log_w = ranks.gathered(self.backward_log_weights(self.truth[own.start : own.stop]))
        return row | {"eubo": float(log_w.mean())}

    def backward_log_weights(self, truth: torch.Tensor) -> torch.Tensor:
        """log w (M,) of exact samples (M, D) on the chart, noised back to the prior."""
        generator = ranks.generator(HELD_OUT_SEED + 1)
        with self.target.counter.purpose("analysis"):
            log_r = self.charted.log_prob_and_score(truth)[0]
            return self.trainer.sampler().path_log_weights(truth, log_r, generator).double()


def check(config: SyntheticConfig) -> None:
    """InputError for whatever would stop a run of this configuration later."""
    density.check(config)
    find_arm(config.arm)
    make_synthetic(config.target)
    if config.samples < DISTANCE_SAMPLES:
        raise InputError(f"{config.samples} samples are too few: distances are taken between {DISTANCE_SAMPLES}")
    particles = config.train.anneal.particles
    if find_arm(config.arm).baseline and particles * BASELINE_RUNS < DISTANCE_SAMPLES:
        raise InputError(
            f"{particles} particles in each of {BASELINE_RUNS} runs are too few: distances are taken between "
            f"{DISTANCE_SAMPLES} points"
        )


def start(config: SyntheticConfig, run: RunDirectory, say: Say = print) -> SyntheticRun:
    """Set up a new run of the configuration's arm (collective)."""
    say = ranks.first_only(say)
    config = dataclasses.replace(config, train=apply_arm(config.arm, config.train))
    check(config)
    target = make_synthetic(config.target)
    say(f"{config.target}: {target.space.dim} dimensions; {config.arm}: {find_arm(config.arm).description}")
    return density.start(SyntheticRun, target, config, run, say)


def resume(run: RunDirectory, say: Say = print, minutes: float | None = None, **instead: Any) -> SyntheticRun:
    """Go on from the checkpoint of a run directory; rows of metrics.csv after it are dropped.

    minutes : of training in all, more than the run had
    instead : threads or samples, in place of the configuration's; None leaves them
    """
    return resume_as(SyntheticRun, run, say, minutes, **instead)


def resume_as(kind: type[Kind], run: RunDirectory, say: Say, minutes: float | None = None, **instead: Any) -> Kind:
    """`resume`, of any kind of run on a target of the registry."""
    state = read_checkpoint(run / "checkpoint.pt")
    config = held_config(state, kind.kind, SyntheticConfig(), run)
    changes = {name: value for name, value in instead.items() if value is not None}
    config = dataclasses.replace(config, **changes)
    made = density.resume(kind, make_synthetic(config.target), config, state, run, say)
    if minutes is not None:
        made.extend(minutes)
    elif changes:
        write_config(made.config, run)
    if minutes is not None or changes:
        made.save()  # whoever goes on once more need not ask again
    _drop_figures(run)
    return made


@ranks.first_only
def _drop_figures(run: RunDirectory) -> None:
    """Of a finished run that goes on: stopped once more, it is not taken for finished."""
    (run / "metrics.json").unlink(missing_ok=True)


def conclude(run: SyntheticRun) -> dict[str, Any]:
    """Sample with the averaged policy and with SMC; write samples, pictures and metrics.json; return the metrics, on
    the first rank (collective)."""
    generator = ranks.generator(run.config.train.seed + 1)
    trained = run.trainer.sampler()
    with run.target.counter.purpose("analysis"):
        drawn = trained.draw(run.config.samples, generator).gathered()
        particles = None
        if trained.twist_trained:
            particles = run.smc_sampler(generator).smc(run.config.samples, generator).gathered()
    return _conclude(run, drawn, particles, density.costs(run), generator) or {}


@ranks.first_only
def _conclude(
    run: SyntheticRun, drawn: Drawn, particles: Drawn | None, spent: dict[str, Any], generator: torch.Generator
) -> dict[str, Any]:
    config, trainer, coordinates = run.config, run.trainer, run.charted.coordinates
    with torch.no_grad():
        x = coordinates.to_natural(drawn.x)[0]
    truth = run.target.sample(generator, config.samples).float()
    backward = run.backward_log_weights(coordinates.to_standard(truth)).numpy()
    samples = density.DensitySamples(x.numpy(), drawn.log_w.numpy(), drawn.log_r.double().numpy())
    metrics = density.weight_figures(samples)
    metrics["eubo"] = two_sample.eubo(backward)
    metrics["log_z_learnt"] = Estimate(float(trainer.learner.log_z.detach()), float("nan"))
    metrics["log_z_running"] = Estimate(trainer.behaviours.log_z.value, float("nan"))
    if particles is not None:
        smc = run_estimates(particles.log_w.numpy(), particles.group.numpy())
        metrics["smc_ess"], metrics["smc_log_z_estimate"] = smc
    metrics |= _against_truth(run.target, x, samples.weights, generator)
    metrics |= _gaps(metrics, run.target)
    metrics |= spent
    density.write_samples(run.run, samples)
    _draw_samples(run.run, run.target, x, samples.weights, truth)
    _draw_training(run)
    run.run.write_metrics(metrics)
    return run.run.load_metrics()


def baseline(config: SyntheticConfig, run: RunDirectory, say: Say = print) -> dict[str, Any]:
    """The classical arm of the configuration: independent runs of annealed SMC, at least one a rank; returns the
    metrics, on the first rank (collective)."""
    begun = time.perf_counter()
    config = settle(config)
    target = make_synthetic(config.target)
    charted = Charted(target, first_coordinates(*start_of(target), config.standardise))
    generator = ranks.generator(config.train.seed)
    anneal = dataclasses.replace(config.train.anneal, kernel=find_arm(config.arm).baseline)
    if anneal.kernel == "hmc":  # at equal evaluations
        moves = {name: max(getattr(anneal, name) // anneal.leapfrog_steps, 1) for name in ("moves", "last_moves")}
        anneal = dataclasses.replace(anneal, **moves)
    runs = max(BASELINE_RUNS, ranks.size())
    say(f"{config.arm}: {anneal.kernel}, {runs} runs of {anneal.particles} particles")
    found = []
    with target.counter.purpose("smc"):
        for _ in ranks.portion(runs):
            found.append(annealed_smc(charted.log_prob_and_score, charted.space, anneal, generator, explore=False))
    log_z = ranks.gathered(torch.tensor([result.log_z for result in found], dtype=torch.float64))
    z, log_r = (ranks.gathered(torch.cat([getattr(result.state, name) for result in found])) for name in ("x", "log_r"))
    spent, seconds = target.counter.over_ranks().spent, time.perf_counter() - begun
    if not ranks.first():
        return {}
    passes = LogWeights(log_z)
    order = torch.randperm(runs * anneal.particles, generator=generator)
    x = charted.coordinates.to_natural(z)[0][order]
    weights = (passes.normalised / anneal.particles).repeat_interleave(anneal.particles)[order].numpy()
    none = float("nan")
    metrics: dict[str, Any] = {"log_z_estimate": log_z_estimate(log_z.numpy())}
    metrics |= {name: Estimate(float(spent), none) for name in ("evaluations", "evaluations_smc")}
    metrics["training_seconds"] = Estimate(seconds, none)
    metrics |= _against_truth(target, x, weights, generator)
    metrics |= _gaps(metrics, target)
    log_prob = log_r[order].double().numpy()
    run.clear()
    write_config(config, run)
    density.write_samples(run, density.DensitySamples(x.numpy(), np.log(weights), log_prob))
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


def _draw_samples(
    run: RunDirectory, target: SyntheticTarget, x: torch.Tensor, weights: np.ndarray | None, truth: torch.Tensor
) -> None:
    def log_density(plane: np.ndarray) -> np.ndarray:
        return target.log_prob(torch.as_tensor(plane, dtype=torch.float64)).numpy()

    pictures.draw_samples(
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


def _draw_training(run: SyntheticRun) -> None:
    draw_training(run.run.metrics_columns(), run.run / "training.png")
    rows = run.run.read_metrics_rows()
    if any(float(row.get("smc_runs") or 0.0) > 0.0 for row in rows):
        schedule, chunk = run.config.train.schedule, run.config.train.smc.chunk
        pictures.draw_resampling(run.run / "resampling.png", rows, schedule.n_steps, chunk)
