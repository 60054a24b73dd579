"""A run on a density on R^D: one's own, or a synthetic target. No molecule is involved."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch

from molsampler.analysis.pictures.density import draw_density_samples
from molsampler.analysis.pictures.training import draw_training
from molsampler.analysis.statistics.estimates import (
    Estimate,
    elbo,
    ess_fraction,
    log_z_estimate,
    outside_support,
    run_estimates,
)
from molsampler.analysis.statistics.pareto import k_threshold, pareto_k
from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import normalised
from molsampler.basis.settings import change, setting, table
from molsampler.preparation.start import prepare
from molsampler.runs.loop import Say, TrainingRun, check_processes, check_settings, held_config, settle, tell_idle
from molsampler.smc.trained import check_samples
from molsampler.store.atomic import write_npz
from molsampler.store.checkpoint import read_checkpoint, restoring
from molsampler.store.run_directory import RunDirectory
from molsampler.targets.charted import Charted, Standardise, first_coordinates
from molsampler.targets.density import as_target, start_of
from molsampler.targets.target import Target
from molsampler.training.config import TrainConfig, per_rank
from molsampler.training.trainer import Trainer

Kind = TypeVar("Kind", bound="DensityRun")
_COMPARED = 256  # replayed states by which a density is known again


@dataclass(frozen=True)
class DensityConfig:
    """One run on a density of one's own."""

    samples: int = setting(10_000, "drawn at the end", low=1)
    sampler: Literal["policy", "smc"] = setting(
        "policy", "plain importance sampling with the policy, or sequential Monte Carlo with the twist"
    )
    standardise: Standardise = setting(
        "diagonal",
        "coordinates of the annealed start: of N(centre, extent^2), or fitted to the annealed states, by spread, by "
        "covariance, or through sinh for heavy tails",
        needs={"train.start": "annealed"},
    )
    processes: int = setting(
        1,
        "that train together, each with its share of every batch; as many as torchrun starts",
        low=0,
    )
    threads: int = setting(0, "of torch, in each process; 0 for all cores, shared among processes", low=0)
    device: Literal["cpu"] = setting("cpu", "densities are for the CPU")
    train: TrainConfig = table(TrainConfig, "training")


class DensityRunDirectory(RunDirectory):
    """A run's folder without a molecule."""

    files: ClassVar[tuple[str, ...]] = (
        "config.toml",
        "metrics.csv",
        "checkpoint.pt",
        "samples.npz",
        "metrics.json",
        "samples.png",
        "training.png",
        "resampling.png",
    )


@dataclass
class DensityRun(TrainingRun):
    """A target in its own coordinates, and the trainer, whose target is the same on standardised ones."""

    kind: ClassVar[str] = "density"
    config: Any
    target: Target

    @property
    def charted(self) -> Charted:
        return self.trainer.target


@dataclass(frozen=True)
class DensitySamples:
    """x : (n, D) in the target's own coordinates, and (n,) float64 log_weights (-inf off the support), log_prob (log R
    on the standardised coordinates; None where a classical arm of version 0.1.0 wrote none), group (SMC pass, or
    None), condition (the number of the held-out condition that it was drawn for; None where the target has none)."""

    x: np.ndarray
    log_weights: np.ndarray
    log_prob: np.ndarray | None = None
    group: np.ndarray | None = None
    condition: np.ndarray | None = None

    @property
    def weights(self) -> np.ndarray | None:
        """(n,) normalised weights; None where no sample lies on the support. Where there are conditions those of each
        sum to 1, or are all 0 where none of its samples lies on the support: weights of different ones do not
        compare."""
        if self.condition is None:
            return normalised(self.log_weights)
        weights = np.zeros(len(self.log_weights))
        for one in np.unique(self.condition):
            own = self.condition == one
            found = normalised(self.log_weights[own])
            weights[own] = 0.0 if found is None else found
        return weights if weights.any() else None


def check(config: Any) -> None:
    """InputError for whatever would stop a run of this configuration later."""
    check_settings(config)
    if config.train.moves.kind == "md":
        raise InputError('moves.kind = "md" needs dynamics, which this target does not have: use "mala"')


