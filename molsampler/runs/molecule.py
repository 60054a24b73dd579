"""The job: from a system's name to a run directory. Train, sample, analyse; what scripts and command line call."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from molsampler.analysis.analyse import Subject, analyse
from molsampler.analysis.reference_ensemble import Reference, load_reference
from molsampler.diffusion.policy import Policy
from molsampler.diffusion.trajectories import score_states
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.dynamics.quench import quench
from molsampler.molecules.energy.choice import make_energy
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.openmm_energy import OpenMMEnergy
from molsampler.molecules.facts import oddities, ring_cautions
from molsampler.molecules.loading.folders import reference_folders
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule
from molsampler.preparation.molecule import SetupConfig, prepare_molecule
from molsampler.runs.loop import MISFITS, Say, TrainingRun, misfit, read_checkpoint, settle
from molsampler.runs.sampling import sample_policy, sample_smc
from molsampler.store.config_file import update
from molsampler.store.run_directory import RunDirectory
from molsampler.targets.molecule import MoleculeTarget
from molsampler.training.config import TrainConfig
from molsampler.training.trainer import Trainer, averaged_policy

EUBO_FRAMES = 1000  # of the reference


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
class Job(TrainingRun):
    """A molecule, its energy, target and trainer, tied to a run directory."""

    config: RunConfig
    molecule: Molecule
    energy: Energy
    target: MoleculeTarget

    def target_state(self) -> dict:
        return self.target.chart.state_dict()


# making a job -------------------------------------------------------------------------------------------------------


def start(config: RunConfig, run: RunDirectory, say: Say = print) -> Job:
    """Set up a new run: short MD, annealing, prefill, compilation, and the budget turned into numbers of updates."""
    begun = time.perf_counter()
    molecule, energy, config = _foundations(config)
    generator = torch.Generator(config.device).manual_seed(config.train.seed)
    say(f"{molecule.name}: {molecule.n_atoms} atoms at {molecule.temperature:g} K, energy by {type(energy).__name__}")
    for oddity in oddities(molecule):
        say(f"warning: {oddity}")
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
    trainer.begin(prefill if config.train.start == "annealed" else None)
    say(
        f"prefill: {len(trainer.buffer):,} states, {energy.counter.total:,} energy evaluations so far; prior mismatch "
        f"{trainer.learner.process.prior_mismatch(prefill.state.x):.1e}"
    )
    job = Job(config, run, trainer, say, molecule, energy, target)
    job.fix_budget()
    job.timings["setup"] = time.perf_counter() - begun
    say(
        f"set-up took {job.timings['setup']:.0f} s; {trainer.warm_updates:,} updates of denoising and "
        f"{trainer.updates:,} of trajectory balance follow, in {config.train.precision}"
    )
    job.save()
    return job


def resume(run: RunDirectory, say: Say = print, device: str | None = None) -> Job:
    """Go on from the checkpoint of a run directory; rows of metrics.csv after it are dropped."""
    begun = time.perf_counter()
    state = read_checkpoint(run / "checkpoint.pt")
    try:
        config = update(RunConfig(), state["config"], str(run / "checkpoint.pt"))
        if device is not None:
            config = dataclasses.replace(config, device=device)
        molecule, energy, config = _foundations(config)
        chart = Chart(molecule, device=config.device)
        chart.load_state_dict(state["target"])
        target = MoleculeTarget(molecule, chart, energy, config.train.compile)
        trainer = Trainer(target, config.train, torch.Generator(config.device), config.device)
        trainer.load_state_dict(state["trainer"])
    except MISFITS as error:
        raise misfit(run / "checkpoint.pt", error) from error
    run.truncate_metrics(trainer.done)
    job = Job(config, run, trainer, say, molecule, energy, target, timings=dict(state["timings"]))
    job.timings["resume"] = time.perf_counter() - begun
    say(f"resumed at update {trainer.done:,} of {trainer.total:,}")
    return job


def _foundations(config: RunConfig) -> tuple[Molecule, Energy, RunConfig]:
    config = settle(config)
    molecule = load_molecule(config.system)
    energy = make_energy(molecule, config.backend, config.platform, config.device, config.train.compile)
    return molecule, energy, config


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
    positions, energies, log_prob = rescore(job, drawn.x)
    log_weights = np.where(np.isfinite(log_prob), log_prob - drawn.log_ratio.cpu().numpy(), -np.inf)
    group = None if drawn.group is None else drawn.group.cpu().numpy()
    job.run.write_samples(positions, job.molecule.topology, log_weights, energies, log_prob, group=group)
    job.timings["sampling"] = time.perf_counter() - begun


def rescore(job: Job, z: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (n, N, 3) nm, energies (n,) kJ/mol by OpenMM's Reference platform in double, and log R (n,), float64,
    of states z (n, D) on the job's chart."""
    chart = _double_chart(job)
    z = z.double().cpu()
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


