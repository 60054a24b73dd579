"""A run on a molecule: how it begins, and how it goes on from a checkpoint."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import change
from molsampler.molecules.coordinates.atlas import Atlas
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.modes import ModeChart, with_modes
from molsampler.molecules.coordinates.pieces import piece_torsions
from molsampler.molecules.coordinates.stored import AnyChart, atlas_of, coordinates_from
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from molsampler.molecules.energy.choice import make_energy
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.facts import oddities
from molsampler.molecules.loading.folders import find_system_folder
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule
from molsampler.preparation.ladder import climb
from molsampler.preparation.pieces import find_pieces, make_atlas
from molsampler.preparation.short_md import short_md, standardise
from molsampler.preparation.start import agree, prepare
from molsampler.runs.given import conditional_row, draw_given
from molsampler.runs.loop import (
    Say,
    TrainingRun,
    check_processes,
    held_config,
    settle,
    tell_idle,
    write_config,
)
from molsampler.runs.molecule_config import SEVERAL, RunConfig, check
from molsampler.smc.annealed import Prefill
from molsampler.smc.trained import Drawn
from molsampler.store.checkpoint import read_checkpoint, restoring
from molsampler.store.run_directory import RunDirectory
from molsampler.targets.molecule import MoleculeTarget
from molsampler.targets.temperatures import TemperatureTarget
from molsampler.training.config import per_rank
from molsampler.training.trainer import Trainer


@dataclass
class Job(TrainingRun):
    """A molecule, its energy, target and trainer, tied to a run directory."""

    kind: ClassVar[str] = "molecule"
    config: RunConfig
    molecule: Molecule
    energy: Energy
    target: MoleculeTarget

    def row(self) -> dict[str, Any]:
        """One row of metrics.csv; of a run at several temperatures, averaged over them, by no guess of Z(T) divided, as
        in metrics.json."""
        if not isinstance(self.target, TemperatureTarget):
            return super().row()
        given, generator = self.temperatures(), self.trainer.evaluation_generator()
        n = max(self.config.train.evaluation_samples // len(given), 2)
        row = conditional_row(self.trainer, given, draw_given(self.trainer, given, n, generator))
        guess = float(self.target.log_z_guess(given).mean())
        return row | {name: row[name] + guess for name in ("elbo", "elbo_median", "log_z", "log_z_estimate")}

    def temperatures(self) -> Tensor:
        """(G, 1) kelvin, at which a policy for a range of temperatures is looked at, evenly spaced in log T, whole
        numbers where they can be."""
        chart = self.target.coordinates
        assert isinstance(chart, TemperatureChart)
        found = torch.linspace(math.log(chart.coldest), math.log(chart.hottest), self.config.ladder.looked_at).exp()
        found[0], found[-1] = chart.coldest, chart.hottest
        whole = torch.cat([found[:1], found[1:-1].round(), found[-1:]])
        if bool((whole.diff() > 0.0).all()):
            found = whole
        return found[:, None].to(chart.device)

    def drawing(
        self, sampler: str, generator: torch.Generator, temperature: float | None = None
    ) -> Callable[..., Drawn]:
        """As `TrainingRun.drawing`, at a temperature (K) of those that the run was trained for, by default at the
        molecule's own; InputError for another."""
        own, chart = self.molecule.temperature, self.target.coordinates
        kelvin = own if temperature is None else temperature
        if not isinstance(chart, TemperatureChart):
            if kelvin != own:
                raise InputError(
                    f"temperature = {kelvin:g}: this run was trained for {own:g} K alone; train one with --hottest or "
                    "--coldest to sample at others"
                )
            return super().drawing(sampler, generator)
        if sampler == "smc":
            raise InputError(f'sampler = "smc" is not possible {SEVERAL}: use "policy"')
        if not chart.coldest <= kelvin <= chart.hottest:
            raise InputError(
                f"temperature = {kelvin:g} is not among those that this run was trained for: choose one from "
                f"{chart.coldest:g} to {chart.hottest:g} K"
            )

        draw = super().drawing(sampler, generator)

        def at_one(n: int, generator: torch.Generator, on_chunk: Callable[[int], None] = lambda done: None) -> Drawn:
            return draw(n, generator, on_chunk, torch.full((n, 1), kelvin, device=self.config.device))

        return at_one

    def close(self) -> None:
        """Let go of the energy's workers and of the directory. Safe to call twice."""
        self.energy.close()
        super().close()


