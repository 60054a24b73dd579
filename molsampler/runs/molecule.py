"""A run on a molecule: what it can be told, how it begins, and how it goes on from a checkpoint."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import change, setting, table
from molsampler.diffusion.kinds import make_process
from molsampler.molecules.coordinates.atlas import Atlas, coordinates_from
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.pieces import piece_torsions
from molsampler.molecules.energy.choice import check_energy, make_energy
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.facts import oddities
from molsampler.molecules.loading.folders import find_system_folder
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule
from molsampler.preparation.pieces import PiecesConfig, find_pieces, make_atlas
from molsampler.preparation.short_md import SetupConfig, short_md
from molsampler.preparation.start import agree, prepare
from molsampler.runs.loop import (
    Say,
    TrainingRun,
    check_processes,
    check_settings,
    held_config,
    settle,
    tell_idle,
    write_config,
)
from molsampler.store.checkpoint import read_checkpoint, restoring
from molsampler.store.run_directory import RunDirectory
from molsampler.targets.molecule import MoleculeTarget
from molsampler.training.config import TrainConfig, per_rank
from molsampler.training.trainer import Trainer

MOLECULE_TRAIN = change(
    TrainConfig(),
    warm_share=0.06,
    warm_least=300,
    balanced="torsions",
    schedule={"n_steps": 12, "torsions": "first"},
    policy={"guide": True},
    smc={"chunk": 4, "proposals": 8},
    optimiser={"method": "soap", "warm_rate": 6e-3, "mixture_rate": 6e-3, "rate": 1e-3},
    batch={"denoising": 5100},
    replay={"capacity": 240_000},
    moves={"every": 10, "limit": 6_000_000},
    rollouts={"every": 40},
)
"""What a run on a molecule begins with: torsions first, then a short diffusion. After a short warm-up trajectory
balance trains the torsions, whose density regression on replayed states learns by heart, while the diffusion goes on by
denoising with SOAP, whose gradients are far less noisy (docs/BENCHMARKS.md)."""


@dataclass(frozen=True)
class RunConfig:
    """One run on a molecule."""

    system: str = setting("aldp", "name of a folder in systems/, or a path")
    samples: int = setting(10_000, "drawn at the end", low=1)
    sampler: Literal["policy", "smc"] = setting(
        "policy", "plain importance sampling with the policy, or sequential Monte Carlo with the twist"
    )
    backend: Literal["auto", "torch", "openmm"] = setting(
        "auto", "the energy in training: torch kernels, OpenMM, or torch where it covers every force"
    )
    platform: str = setting("auto", "OpenMM's platform", needs={"backend": ("auto", "openmm")})
    device: str = setting("cpu", "where networks and torch energy live: cpu, cuda")
    processes: int = setting(
        1,
        "that train together, each with its share of every batch; 0 for one a core (command line), or as many as "
        "torchrun starts",
        low=0,
    )
    threads: int = setting(0, "of torch on the CPU, in each process; 0 for all cores, shared among processes", low=0)
    coverage: int = setting(
        4096, "annealed chains made at the end, apart from training, to judge the policy by; 0 for none", low=0
    )
    setup: SetupConfig = table(SetupConfig, "short MD from the input structure, before annealing")
    pieces: PiecesConfig = table(PiecesConfig, "ring conformers, and amides that are free to be cis and trans")
    train: TrainConfig = table(lambda: MOLECULE_TRAIN, "training")


@dataclass
class Job(TrainingRun):
    """A molecule, its energy, target and trainer, tied to a run directory."""

    kind: ClassVar[str] = "molecule"
    config: RunConfig
    molecule: Molecule
    energy: Energy
    target: MoleculeTarget

    def close(self) -> None:
        """Let go of the energy's workers and of the directory. Safe to call twice."""
        self.energy.close()
        super().close()


def check(config: RunConfig) -> None:
    """InputError for whatever would stop a run of this configuration later; nothing is computed or written.

    Every part is asked: ranges of all settings, samples, device, platform, the molecule, its energy and its process.
    """
    check_settings(config)
    molecule = load_molecule(config.system, say=_silent)  # the run tells its notes
    check_energy(molecule, config.backend, config.platform, config.device)
    _check_pieces(config, molecule)
    chart = Chart(molecule)
    make_process(chart.space, config.train.schedule)
    states = {"setup: chains times length / interval": config.setup.frames}
    if config.train.start == "annealed":
        states["train.anneal.particles"] = config.train.anneal.particles
    for name, number in states.items():
        if number <= chart.n_stiff:
            raise InputError(
                f"{name} = {number} states cannot standardise the {chart.n_stiff} stiff coordinates of "
                f"'{molecule.name}': give at least {chart.n_stiff + 1}, better ten times as many"
            )