def _double_chart(job: Job) -> Chart:
    chart = Chart(job.molecule, dtype=torch.float64)
    chart.load_state_dict(job.target.chart.state_dict())
    return chart


def reference_log_weights(job: Job, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """log w (k,) of trajectories noised from frames of the reference, for the EUBO, and these frames (k,).

    Frames are evenly spaced; those off the chart's support, where R is zero, are left out.
    """
    frames = np.unique(np.linspace(0, reference.trajectory.n_frames - 1, EUBO_FRAMES).round().astype(int))
    z = _double_chart(job).from_cartesian(torch.tensor(reference.trajectory.xyz[frames], dtype=torch.float64))
    log_r = rescore(job, z)[2]
    inside = np.isfinite(log_r)
    process = job.trainer.learner.process
    generator = torch.Generator(job.config.device).manual_seed(job.config.train.seed + 2)
    path = process.sample_path(z[torch.as_tensor(inside)].float().to(job.config.device), generator)

    @torch.no_grad()
    def log_ratio(policy: Policy) -> torch.Tensor:
        return score_states(policy, path, torch.zeros_like(path[0, :, 0])).log_weights()

    log_w = job.trainer.learner.with_averaged(log_ratio).double().cpu().numpy() + log_r[inside]
    return np.where(np.isfinite(log_w), log_w, np.inf), frames[inside]


# analysis -----------------------------------------------------------------------------------------------------------


def find_reference(system: str) -> Reference | None:
    """The stored reference of a system, or None where there is none."""
    stored = [folder for folder in reference_folders(system) if (folder / "reference.npz").is_file()]
    return load_reference(stored[0]) if stored else None


def conclude(job: Job) -> dict:
    """Pictures, metrics.json and report.html of the job's run directory; returns the metrics."""
    begun = time.perf_counter()

    def minimise(positions: np.ndarray) -> np.ndarray:
        with job.energy.counter.purpose("analysis"):
            return quench(job.energy, torch.tensor(positions, dtype=torch.float32), steps=1000)[0].numpy()

    config, trainer = job.config, job.trainer
    reference = find_reference(config.system)
    backward, frames = (None, None) if reference is None else reference_log_weights(job, reference)
    subject = Subject(
        name=job.molecule.name,
        temperature=job.molecule.temperature,
        input_positions=job.molecule.positions,
        soft_quadruples=job.target.chart.soft_atoms.tolist(),
        minimise=minimise,
        reference_log_weights=backward,
        reference_frames=frames,
        details=[
            ("coordinates", f"{job.target.chart.n_stiff} on the line, {job.target.chart.n_soft} circular torsions"),
            ("energy", type(job.energy).__name__),
            ("steps", str(config.train.schedule.n_steps)),
            ("updates", f"{trainer.warm_updates:,} of denoising, {trainer.updates:,} of trajectory balance"),
            ("training", f"{trainer.seconds / 60:.1f} min; set-up {job.timings.get('setup', 0):.0f} s"),
        ],
        method=METHOD,
        command=f"python {' '.join(sys.argv)}",
        cautions=[f"{caution[0].upper()}{caution[1:]}." for caution in ring_cautions(job.molecule)],
    )
    counts = job.energy.counter
    figures: dict = {"log_z_learnt": float(trainer.learner.log_z.detach()), "training_seconds": trainer.seconds}
    figures |= {f"seconds_{name}": value for name, value in job.timings.items() if name != "smc_distinct_ancestors"}
    if "smc_distinct_ancestors" in job.timings:
        figures["smc_distinct_ancestors"] = job.timings["smc_distinct_ancestors"]
    figures |= {f"evaluations_{word}": value for word, value in sorted(counts.by_purpose.items())}
    figures |= {"evaluations": counts.total, "skipped_updates": sum(trainer.learner.skipped.values())}
    metrics = analyse(job.run, subject, reference, figures)
    job.timings["analysis"] = time.perf_counter() - begun
    return metrics


METHOD = (
    "A diffusion policy draws conformations in internal coordinates, step by step from noise; a twist network gives "
    "the intermediate targets of sequential Monte Carlo. Both were trained from the energy alone: a denoising warm "
    "start on states annealed from the prior, then trajectory balance on the policy's rollouts, on replayed states and "
    "on what sequential Monte Carlo found (reinforced sequential Monte Carlo, arXiv 2510.11711). Each sample has an "
    "importance weight, so that averages over weighted samples are averages over the Boltzmann distribution."
)
