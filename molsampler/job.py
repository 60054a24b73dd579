"""The job: from a system's name to a run directory. Train, sample, analyse; what scripts and command line call."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from molsampler import __version__
from molsampler.analysis.analyse import Subject, analyse
from molsampler.analysis.reference import Reference, load_reference
from molsampler.analysis.run_directory import RunDirectory
from molsampler.config_file import to_toml, update
from molsampler.errors import InputError
from molsampler.files import atomic_path, write_text
from molsampler.molecules.backend import make_energy
from molsampler.molecules.chart import Chart
from molsampler.molecules.energy import Energy
from molsampler.molecules.molecule import Molecule
from molsampler.molecules.openmm_energy import OpenMMEnergy
from molsampler.molecules.quench import quench
from molsampler.molecules.system import find_system_folder, load_molecule
from molsampler.sampling import Drawn, sample_policy, sample_smc
from molsampler.targets.molecule import MoleculeTarget
from molsampler.targets.prepare import SetupConfig, prepare_molecule
from molsampler.training.config import TrainConfig
from molsampler.training.learner import faster_precision
from molsampler.training.trainer import Trainer, averaged_policy

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunConfig:
    """One run.

    system : name of a folder in systems/, or a path
    samples : drawn at the end; sampler : plain importance sampling with the policy, or SMC with the twist
    backend : of the energy in training: torch kernels, the OpenMM bridge, or auto; platform : OpenMM's, for the bridge
    device : of networks and torch energy ("cpu", "cuda"); threads : of torch on the CPU, 0 for all cores
    """

    system: str = "aldp"
    samples: int = 10_000
    sampler: Literal["policy", "smc"] = "policy"
    backend: Literal["auto", "torch", "openmm"] = "auto"
    platform: str = "auto"
    device: str = "cpu"
    threads: int = 0
    setup: SetupConfig = field(default_factory=SetupConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class Job:
    """A molecule, its energy, target and trainer, tied to a run directory."""

    config: RunConfig
    run: RunDirectory
    molecule: Molecule
    energy: Energy
    target: MoleculeTarget
    trainer: Trainer
    say: Say
    stop: bool = False
    timings: dict[str, float] = field(default_factory=dict)


# making a job -------------------------------------------------------------------------------------------------------


def start(config: RunConfig, run: RunDirectory, say: Say = print) -> Job:
    """Set up a new run: short MD, annealing, prefill, compilation, and the budget turned into numbers of updates."""
    begun = time.perf_counter()
    molecule, energy, config = _foundations(config)
    generator = torch.Generator(config.device).manual_seed(config.train.seed)
    say(f"{molecule.name}: {molecule.n_atoms} atoms at {molecule.temperature:g} K, energy by {type(energy).__name__}")
    target, prefill = prepare_molecule(
        molecule,
        energy,
        config.setup,
        config.train.anneal,
        generator,
        device=config.device,
        compile=config.train.compile,
        say=say,
    )
    trainer = Trainer(target, config.train, generator, config.device)
    trainer.begin(prefill)
    say(
        f"prefill: {len(trainer.buffer):,} states, {energy.counter.total:,} energy evaluations so far; prior mismatch "
        f"{trainer.learner.process.prior_mismatch(prefill.state.x):.1e}"
    )
    trainer.plan()
    train = dataclasses.replace(config.train, warm_updates=trainer.warm_updates, updates=trainer.updates)
    config = dataclasses.replace(config, train=train)
    trainer.config = train
    job = Job(config, run, molecule, energy, target, trainer, say)
    job.timings["setup"] = time.perf_counter() - begun
    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    write_text(run / "config.toml", to_toml(config, f"molsampler {__version__}, resolved configuration; {threads}"))
    say(
        f"set-up took {job.timings['setup']:.0f} s; {trainer.warm_updates:,} updates of denoising and "
        f"{trainer.updates:,} of trajectory balance follow, in {train.precision}"
    )
    save(job)
    return job


def resume(run: RunDirectory, say: Say = print, device: str | None = None) -> Job:
    """Go on from the checkpoint of a run directory; rows of metrics.csv after it are dropped."""
    begun = time.perf_counter()
    state = _read_checkpoint(run / "checkpoint.pt")
    try:
        config = update(RunConfig(), state["config"], str(run / "checkpoint.pt"))
        if device is not None:
            config = dataclasses.replace(config, device=device)
        molecule, energy, config = _foundations(config)
        chart = Chart(molecule, device=config.device)
        chart.load_state_dict(state["chart"])
        target = MoleculeTarget(molecule, chart, energy, config.train.compile)
        trainer = Trainer(target, config.train, torch.Generator(config.device), config.device)
        trainer.load_state_dict(state["trainer"])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"the checkpoint '{run / 'checkpoint.pt'}' does not fit this version of molsampler ({error}): train again"
        ) from error
    run.truncate_metrics(trainer.done)
    job = Job(config, run, molecule, energy, target, trainer, say, timings=dict(state["timings"]))
    job.timings["resume"] = time.perf_counter() - begun
    say(f"resumed at update {trainer.done:,} of {trainer.total:,}")
    return job


def _foundations(config: RunConfig) -> tuple[Molecule, Energy, RunConfig]:
    if config.threads < 0:
        raise InputError(f"threads = {config.threads} is not usable: give a positive number, or 0 for all cores")
    if config.threads:
        torch.set_num_threads(config.threads)
    molecule = load_molecule(config.system)
    energy = make_energy(molecule, config.backend, config.platform, config.device, config.train.compile)
    if config.train.precision == "auto":
        train = dataclasses.replace(config.train, precision=faster_precision(config.device))
        config = dataclasses.replace(config, train=train)
    return molecule, energy, config


# training -----------------------------------------------------------------------------------------------------------


def train(job: Job, progress: bool = True) -> bool:
    """Train to the end; False where SIGINT or SIGTERM stopped it, with a checkpoint written."""
    trainer, config = job.trainer, job.config.train
    every = max(trainer.total // max(config.evaluations, 1), 1)
    saved = time.perf_counter()
    with (
        _stopping(job),
        tqdm(
            total=trainer.total,
            initial=trainer.done,
            desc="training",
            unit="update",
            disable=not progress,
            mininterval=1.0,
        ) as bar,
    ):
        while trainer.done < trainer.total and not job.stop:
            loss = trainer.update()
            bar.update()
            last = trainer.done == trainer.total
            if trainer.done % every == 0 or last:
                row = trainer.evaluate()
                job.run.append_metrics_row(row)
                bar.set_postfix_str(
                    f"{trainer.phase} loss {loss:.2f} ELBO {row['elbo']:.1f} ESS {row['ess']:.1%} "
                    f"{row['energy_evaluations'] / 1e6:.1f}M evaluations"
                )
            if last or job.stop or time.perf_counter() - saved > config.checkpoint_seconds:
                save(job)
                saved = time.perf_counter()
    if job.stop:
        job.say(f"stopped at update {trainer.done:,} of {trainer.total:,}; go on with --resume")
    return not job.stop


class _stopping:
    """Turns SIGINT and SIGTERM into a flag, so that the update in hand is finished and saved."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __enter__(self) -> None:
        def note(number, frame) -> None:
            self.job.stop = True

        try:
            self.before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: the caller's handlers stand
            self.before = {}

    def __exit__(self, *exc) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def save(job: Job) -> None:
    """checkpoint.pt, atomically: everything to go on from."""
    state = {
        "version": __version__,
        "config": dataclasses.asdict(job.config),
        "chart": job.target.chart.state_dict(),
        "trainer": job.trainer.state_dict(),
        "timings": job.timings,
    }
    with atomic_path(job.run / "checkpoint.pt") as path:
        torch.save(state, path)