def start(kind: Callable[..., Kind], target: Target, config: Any, run: RunDirectory, say: Say = print) -> Kind:
    """Set up a new run: annealing and prefill where the configuration has them, and the budget."""
    begun = time.perf_counter()
    config = settle(config)
    tell_idle(config, say)
    config.train.check(target.space)
    generator = ranks.generator(config.train.seed, config.device)
    charted = _charted(target, config)
    prefill = None
    if config.train.start == "annealed":
        prefill = prepare(charted, per_rank(config.train).anneal, generator, say, fit=config.standardise != "prior")
    trainer = Trainer(charted, config.train, generator, config.device, say)
    trainer.begin(prefill)
    made = kind(config, run, trainer, say, target)
    made.fix_budget()
    made.timings["setup"] = time.perf_counter() - begun
    spent = ranks.total(target.counter.total)
    say(
        f"set-up took {made.timings['setup']:.0f} s and {spent:,} evaluations; "
        f"{trainer.warm_updates:,} updates of denoising and {trainer.updates:,} of {config.train.objective} follow"
    )
    made.save()
    return made


def _charted(target: Target, config: Any) -> Charted:
    """The target on its first coordinates, which annealing will change where there is any."""
    standardise = config.standardise if config.train.start == "annealed" else "prior"
    return Charted(target, first_coordinates(*start_of(target), standardise, target.space))


def resume(
    kind: Callable[..., Kind], target: Target, config: Any, state: dict, run: RunDirectory, say: Say = print
) -> Kind:
    """Go on from a checkpoint's `state`; rows of metrics.csv after it are dropped."""
    config = settle(config)
    charted = _charted(target, config)
    with restoring(run / "checkpoint.pt"):
        charted.coordinates.load_state_dict(state["coordinates"])
    trainer = Trainer(charted, config.train, torch.Generator(config.device), config.device, say)
    with restoring(run / "checkpoint.pt"):
        trainer.load_gathered_state(state["trainer"])
        timings = dict(state["timings"])
    run.truncate_metrics(trainer.done)
    say(f"resumed at update {trainer.done:,} of {trainer.total:,}")
    return kind(config, run, trainer, say, target, timings=timings)


def begin(
    given: Any, config: DensityConfig, out: str | Path | None = None, *, overwrite: bool = False, say: Say = print
) -> DensityRun:
    """A new run on a density of one's own (`as_target`) in the directory `out`, by default runs/ and its name.
    Every rank calls it (collective), as all that follows."""
    say = ranks.first_only(say)
    check(config)
    check_processes(config)
    target = as_target(given)
    name = getattr(target, "name", type(target).__name__.lower())
    run = DensityRunDirectory.claim(out or Path("runs") / name, overwrite=overwrite, say=say)
    try:
        return start(DensityRun, target, config, run, say)
    except BaseException:
        run.release()
        raise


def go_on(given: Any, out: str | Path, *, minutes: float | None = None, say: Say = print) -> DensityRun:
    """The run on the density in the directory `out` from its last checkpoint; minutes : of training in all."""
    say = ranks.first_only(say)
    target = as_target(given)
    run = DensityRunDirectory.claim(out, resume=True, say=say)
    try:
        state = read_checkpoint(run / "checkpoint.pt")
        config = held_config(state, DensityRun.kind, DensityConfig(), run)
        made = resume(DensityRun, target, config, state, run, say)
        _check_same(made)
        if minutes is not None:
            made.extend(minutes)
        return made
    except BaseException:
        run.release()
        raise


def _check_same(run: DensityRun) -> None:
    """InputError where log R of replayed states is no longer what it was when they were stored."""
    buffer = run.trainer.behaviours.buffer
    held = slice(0, min(len(buffer), _COMPARED))
    with torch.no_grad():
        now = run.charted.log_prob(buffer.x[held])
    if not torch.allclose(now, buffer.log_r[held], rtol=1e-3, atol=1e-3):
        raise InputError(
            f"'{run.run.path}' holds a run on another density: log_prob of its states is no longer what it was; give "
            "the density that it was trained on, or start another run"
        )


def sample(
    run: DensityRun, n: int | None = None, sampler: str | None = None, seed: int | None = None
) -> DensitySamples:
    """Draw weighted samples with the averaged policy, or by SMC, and write samples.npz; nothing that learns is touched
    (collective: every rank draws its portion, and gets all)."""
    n, sampler = run.config.samples if n is None else n, sampler or run.config.sampler
    check_samples(n, sampler)
    if seed is not None:
        check_settings(change(run.config, train={"seed": seed}))
    seed = run.config.train.seed if seed is None else seed
    generator = ranks.generator(seed + 1, run.config.device)
    draw = run.drawing(sampler, generator)
    with run.target.counter.purpose("analysis"):
        drawn = draw(n, generator).gathered()
    with torch.no_grad():
        x = run.charted.coordinates.to_natural(drawn.x)[0].cpu().numpy()
    group = None if drawn.group is None else drawn.group.numpy()
    samples = DensitySamples(x, drawn.log_w.cpu().numpy(), drawn.log_r.double().cpu().numpy(), group)
    write_samples(run.run, samples)
    return samples


