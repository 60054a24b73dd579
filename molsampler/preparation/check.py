"""What `molsampler check` finds out of a system, and of how it will run, in a few seconds of computing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openmm
import torch
from torch import Tensor

from molsampler.molecules import facts
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.dynamics.minimum import nearest_minimum, potential_energy
from molsampler.molecules.energy.choice import make_energy
from molsampler.molecules.energy.contract import Energy
from molsampler.molecules.energy.openmm_energy import OpenMMEnergy, available_platforms
from molsampler.molecules.energy.openmm_worker import ContextEvaluator
from molsampler.molecules.energy.torch_check import reference_terms
from molsampler.molecules.loading.folders import find_system_folder
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.loading.settings import FILE, read_settings
from molsampler.molecules.molecule import Molecule

DRAWS = 512
"""Samples of the untrained sampler."""
_STEP = 1e-4  # nm and rad, of the differences that give the curvature
_SECONDS = 0.1  # long enough to be timed
_LARGEST_BATCH = 1024
_PATIENCE = 30.0  # seconds of the processor that the curvature may take
_ILL_CONDITIONED = 1e4
_STRAINED = 10.0  # kJ/mol an atom above the minimum, far beyond what 1000 K would give


@dataclass(frozen=True)
class Energies:
    """kJ/mol, by OpenMM's Reference platform.

    total : of the input structure; terms : of each force there, by its name; minimum : of the nearest minimum
    """

    total: float
    terms: dict[str, float]
    minimum: float


@dataclass(frozen=True)
class Speed:
    """Energies with forces a second.

    backend : what computes them in training, in words; batched : in batches, on `threads`, without compilation
    openmm : by OpenMM's CPU platform on one thread
    """

    backend: str
    batched: float
    threads: int
    openmm: float


@dataclass(frozen=True)
class Standardisation:
    """The chart standardised by the harmonic approximation at the nearest minimum, soft torsions held.

    condition_number : of the correlation matrix of the stiff coordinates
    median : kJ/mol above the minimum, of DRAWS samples of the untrained sampler, whose law is the prior: standard
        normal on the line, uniform torsions; inside : the share of them on the chart's support
    held : the same median with the soft torsions as in the minimum; equipartition : what the mean of that would be if
        the energy were harmonic, n_stiff RT / 2
    """

    condition_number: float
    median: float
    inside: float
    held: float
    equipartition: float


@dataclass(frozen=True)
class Understanding:
    """notes : what was chosen or left out while the files were read; source : of the molecule, in words
    standardisation : None where the structure does not relax to a minimum, or is so large that it would take long; a
        warning tells which
    """

    molecule: Molecule
    chart: Chart
    source: str
    notes: tuple[str, ...]
    energies: Energies
    speed: Speed
    standardisation: Standardisation | None
    warnings: tuple[str, ...]


def understand(system: str, platform: str = "auto", device: str = "cpu") -> Understanding:
    """What was understood of the system of that name, folder or file. Raises InputError as `load_molecule` does."""
    notes: list[str] = []
    source = read_settings(find_system_folder(system) / FILE).described
    molecule = load_molecule(system, notes.append)
    chart = Chart(molecule, dtype=torch.float64)
    backend = "auto" if platform == "auto" else "openmm"
    energy = make_energy(molecule, backend, platform, device, compile=False, say=notes.append)
    try:
        speed = _measure_speed(molecule, energy)
        positions, minimum = nearest_minimum(molecule.system, molecule.positions)
        found = _standardise(molecule, chart, positions, minimum, energy)
    finally:
        energy.close()
    energies = Energies(potential_energy(molecule.system, molecule.positions), _terms(molecule), minimum)
    standardisation = found if isinstance(found, Standardisation) else None
    warnings = tuple(_warnings(molecule, energies, found))
    return Understanding(molecule, chart, source, tuple(notes), energies, speed, standardisation, warnings)


def _evaluator(molecule: Molecule, platform: str) -> ContextEvaluator:
    properties = {"Threads": "1"} if platform == "CPU" else {}
    return ContextEvaluator(openmm.XmlSerializer.serialize(molecule.system), platform, properties)


def _terms(molecule: Molecule) -> dict[str, float]:
    """kJ/mol of each force at the input structure, largest first."""
    values = reference_terms(molecule.system, molecule.positions[None])[0][:, 0]
    terms: dict[str, float] = {}
    for force, value in zip(molecule.system.getForces(), values, strict=True):
        terms[force.getName()] = terms.get(force.getName(), 0.0) + float(value)
    return {name: value for name, value in sorted(terms.items(), key=lambda item: -abs(item[1])) if value}


def _measure_speed(molecule: Molecule, energy: Energy) -> Speed:
    if isinstance(energy, OpenMMEnergy):
        backend, threads = f"OpenMM ({energy.platform})", max(len(energy.worker_ids), 1)
    else:
        backend, threads = "torch kernels", torch.get_num_threads()
    one = _evaluator(molecule, "CPU" if "CPU" in available_platforms() else "Reference")

    def batched(x: np.ndarray) -> object:
        return energy.energy_and_forces(torch.as_tensor(x, dtype=torch.float32))

    return Speed(
        backend=backend,
        batched=_conformations_per_second(batched, molecule.positions),
        threads=threads,
        openmm=_conformations_per_second(lambda x: one.evaluate(x, True), molecule.positions),
    )


def _conformations_per_second(evaluate: Callable[[np.ndarray], object], positions: np.ndarray) -> float:
    """With batches that grow until one takes long enough to be timed; the better of two, for what else runs here."""
    size = 16
    while True:
        batch = np.repeat(positions[None], size, 0)
        seconds = math.inf
        for _ in range(2):
            begun = time.perf_counter()
            evaluate(batch)
            seconds = min(seconds, time.perf_counter() - begun)
        if seconds > _SECONDS or size >= _LARGEST_BATCH:
            return size / seconds
        size *= 4


def _standardise(
    molecule: Molecule, chart: Chart, minimum: np.ndarray, lowest: float, energy: Energy
) -> Standardisation | str:
    """Fits the chart by the curvature at `minimum` (N, 3) nm and draws from its prior, or says why not.

    lowest : kJ/mol, of the minimum
    """
    reference = _evaluator(molecule, "Reference")
    begun = time.process_time()  # on one thread, and whatever else the machine is doing
    reference.evaluate(minimum[None], True)
    seconds = 2 * chart.n_stiff * (time.process_time() - begun)
    if seconds > _PATIENCE:
        return f"the curvature would take {seconds:,.0f} s"
    n = chart.n_stiff
    raw = _install(chart, torch.zeros(n), torch.eye(n, dtype=torch.float64), minimum)
    steps = _STEP * torch.cat([torch.eye(n, chart.dim), -torch.eye(n, chart.dim)]).to(raw)  # (2 n, dim)
    positions = chart.to_natural(raw + steps)[0]
    forces = torch.from_numpy(reference.evaluate(positions.numpy(), True)[1])
    # H_ij = dx/dz_i . d(dU/dx)/dz_j, exact where the gradient vanishes
    dx, df = ((part[:n] - part[n:]).flatten(1) / (2.0 * _STEP) for part in (positions, forces))
    hessian = -0.5 * (dx @ df.T + df @ dx.T)  # (n, n)
    root, failed = torch.linalg.cholesky_ex(hessian)
    if bool(failed) or not bool(torch.isfinite(root).all()):
        return "the structure does not relax to a minimum"
    held = _install(chart, raw[:n], torch.cholesky_inverse(root) / molecule.beta, minimum)[n:]
    generator = torch.Generator().manual_seed(0)
    z = chart.space.sample_prior(DRAWS, generator, dtype=torch.float64)
    z_held = torch.cat([z[:, :n], held.expand(DRAWS, -1)], dim=1)
    return Standardisation(
        condition_number=chart.condition_number,
        median=_median_energy(chart, energy, z) - lowest,
        inside=float(chart.inside(z).double().mean()),
        held=_median_energy(chart, energy, z_held) - lowest,
        equipartition=0.5 * n / molecule.beta,
    )


def _install(chart: Chart, mean: Tensor, covariance: Tensor, positions: np.ndarray) -> Tensor:
    """Standardises the chart by this mean and covariance; returns z (dim,) of positions (N, 3) on it."""
    chart.standardise(mean, covariance)
    return chart.to_standard(torch.from_numpy(positions)[None])[0]


def _median_energy(chart: Chart, energy: Energy, z: Tensor) -> float:
    """kJ/mol; a conformation that failed counts as +inf."""
    return float(energy.energy(chart.to_natural(z)[0].float()).double().median())


def _warnings(molecule: Molecule, energies: Energies, standardisation: Standardisation | str) -> list[str]:
    found = []
    strain = energies.total - energies.minimum
    if strain > _STRAINED * molecule.n_atoms:
        found.append(f"the input structure lies {strain:,.0f} kJ/mol above the nearest minimum: it is strained")
    found += facts.oddities(molecule)
    if isinstance(standardisation, str):
        found.append(f"nothing is said on standardisation: {standardisation}")
    elif standardisation.condition_number > _ILL_CONDITIONED:
        found.append(
            f"condition number {standardisation.condition_number:.1e}: some stiff coordinates hardly move alone"
        )
    elif not np.isfinite(standardisation.median):
        found.append("the untrained sampler's median energy is not finite: most of its samples clash")
    return found
