"""Samples of a policy for a range of temperatures, at several of them: temperatures.dcd and temperatures.npz."""

from __future__ import annotations

from collections.abc import Callable

import mdtraj as md
import numpy as np
import torch

from molsampler.analysis.statistics.thermodynamics import Thermodynamics
from molsampler.basis import ranks
from molsampler.runs.molecule import Job
from molsampler.store.atomic import atomic_path, write_npz
from molsampler.store.run_directory import TEMPERATURES, TEMPERATURES_DCD
from molsampler.targets.temperatures import TemperatureTarget

Rescore = Callable[[Job, torch.Tensor], tuple[np.ndarray, np.ndarray, np.ndarray]]


def sample_temperatures(job: Job, rescore: Rescore, generator: torch.Generator) -> None:
    """Draw `ladder.samples` at each of the temperatures that the run is looked at, rescore them, and write them one
    temperature after the other; does nothing for a run at one temperature (collective).

    rescore : states (n, D) -> positions (n, N, 3) nm, energies (n,) kJ/mol and log R (n,)
    """
    if not isinstance(job.target, TemperatureTarget):
        return
    _forget(job)
    given = job.temperatures().repeat_interleave(job.config.ladder.samples, 0)
    with job.target.counter.purpose("analysis"):
        drawn = job.trainer.sampler().draw(len(given), generator, given=given)
    positions, energies, log_prob = rescore(job, drawn.x)
    temperature = (1e4 * drawn.x[:, -1].double().cpu()).round() / 1e4  # as float32 holds it otherwise
    log_w = torch.as_tensor(log_prob) - drawn.log_ratio.cpu()
    log_w = torch.where(torch.isfinite(log_w), log_w, -torch.inf)
    columns = (torch.as_tensor(part) for part in (positions, temperature, log_w, energies))
    _write(job, *(ranks.gathered(column).numpy() for column in columns))


@ranks.first_only
def _forget(job: Job) -> None:
    """Those of an earlier policy go before new ones are drawn, and frames never stand beside another draw's weights."""
    for name in (TEMPERATURES, TEMPERATURES_DCD):
        (job.run / name).unlink(missing_ok=True)


@ranks.first_only
def _write(
    job: Job, positions: np.ndarray, temperature: np.ndarray, log_weights: np.ndarray, energies: np.ndarray
) -> None:
    trajectory = md.Trajectory(positions.astype(np.float32), md.Topology.from_openmm(job.molecule.topology))
    with atomic_path(job.run / TEMPERATURES_DCD) as path:
        trajectory.save_dcd(str(path))
    write_npz(
        job.run / TEMPERATURES,
        temperature=temperature,
        log_weights=log_weights,
        potential_energy=energies,
        updates=np.array(job.trainer.done),
    )


def thermodynamics(job: Job) -> list[Thermodynamics] | None:
    """What those samples say, in rising order of temperature; None of a run at one temperature, and where the policy
    has been trained on since."""
    path = job.run / TEMPERATURES
    if not isinstance(job.target, TemperatureTarget) or not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as archive:
        if int(archive["updates"]) != job.trainer.done:
            return None
        temperature, log_weights, energies = (
            archive[name] for name in ("temperature", "log_weights", "potential_energy")
        )
    return [
        Thermodynamics.of(float(one), log_weights[temperature == one], energies[temperature == one])
        for one in np.unique(temperature)
    ]