def _read_checkpoint(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"'{path}' is not there: train first, or name another run directory")
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the checkpoint '{path}' cannot be read ({reason[:120]}): train again, or restore it"
        ) from error


# sampling -----------------------------------------------------------------------------------------------------------


def sample(job: Job, n: int | None = None, sampler: str | None = None, progress: bool = True) -> None:
    """Draw weighted samples with the averaged policy, rescore them by OpenMM's Reference platform, and write them."""
    begun = time.perf_counter()
    n = job.config.samples if n is None else n
    kind = sampler or job.config.sampler
    policy = averaged_policy(job.trainer)
    generator = torch.Generator(job.config.device).manual_seed(job.config.train.seed + 1)
    target = job.target
    with tqdm(total=n, desc="sampling", unit="sample", disable=not progress) as bar, target.counter.purpose("rollout"):
        if kind == "smc":
            trainer = job.trainer
            drawn, ancestors = sample_smc(
                policy,
                lambda x, k: trainer.learner.log_twist(x, k, trainer.twist_log_r(x, k)),
                target.log_prob,
                n,
                job.config.train.smc,
                generator,
                bar.update,
            )
            job.timings["smc_distinct_ancestors"] = float(np.mean(ancestors))
        else:
            drawn = sample_policy(policy, target.log_prob, n, generator, bar.update)
    positions, energies, log_prob = rescore(job, drawn)
    log_weights = np.where(np.isfinite(log_prob), log_prob - drawn.log_ratio.cpu().numpy(), -np.inf)
    group = None if drawn.group is None else drawn.group.cpu().numpy()
    job.run.write_samples(positions, job.molecule.topology, log_weights, energies, log_prob, group=group)
    job.timings["sampling"] = time.perf_counter() - begun


