"""States to judge a policy by that it did not make: fresh annealed chains and explorers on the run's final chart.

They are drawn with random numbers of their own once training is over and meet neither buffer nor policy, so that a
state which training never found, or forgot, is there. They stay in the run directory: training on does not touch them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import mdtraj as md
import numpy as np
import torch
from torch import Tensor

from molsampler.analysis.study import Independent
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import effective_groups
from molsampler.runs.molecule import Job
from molsampler.smc.annealed import annealed_smc
from molsampler.smc.trained import CHUNK
from molsampler.store.atomic import write_npz
from molsampler.store.run_directory import ANNEALED

PASSES = 4  # independent annealings
TRAJECTORIES = 8  # noised from each state, over which the policy's density is averaged
_SEED = 7_000_003  # far from the training's seeds and those of sampling


class States(NamedTuple):
    """x (n, D) on the final chart, log R (n,), normalised weights (n,), groups (n,) int, and log Z by all passes."""

    x: np.ndarray
    log_r: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    log_z: np.ndarray


def independent_states(job: Job) -> Independent | None:
    """What a run's policy is judged by; None where the configuration wants none, or annealing does not get through."""
    states = _stored(job)
    if states is None and job.config.coverage:
        states = annealed_states(job, job.config.train.seed)
        if states is not None:
            write_npz(job.run / ANNEALED, **states._asdict())
    return None if states is None else held_against(job, states)


def held_against(job: Job, states: States) -> Independent:
    """The states with what the policy gives them."""
    x = torch.as_tensor(states.x, device=job.config.device)
    with torch.no_grad():
        positions = torch.cat([job.target.coordinates.to_natural(part)[0] for part in x.split(CHUNK)])
    topology = md.Topology.from_openmm(job.molecule.topology)
    trajectory = md.Trajectory(positions.cpu().numpy().astype(np.float32), topology)
    return Independent(
        trajectory, states.weights, states.groups, _path_log_weights(job, x, states), float(states.log_z)
    )


def _path_log_weights(job: Job, x: Tensor, states: States) -> np.ndarray:
    """(n, TRAJECTORIES) log w of trajectories noised from states x (n, D)."""
    sampler = job.trainer.sampler()
    generator = torch.Generator(job.config.device).manual_seed(job.config.train.seed + _SEED + 1)
    log_r = torch.as_tensor(states.log_r, dtype=x.dtype, device=x.device)
    columns = []
    with job.target.counter.purpose("analysis"):
        for _ in range(TRAJECTORIES):
            parts = [
                sampler.path_log_weights(part, r, generator).double().cpu().numpy()
                for part, r in zip(x.split(CHUNK), log_r.split(CHUNK), strict=True)
            ]
            columns.append(np.concatenate(parts))
    log_w = np.stack(columns, 1)
    return np.where(np.isfinite(log_w), log_w, np.inf)


def _stored(job: Job) -> States | None:
    """Those in the run directory, if there are any for this molecule."""
    path = job.run / ANNEALED
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            states = States(**{name: archive[name] for name in States._fields})
    except (OSError, ValueError, KeyError):
        return None  # torn or of another version: made again
    return states if states.x.shape[1:] == (job.target.space.dim,) else None


def annealed_states(job: Job, seed: int) -> States | None:
    """Particles and explorers of PASSES annealings, each as large a share as its independent parts say; None, and a
    note, where annealing does not get through."""
    generator = torch.Generator(job.config.device).manual_seed(seed + _SEED)
    config = replace(job.config.train.anneal, particles=max(job.config.coverage // PASSES, 2))
    target, found = job.target.single, []
    try:
        with job.target.counter.purpose("analysis"):
            for _ in range(PASSES):
                found.append(annealed_smc(target.log_prob_and_score, target.space, config, generator))
    except InputError as error:
        job.say(f"note: coverage cannot be judged, for the annealing failed: {error}")
        return None
    logs = torch.tensor([one.log_z for one in found], dtype=torch.float64)
    cold = _pool([torch.full_like(one.state.log_r, one.log_z, dtype=torch.float64) for one in found])
    hot = _pool([one.explorer_log_w for one in found])
    cold_groups, hot_groups = (
        np.concatenate([part.cpu().numpy() + k * config.particles for k, part in enumerate(parts)])
        for parts in ([one.ancestors for one in found], [one.explorer_ancestors for one in found])
    )
    worth = [effective_groups(w, g) for w, g in ((cold, cold_groups), (hot, hot_groups))]
    share = worth[0] / sum(worth)
    weights = np.concatenate([share * cold, (1 - share) * hot])
    x = job.target.from_single(torch.cat([*(one.state.x for one in found), *(one.explorers.x for one in found)]))
    log_r = torch.cat([*(one.state.log_r for one in found), *(one.explorers.log_r for one in found)])
    kept = weights > 0
    return States(
        x.cpu().numpy()[kept],
        log_r.double().cpu().numpy()[kept],
        weights[kept] / weights[kept].sum(),
        np.concatenate([cold_groups, hot_groups])[kept],
        np.array(float(torch.logsumexp(logs, 0)) - np.log(PASSES)),
    )


def _pool(log_weights: list[Tensor]) -> np.ndarray:
    """Normalised weights of several batches of unnormalised ones of one size."""
    return torch.softmax(torch.cat(log_weights), 0).cpu().numpy()
