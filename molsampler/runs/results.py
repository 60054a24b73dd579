"""What a run on a molecule leaves: weighted samples with final energies, figures, pictures and a report."""

from __future__ import annotations

import shlex
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from molsampler.analysis.analyse import Subject, analyse
from molsampler.analysis.observables.pieces import Pieces
from molsampler.analysis.reference_ensemble import Reference, load_reference
from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.settings import change
from molsampler.molecules.coordinates.modes import ModeChart
from molsampler.molecules.coordinates.stored import AnyChart, atlas_of, coordinates_from
from molsampler.molecules.coordinates.temperatures import TemperatureChart
from molsampler.molecules.dynamics.quench import quench
from molsampler.molecules.energy.openmm_energy import OpenMMEnergy
from molsampler.molecules.facts import ring_cautions
from molsampler.molecules.loading.folders import reference_folders
from molsampler.runs.coverage import independent_states
from molsampler.runs.given import learnt_log_z
from molsampler.runs.loop import check_settings
from molsampler.runs.molecule import Job
from molsampler.runs.temperatures import sample_temperatures, thermodynamics
from molsampler.smc.trained import check_samples

EUBO_FRAMES = 1000  # of the reference
_MINIMISATION = 1000  # steps
_DRAWS = {
    "joint": "A diffusion policy draws conformations in internal coordinates, step by step from noise",
    "first": "A policy draws the soft torsions of a conformation one after the other, each from a mixture given those "
    "before it, and then bonds, angles and stiff torsions by a short diffusion from noise",
}
_METHOD = (
    "{draws}; a twist network gives the intermediate targets of sequential Monte Carlo. Both were trained from the "
    "energy alone: a warm start on states annealed from the prior, then trajectory balance on the policy's rollouts, "
    "on replayed states and on what sequential Monte Carlo found (reinforced sequential Monte Carlo, arXiv "
    "2510.11711){apart}. Each sample has an importance weight, so that averages over weighted samples are averages "
    "over the Boltzmann distribution."
)
_APART = ", which trains the torsions while the diffusion goes on by denoising"


def sample(
    job: Job,
    n: int | None = None,
    sampler: str | None = None,
    *,
    seed: int | None = None,
    temperature: float | None = None,
    progress: bool = True,
) -> None:
    """Draw weighted samples with the averaged policy, rescore them by OpenMM's Reference platform, and write them:
    every rank draws and rescores its portion, and the first one writes all (collective).

    temperature : in kelvin, of a policy for a range of temperatures; where left out the molecule's, and several others
        in files of their own
    n, sampler, seed : the configuration's where left out. Training can go on afterwards: nothing that learns is
        touched.
    """
    begun = time.perf_counter()
    n = job.config.samples if n is None else n
    sampler = sampler or job.config.sampler
    check_samples(n, sampler)
    if seed is not None:
        check_settings(change(job.config, train={"seed": seed}))
    generator = _generator(job, 1, seed)
    draw, counter = job.drawing(sampler, generator, temperature), job.target.counter
    own, silent = len(ranks.portion(n)), not (progress and ranks.first())
    with tqdm(total=own, desc="sampling", unit="sample", disable=silent) as bar, counter.purpose("analysis"):
        drawn = draw(n, generator, bar.update)
    positions, energies, log_prob = rescore(job, drawn.x)
    log_weights = np.where(np.isfinite(log_prob), log_prob - drawn.log_ratio.cpu().numpy(), -np.inf)
    positions, log_weights, energies, log_prob = map(_gathered, (positions, log_weights, energies, log_prob))
    job.run.write_samples(
        positions,
        job.molecule.topology,
        log_weights,
        energies,
        log_prob,
        group=_gathered(_array(drawn.group)),
        distinct_ancestors=_gathered(_array(drawn.distinct_ancestors)),
        temperature=None if temperature == job.molecule.temperature else temperature,
    )
    if temperature is None:
        sample_temperatures(job, rescore, _generator(job, 3, seed))
    ranks.from_first(None)  # what others read is written
    job.timings["sampling"] = time.perf_counter() - begun


def _generator(job: Job, purpose: int, seed: int | None = None) -> torch.Generator:
    """A generator of its own for each purpose of a run, from its seed."""
    seed = job.config.train.seed if seed is None else seed
    return ranks.generator(seed + purpose, job.config.device)


def _array(values: torch.Tensor | None) -> np.ndarray | None:
    return None if values is None else values.cpu().numpy()


def _gathered(values: np.ndarray | None) -> np.ndarray | None:
    """The rows of all ranks."""
    return None if values is None else ranks.gathered(torch.as_tensor(values)).numpy()