def _check_pieces(config: RunConfig, molecule: Molecule) -> None:
    """InputError where a molecule that may be in pieces is asked for what pieces do not allow."""
    if molecule.free_amides and not config.pieces.chains:
        raise InputError(
            f"'{molecule.name}' has free amides, whose forms are searched for, and pieces.chains = 0 searches for "
            'nothing: give it some chains, or leave out amides = "free" in its system.toml'
        )
    if not config.pieces.chains or not len(piece_torsions(molecule)):
        return
    if config.train.objective == "reverse_kl":
        raise InputError(
            f"'{molecule.name}' may be in several pieces, between which objective = \"reverse_kl\" cannot "
            "differentiate: use another objective, or pieces.chains = 0 for the conformer of the input structure"
        )
    forms = 2 ** len(molecule.free_amides)
    if forms > config.pieces.most:
        raise InputError(
            f"'{molecule.name}' has {len(molecule.free_amides)} free amides, whose {forms} forms are more than "
            f'pieces.most = {config.pieces.most}: raise it, or leave out amides = "free" in its system.toml'
        )


def begin(config: RunConfig, out: str | Path | None = None, *, overwrite: bool = False, say: Say = print) -> Job:
    """A new run in the directory `out` (by default runs/ and the system's name), set up and ready to train.

    Raises InputError for bad input, and where the directory holds a run and `overwrite` is not given; an old run is
    removed only once the new one has been set up. Every rank calls it (collective), as all that follows.
    """
    say = ranks.first_only(say)
    check(config)
    check_processes(config)
    run = RunDirectory.claim(out or default_folder(config.system), overwrite=overwrite)
    try:
        return start(config, run, say)
    except BaseException:
        run.release()
        raise


def default_folder(system: str) -> Path:
    """Where a run on a system lies unless told otherwise: runs/ and the name of the system's folder."""
    return Path("runs") / find_system_folder(system).resolve().name


def go_on(
    out: str | Path,
    *,
    system: str | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    say: Say = print,
    **instead: Any,
) -> Job:
    """The run in the directory `out` from its last checkpoint.

    system, seed : InputError where the run is of another
    minutes : of training in all, more than the run had
    instead : device, platform, processes, threads, samples or sampler, in place of the configuration's; None leaves
        them
    """
    say = ranks.first_only(say)
    run = RunDirectory.claim(out, resume=True)
    try:
        state = read_checkpoint(run / "checkpoint.pt")
        config = held_config(state, Job.kind, RunConfig(), run)
        if system is not None and find_system_folder(system).resolve() != find_system_folder(config.system).resolve():
            raise InputError(f"'{out}' holds a run of '{config.system}', not of '{system}': name another with --out")
        if seed is not None and seed != config.train.seed:
            raise InputError(
                f"'{out}' holds a run with seed {config.train.seed}, not {seed}: leave the seed out to go on with it, "
                "or start another run"
            )
        changes = {name: value for name, value in instead.items() if value is not None}
        if "platform" in changes:
            changes["backend"] = "openmm"
        config = dataclasses.replace(config, **changes)
        check(config if minutes is None else change(config, train={"minutes": minutes}))
        job = resume(config, state, run, say)
    except BaseException:
        run.release()
        raise
    try:
        if minutes is not None:
            job.extend(minutes)
        elif changes:
            write_config(job.config, run)
    except BaseException:
        job.close()
        raise
    return job


def start(config: RunConfig, run: RunDirectory, say: Say = print) -> Job:
    """Set up a new run: short MD, annealing, prefill, compilation, and the budget turned into numbers of updates."""
    begun = time.perf_counter()
    config = settle(config)
    molecule, energy = _foundations(config, say)
    try:
        return _set_up(config, molecule, energy, run, begun, say)
    except BaseException:
        energy.close()
        raise


