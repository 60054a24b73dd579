"""Subcommands that need no run: `molsampler check` and `molsampler reference`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from molsampler.molecules.backend import make_energy
from molsampler.molecules.chart import Chart
from molsampler.molecules.reference_run import ReferenceSettings
from molsampler.molecules.system import find_system_folder, load_molecule
from molsampler.molecules.torch_energy import TorchEnergy

_TIMED_BATCH = 1024


def check(system: Annotated[str, tyro.conf.Positional], platform: str = "auto", device: str = "cpu") -> None:
    """Tell what was understood of a system: atoms, soft torsions, stereochemistry, energy, backend and its speed."""
    molecule = load_molecule(system)
    energy = make_energy(molecule, "auto", platform, device, compile=False)
    chart = Chart(molecule)
    labels = molecule.atom_labels
    print(f"{molecule.name}: {molecule.n_atoms} atoms, {len(molecule.bonds)} bonds, {molecule.temperature:g} K")
    print(f"forces: {', '.join(force.getName() for force in molecule.system.getForces())}")
    print(f"coordinates: {chart.n_stiff} on the line, {chart.n_soft} soft torsions on the circle:")
    for atoms in chart.soft_atoms.tolist():
        print(f"    {' '.join(labels[i] for i in atoms)}")
    start = torch.tensor(molecule.positions, dtype=torch.float32)[None]
    print(f"energy of the input structure: {float(energy.energy(start)[0]):.3f} kJ/mol by {type(energy).__name__}")
    batch = start.expand(_TIMED_BATCH, -1, -1).contiguous()
    energy.energy_and_forces(batch)
    begun = time.perf_counter()
    energy.energy_and_forces(batch)
    speed = _TIMED_BATCH / (time.perf_counter() - begun)
    compiled = "; compiled, it is several times that" if isinstance(energy, TorchEnergy) else ""
    print(f"speed: {speed:,.0f} energies with forces a second in batches of {_TIMED_BATCH}{compiled}")
    energy.close()


def reference(
    system: Annotated[str, tyro.conf.Positional],
    settings: Annotated[ReferenceSettings, tyro.conf.arg(name="")],
    out: Path | None = None,
    device: str = "cpu",
) -> None:
    """Make the reference ensemble of a system by replica exchange; stored in its folder unless --out names another."""
    from molsampler.reference import store_reference

    molecule = load_molecule(system)
    folder = out or find_system_folder(system) / "reference"
    energy = make_energy(molecule, device=device)
    double = TorchEnergy(molecule, dtype=torch.float64, compile=False) if isinstance(energy, TorchEnergy) else energy
    stored = store_reference(molecule, energy, settings, folder, rescore=double)
    for name, estimate in stored.populations.items():
        print(f"{name:8s} {estimate.value:.5f} +- {np.nan if estimate.stderr is None else estimate.stderr:.5f}")
    print(f"reference: {folder}")