def begin(config: RunConfig, out: str | Path | None = None, *, overwrite: bool = False, say: Say = print) -> Job:
    """A new run in the directory `out` (by default runs/ and the system's name), set up and ready to train.

    Raises InputError for bad input, and where the directory holds a run and `overwrite` is not given; an old run is
    removed only once the new one has been set up. Every rank calls it (collective), as all that follows.
    """
    say = ranks.first_only(say)
    check(config)
    check_processes(config)
    run = RunDirectory.claim(out or default_folder(config.system), overwrite=overwrite, say=say)
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
    record: bool = True,
    **instead: Any,
) -> Job:
    """The run in the directory `out` from its last checkpoint.

    system, seed : InputError where the run is of another
    minutes : of training in all, more than the run had
    instead : device, platform, processes, threads, samples or sampler, in place of the configuration's; None leaves
        them
    record : whether config.toml is to say so from now on
    """
    say = ranks.first_only(say)
    run = RunDirectory.claim(out, resume=True, say=say)
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
        elif changes and record:
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
    modes = f", {chart.n_modes} of them modes" if isinstance(chart, ModeChart) else ""
    number = f"condition number {chart.condition_number:.0f}"
    say(f"short MD: standardised {chart.n_stiff} stiff coordinates{modes} ({number})")
    target = MoleculeTarget(molecule, chart, energy, config.train.compile, say)
    annealed = config.train.start == "annealed"
    prefill = prepare(target, per_rank(config.train).anneal, generator, say) if annealed else None
    if prefill is not None and isinstance(chart, Chart) and config.ladder.asked:
        target, prefill = _at_temperatures(config, target, chart, prefill, generator, say)
    atlas = atlas_of(chart)
    if prefill is not None and atlas is not None:
        label = ranks.gathered(prefill.state.x[:, -1]).long()
        shares = torch.bincount(label, minlength=len(atlas.charts)) / len(label)
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


def _at_temperatures(
    config: RunConfig, single: MoleculeTarget, chart: Chart, start: Prefill, generator: torch.Generator, say: Say
) -> tuple[TemperatureTarget, Prefill]:
    """The target at the configuration's temperatures, from that at the molecule's own, with states to begin with
    (collective)."""
    own = single.molecule.temperature
    target = TemperatureTarget(
        single, TemperatureChart(chart, own, *config.ladder.bounds(own)), config.train.compile, say
    )
    return target, climb(target, start, config.ladder, generator, say)


def _target(config: RunConfig, molecule: Molecule, coordinates: AnyChart, energy: Energy, say: Say) -> MoleculeTarget:
    """The target of a run that goes on, on the coordinates that it had."""
    if not isinstance(coordinates, TemperatureChart):
        return MoleculeTarget(molecule, coordinates, energy, config.train.compile, say)
    single = MoleculeTarget(molecule, coordinates.chart, energy, config.train.compile, say)
    return TemperatureTarget(single, coordinates, config.train.compile, say)


def _coordinates(
    config: RunConfig, molecule: Molecule, energy: Energy, generator: torch.Generator, say: Say
) -> Chart | Atlas | ModeChart:
    """The first coordinates, standardised on short MD: a chart, or where the molecule is in several pieces an atlas of
    them; of a molecule with a flexible ring, with the modes that it has (collective)."""
    inner = _line_coordinates(config, molecule, energy, generator, say)
    ring = bool(molecule.graph.flexible_rings)
    joint = config.ladder.asked or config.train.schedule.torsions != "first"
    return with_modes(inner, config.modes) if ring and not joint else inner


def _line_coordinates(
    config: RunConfig, molecule: Molecule, energy: Energy, generator: torch.Generator, say: Say
) -> Chart | Atlas:
    """Those with all that is stiff on the line (collective)."""
    chart = Chart(molecule, device=config.device)
    setup = dataclasses.replace(config.setup, chains=ranks.share(config.setup.chains))
    if config.pieces.chains and len(piece_torsions(molecule)):
        found = find_pieces(molecule, energy, config.pieces, chart, generator)
        heights = (found.energies - found.energies[0]) * molecule.beta
        say(f"pieces: {len(found)} minima, at {', '.join(f'{height:.1f}' for height in heights.tolist())} RT")
        atlas = make_atlas(molecule, energy, chart, found, setup, generator, say)
        if atlas is not None:
            return atlas
    frames = ranks.gathered(short_md(molecule, energy, setup, generator, config.device))
    return standardise(chart, molecule, energy, frames)


def resume(config: RunConfig, state: dict, run: RunDirectory, say: Say = print) -> Job:
    """The run of a checkpoint's `state`; rows of metrics.csv after it are dropped."""
    begun = time.perf_counter()
    config = settle(config)
    molecule, energy = _foundations(config, say)
    try:
        with restoring(run / "checkpoint.pt"):
            chart = coordinates_from(molecule, state["coordinates"], device=config.device)
        target = _target(config, molecule, chart, energy, say)
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