def _set_up(config: RunConfig, molecule: Molecule, energy: Energy, run: RunDirectory, begun: float, say: Say) -> Job:
    generator = ranks.generator(config.train.seed, config.device)
    say(f"{molecule.name}: {molecule.n_atoms} atoms at {molecule.temperature:g} K, energy by {type(energy).__name__}")
    for oddity in oddities(molecule, searched=config.pieces.chains > 0):
        say(f"warning: {oddity}")
    tell_idle(config, say)
    chart = _coordinates(config, molecule, energy, generator, say)
    agree(chart)
    say(f"short MD: standardised {chart.n_stiff} stiff coordinates (condition number {chart.condition_number:.0f})")
    target = MoleculeTarget(molecule, chart, energy, config.train.compile, say)
    annealed = config.train.start == "annealed"
    prefill = prepare(target, per_rank(config.train).anneal, generator, say) if annealed else None
    if prefill is not None and isinstance(chart, Atlas):
        label = ranks.gathered(prefill.state.x[:, -1]).long()
        shares = torch.bincount(label, minlength=len(chart.charts)) / len(label)
        say("annealing: pieces hold " + ", ".join(f"{100 * share:.1f} %" for share in shares.tolist()))
    trainer = Trainer(target, config.train, generator, config.device, say)
    trainer.begin(prefill)
    buffer = trainer.behaviours.buffer
    held, spent = ranks.total(len(buffer)), ranks.total(energy.counter.total)
    say(
        f"prefill: {held:,} states, {spent:,} energy evaluations so far; prior mismatch "
        f"{trainer.learner.process.prior_mismatch(buffer.x[: len(buffer)]):.1e}"
    )
    job = Job(config, run, trainer, say, molecule, energy, target)
    job.fix_budget()
    job.timings["setup"] = time.perf_counter() - begun
    say(
        f"set-up took {job.timings['setup']:.0f} s; {trainer.warm_updates:,} updates of denoising and "
        f"{trainer.updates:,} of {config.train.objective} follow, in {config.train.precision}"
    )
    job.save()
    return job


def _coordinates(
    config: RunConfig, molecule: Molecule, energy: Energy, generator: torch.Generator, say: Say
) -> Chart | Atlas:
    """The first coordinates: a chart standardised on short MD, or where the molecule is in several pieces an atlas of
    them (collective)."""
    chart = Chart(molecule, device=config.device)
    setup = dataclasses.replace(config.setup, chains=ranks.share(config.setup.chains))
    if config.pieces.chains and len(piece_torsions(molecule)):
        found = find_pieces(molecule, energy, config.pieces, chart, generator)
        heights = (found.energies - found.energies[0]) * molecule.beta
        say(f"pieces: {len(found)} minima, at {', '.join(f'{height:.1f}' for height in heights.tolist())} RT")
        atlas = make_atlas(molecule, energy, chart, found, setup, generator, say)
        if atlas is not None:
            return atlas
    return chart.fit(ranks.gathered(short_md(molecule, energy, setup, generator, config.device)))


def resume(config: RunConfig, state: dict, run: RunDirectory, say: Say = print) -> Job:
    """The run of a checkpoint's `state`; rows of metrics.csv after it are dropped."""
    begun = time.perf_counter()
    config = settle(config)
    molecule, energy = _foundations(config, say)
    try:
        with restoring(run / "checkpoint.pt"):
            chart = coordinates_from(molecule, state["coordinates"], device=config.device)
        target = MoleculeTarget(molecule, chart, energy, config.train.compile, say)
        trainer = Trainer(target, config.train, torch.Generator(config.device), config.device, say)
        with restoring(run / "checkpoint.pt"):
            trainer.load_gathered_state(state["trainer"])
            timings = dict(state["timings"])
    except BaseException:
        energy.close()
        raise
    run.truncate_metrics(trainer.done)
    job = Job(config, run, trainer, say, molecule, energy, target, timings=timings)
    job.timings["resume"] = time.perf_counter() - begun
    say(f"resumed at update {trainer.done:,} of {trainer.total:,}")
    return job


def _foundations(config: RunConfig, say: Say) -> tuple[Molecule, Energy]:
    molecule = load_molecule(config.system, say)
    return molecule, make_energy(
        molecule, config.backend, config.platform, config.device, config.train.compile, say=say
    )


def _silent(text: str) -> None:
    pass