def rescore(job: Job, drawn: Drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (n, N, 3) nm, energies (n,) kJ/mol by OpenMM's Reference platform in double, and log R (n,),
    float64."""
    chart = Chart(job.molecule, dtype=torch.float64)
    chart.load_state_dict(job.target.chart.state_dict())
    z = drawn.x.double().cpu()
    positions, log_det = chart.to_cartesian(z)
    energy = OpenMMEnergy(job.molecule, platform="Reference")
    energy.counter = job.energy.counter
    try:
        with energy.counter.purpose("analysis"):
            potential = torch.cat([energy.energy(part).double() for part in positions.split(4096)])
    finally:
        energy.close()
    log_r = -job.molecule.beta * potential + log_det
    log_r = torch.where(chart.inside(z, positions), log_r, -torch.inf)
    return positions.numpy(), potential.numpy(), log_r.numpy()


# analysis -----------------------------------------------------------------------------------------------------------


def find_reference(system: str) -> Reference | None:
    """The stored reference of a system, or None where there is none."""
    folder = find_system_folder(system) / "reference"
    return load_reference(folder) if (folder / "reference.npz").is_file() else None


def conclude(job: Job) -> dict:
    """Pictures, metrics.json and report.html of the job's run directory; returns the metrics."""
    begun = time.perf_counter()

    def minimise(positions: np.ndarray) -> np.ndarray:
        with job.energy.counter.purpose("analysis"):
            return quench(job.energy, torch.tensor(positions, dtype=torch.float32), steps=1000)[0].numpy()

    config, trainer = job.config, job.trainer
    subject = Subject(
        name=job.molecule.name,
        temperature=job.molecule.temperature,
        input_positions=job.molecule.positions,
        soft_quadruples=job.target.chart.soft_atoms.tolist(),
        minimise=minimise,
        details=[
            ("coordinates", f"{job.target.chart.n_stiff} on the line, {job.target.chart.n_soft} circular torsions"),
            ("energy", type(job.energy).__name__),
            ("steps", str(config.train.schedule.n_steps)),
            ("updates", f"{trainer.warm_updates:,} of denoising, {trainer.updates:,} of trajectory balance"),
            ("training", f"{trainer.seconds / 60:.1f} min; set-up {job.timings.get('setup', 0):.0f} s"),
        ],
        method=METHOD,
        command=f"python {' '.join(sys.argv)}",
    )
    counts = job.energy.counter
    figures: dict = {"log_z_learnt": float(trainer.learner.log_z.detach()), "training_seconds": trainer.seconds}
    figures |= {f"seconds_{name}": value for name, value in job.timings.items() if name != "smc_distinct_ancestors"}
    if "smc_distinct_ancestors" in job.timings:
        figures["smc_distinct_ancestors"] = job.timings["smc_distinct_ancestors"]
    figures |= {f"evaluations_{word}": value for word, value in sorted(counts.by_purpose.items())}
    figures |= {"evaluations": counts.total, "skipped_updates": sum(trainer.learner.skipped.values())}
    metrics = analyse(job.run, subject, find_reference(config.system), figures)
    job.timings["analysis"] = time.perf_counter() - begun
    return metrics


METHOD = (
    "A diffusion policy draws conformations in internal coordinates, step by step from noise; a twist network gives "
    "the intermediate targets of sequential Monte Carlo. Both were trained from the energy alone: a denoising warm "
    "start on states annealed from the prior, then trajectory balance on the policy's rollouts, on replayed states and "
    "on what sequential Monte Carlo found (reinforced sequential Monte Carlo, arXiv 2510.11711). Each sample has an "
    "importance weight, so that averages over weighted samples are averages over the Boltzmann distribution."
)