def rescore(job: Job, z: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (n, N, 3) nm, energies (n,) kJ/mol by OpenMM's Reference platform in double, and log R (n,), float64,
    of states z (n, D) on the job's chart, by no guess of the integral divided."""
    chart = _double_chart(job)
    z = z.double().cpu()
    positions, log_det = chart.to_natural(z)
    energy = OpenMMEnergy(job.molecule, platform="Reference", counter=job.target.counter)
    try:
        with energy.counter.purpose("analysis"):
            potential = torch.cat([energy.energy(part).double() for part in positions.split(4096)])
    finally:
        energy.close()
    log_r = job.target.log_r(z, potential, log_det) + job.target.log_z_guess(z)
    log_r = torch.where(chart.inside(z, positions), log_r, -torch.inf)
    return positions.numpy(), potential.numpy(), log_r.numpy()


def _double_chart(job: Job) -> AnyChart:
    return coordinates_from(job.molecule, job.target.coordinates.state_dict(), torch.float64)


def reference_log_weights(job: Job, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """log w (k,) of trajectories noised from frames of the reference, for the EUBO, and these frames (k,).

    Frames are evenly spaced; those off the chart's support, where R is zero, are left out.
    """
    frames = np.unique(np.linspace(0, reference.trajectory.n_frames - 1, EUBO_FRAMES).round().astype(int))
    z = _double_chart(job).to_standard(torch.tensor(reference.trajectory.xyz[frames], dtype=torch.float64))
    log_r = rescore(job, z)[2]
    inside = np.isfinite(log_r)
    x = z[torch.as_tensor(inside)].float().to(job.config.device)
    log_ratio = job.trainer.sampler().path_log_weights(x, torch.zeros_like(x[:, 0]), _generator(job, 2))
    log_w = log_ratio.double().cpu().numpy() + log_r[inside]
    return np.where(np.isfinite(log_w), log_w, np.inf), frames[inside]


def find_reference(system: str) -> Reference | None:
    """The stored reference of a system, or None where there is none."""
    stored = [folder for folder in reference_folders(system) if (folder / "reference.npz").is_file()]
    return load_reference(stored[0]) if stored else None


def conclude(job: Job) -> dict:
    """Pictures, metrics.json and report.html of the job's run directory; returns the metrics, on the first rank
    (collective)."""
    kelvin = job.run.sampled_at()
    if "sampling" not in job.timings:  # it was an earlier command's, which has told
        with suppress(InputError, KeyError):
            job.timings["sampling"] = job.run.load_metrics()["seconds_sampling"]["value"]
    return _conclude(job, training_figures(job, kelvin), kelvin) or {}


@ranks.first_only
def _conclude(job: Job, figures: dict, kelvin: float | None) -> dict:
    def minimise(positions: np.ndarray) -> np.ndarray:
        with job.target.counter.purpose("analysis"):
            return quench(job.energy, torch.tensor(positions, dtype=torch.float32), steps=_MINIMISATION)[0].numpy()

    config, trainer, chart = job.config, job.trainer, job.target.coordinates
    reference = find_reference(config.system) if kelvin is None else None  # of the system's own temperature
    backward, frames = (None, None) if reference is None else reference_log_weights(job, reference)
    subject = replace(
        subject_of(job, kelvin),
        minimise=minimise,
        reference_log_weights=backward,
        reference_frames=frames,
        details=[
            ("coordinates", _coordinates(chart)),
            ("energy", type(job.energy).__name__),
            ("steps", str(config.train.schedule.n_steps)),
            ("updates", f"{trainer.warm_updates:,} of denoising, {trainer.updates:,} of {config.train.objective}"),
            ("training", f"{trainer.seconds / 60:.1f} min; set-up {job.timings.get('setup', 0):.0f} s"),
        ],
        method=_METHOD.format(
            draws=_DRAWS[config.train.schedule.torsions], apart=_APART if trainer.learner.denoised else ""
        ),
        command=shlex.join(["molsampler", "train", config.system, "--config", str(job.run / "config.toml")]),
        independent=independent_states(job) if kelvin is None else None,
        temperatures=thermodynamics(job),
        cautions=[] if config.pieces.chains else [_sentence(c) for c in ring_cautions(job.molecule, searched=False)],
    )
    return analyse(job.run, subject, reference, figures)


def subject_of(job: Job, temperature: float | None = None) -> Subject:
    """What an analysis has to know of the job's molecule and its coordinates, and no more; of samples at another
    temperature than the molecule's, if one is given."""
    chart = job.target.coordinates
    atlas = atlas_of(chart)
    return Subject(
        name=job.molecule.name,
        temperature=temperature or job.molecule.temperature,
        input_positions=job.molecule.positions,
        soft_quadruples=chart.soft_atoms.tolist(),
        pieces=Pieces(atlas.torsions.numpy(), atlas.centres.numpy()) if atlas is not None else None,
    )


def _coordinates(chart: AnyChart) -> str:
    text = f"{chart.n_stiff} on the line, {chart.n_soft} circular torsions"
    if isinstance(chart, ModeChart):
        text = f"{chart.n_stiff - chart.n_modes} on the line, {chart.n_soft} circular torsions, {chart.n_modes} modes"
    if isinstance(chart, TemperatureChart):
        return f"{text}, at {chart.coldest:g} to {chart.hottest:g} K"
    atlas = atlas_of(chart)
    return f"{text}, in {len(atlas.charts)} pieces" if atlas is not None else text


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _learnt_log_z(job: Job, temperature: float | None = None) -> float:
    """log Z as it was learnt, by default at the molecule's own temperature."""
    if not job.target.space.conditional:
        return float(job.trainer.learner.log_z.detach())
    given = torch.tensor([[temperature or job.molecule.temperature]], device=job.config.device)
    return float(learnt_log_z(job.trainer, given) + job.target.log_z_guess(given))


def training_figures(job: Job, temperature: float | None = None) -> dict:
    """What metrics.json says of the training: log Z by it, at the molecule's temperature unless one is given, what it
    cost on all ranks, how long each stage took (collective)."""
    trainer, counter = job.trainer, job.target.counter.over_ranks()
    figures: dict = {
        "log_z_learnt": _learnt_log_z(job, temperature),
        "log_z_running": trainer.behaviours.log_z.value,
        "training_seconds": trainer.seconds,
        "updates": trainer.done,
        "skipped_updates": sum(trainer.learner.skipped.values()),
        "evaluations": counter.spent,
        "guide_scores": counter.guide,
    }
    spent = {word: n for word, n in sorted(counter.by_purpose.items()) if word != "analysis"}
    figures |= {f"evaluations_{word}": n for word, n in spent.items()}
    return figures | {f"seconds_{name}": value for name, value in job.timings.items()}