@ranks.first_only
def write_samples(run: RunDirectory, samples: DensitySamples) -> None:
    """samples.npz; figures and picture of older samples go."""
    for name in ("metrics.json", "samples.png"):
        (run / name).unlink(missing_ok=True)
    group = {} if samples.group is None else {"group": samples.group}
    write_npz(run / "samples.npz", x=samples.x, log_weights=samples.log_weights, log_prob=samples.log_prob, **group)


def load_samples(out: str | Path) -> DensitySamples:
    """What `sample` wrote; InputError where it is missing or damaged."""
    path = Path(out) / "samples.npz"
    if not path.is_file():
        raise InputError(f"'{out}' holds no samples (samples.npz is missing): draw some first")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return DensitySamples(**{name: archive[name] for name in archive.files})
    except Exception as error:
        raise InputError(f"the samples in '{path}' cannot be read ({error}): draw them again") from error


def analyse(run: DensityRun) -> dict[str, Any]:
    """metrics.json, samples.png and training.png of a run's samples; returns the metrics, on the first rank
    (collective)."""
    return _analyse(run, costs(run)) or {}


@ranks.first_only
def _analyse(run: DensityRun, spent: dict[str, Any]) -> dict[str, Any]:
    samples = load_samples(run.run.path)
    metrics = weight_figures(samples) | moments(samples) | spent
    metrics["log_z_learnt"] = Estimate(float(run.trainer.learner.log_z.detach()), float("nan"))
    metrics["log_z_running"] = Estimate(run.trainer.behaviours.log_z.value, float("nan"))
    draw_density_samples(run.run / "samples.png", samples.x, samples.weights)
    draw_training(run.run.metrics_columns(), run.run / "training.png")
    run.run.write_metrics(metrics)
    return run.run.load_metrics()


def weight_figures(samples: DensitySamples) -> dict[str, Any]:
    """ESS, log Z, ELBO and the weights' tail."""
    log_w = samples.log_weights
    none = float("nan")
    figures: dict[str, Any] = {
        "samples": Estimate(float(len(log_w)), none),
        "outside_support": outside_support(log_w),
    }
    if samples.group is not None:
        ess, log_z = run_estimates(log_w, samples.group)
        return figures | {"ess": ess, "log_z_estimate": log_z}
    return figures | {
        "ess": ess_fraction(log_w),
        "log_z_estimate": log_z_estimate(log_w),
        "elbo": elbo(log_w),
        "pareto_k": pareto_k(log_w, np.random.default_rng(0)),
        "pareto_k_threshold": Estimate(k_threshold(len(log_w)), none),
    }


def moments(samples: DensitySamples) -> dict[str, Any]:
    """Weighted mean and standard deviation of every coordinate; errors by the delta method, of independent samples, or
    passes of sequential Monte Carlo where the samples come from such."""
    w = samples.weights
    if w is None:
        return {}
    figures = {}
    for k, x in enumerate(samples.x.T.astype(np.float64), start=1):
        mean = float(w @ x)
        var = float(w @ np.square(x - mean))
        error = _error(w * (x - mean), samples.group)
        var_error = _error(w * (np.square(x - mean) - var), samples.group)
        figures[f"mean_x{k}"] = Estimate(mean, error)
        figures[f"std_x{k}"] = Estimate(var**0.5, 0.5 * var_error / var**0.5 if var > 0.0 else float("nan"))
    return figures


def _error(influence: np.ndarray, group: np.ndarray | None) -> float:
    """Standard error of a sum of influences (n,), which within a group depend on each other."""
    own = influence if group is None else np.bincount(group, weights=influence)
    return float(np.sqrt(np.square(own).sum()))


def costs(run: DensityRun) -> dict[str, Any]:
    """Evaluations, updates and seconds of the training (collective)."""
    none, counter = float("nan"), run.target.counter.over_ranks()
    figures = {
        f"evaluations_{word}": Estimate(float(n), none)
        for word, n in sorted(counter.by_purpose.items())
        if word != "analysis"
    }
    figures["evaluations"] = Estimate(float(counter.spent), none)
    figures["updates"] = Estimate(float(run.trainer.done), none)
    figures["training_seconds"] = Estimate(run.trainer.seconds, none)
    return figures | {f"seconds_{name}": Estimate(value, none) for name, value in run.timings.items()}
