"""The molecules and the structures that the energy tests share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from molsampler.molecules.energy.torch_check import reference_terms
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule

DATA = Path(__file__).resolve().parents[2] / "data"
MOLECULES = {"aldp": "aldp", "peptide": str(DATA / "peptide")}


@cache
def molecule(name: str) -> Molecule:
    """One of MOLECULES; loaded once."""
    return load_molecule(MOLECULES[name])


def structures(mol: Molecule, count: int, spread: float = 0.003, seed: int = 0) -> Tensor:
    """(count, N, 3) float64 nm: the input structure with normal noise of `spread` nm on every coordinate."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, mol.n_atoms, 3, generator=generator, dtype=torch.float64)
    return torch.from_numpy(mol.positions) + spread * noise


def reference(mol: Molecule, positions: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Energies (B,) and forces (B, N, 3) by OpenMM's Reference platform, in double."""
    energies, forces = reference_terms(mol.system, positions.double().numpy())
    return energies.sum(0), forces.sum(0)
