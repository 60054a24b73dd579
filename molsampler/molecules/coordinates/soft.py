"""Which torsions of a molecule are soft, that is, turn right round the circle at its temperature."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np
import openmm
import torch
from torch import Tensor

from molsampler.basis.errors import InputError
from molsampler.basis.graph import turned_bond
from molsampler.molecules.coordinates.zmatrix import ZMatrix
from molsampler.molecules.energy.forces.registry import translate_force
from molsampler.molecules.energy.forces.term import Term, UnsupportedForce
from molsampler.molecules.molecule import Molecule

SOFT_BARRIER = 20.0  # RT; methyl rotors have about 5, an amide about 33 at 300 K

TORSIONAL = (
    openmm.PeriodicTorsionForce,
    openmm.RBTorsionForce,
    openmm.CustomTorsionForce,
    openmm.CMAPTorsionForce,
)

Axis = tuple[int, int] | tuple[str, str]


def soft_torsions(
    molecule: Molecule, zmatrix: ZMatrix, soft: Sequence[Axis] | None = None, barrier: float = SOFT_BARRIER
) -> np.ndarray:
    """(N - 3,) bool: which torsions of the Z-matrix are soft.

    By default these are the free torsions about bonds outside every ring, amides apart, whose torsion energy in the
    force field, summed over the axis, varies by less than `barrier` times RT. An amide's omega never is, for the
    support holds one of its sides, whatever the force field says (OpenFF has 19 RT for tertiary ones). `soft` names the
    axes instead: pairs of bonded atoms, by index or by label ("ALA2-N", "ALA2-CA"). Raises InputError for a pair that
    is no free axis, or lies in a ring.
    """
    axes = [tuple(sorted(t[1:3])) for t in zmatrix.torsion_atoms.tolist()]
    free = {axis for axis, is_free in zip(axes, zmatrix.free, strict=True) if is_free} - molecule.graph.ring_bonds
    if soft is not None:
        chosen = {_find_axis(molecule, pair) for pair in soft}
        for i, j in sorted(chosen - free):
            raise InputError(
                f"no soft torsion can turn about {molecule.atom_labels[i]} {molecule.atom_labels[j]}: "
                "name two bonded atoms outside rings that both have further neighbours"
            )
    else:
        limit = barrier / molecule.beta
        turning = free - {turned_bond(amide) for amide in molecule.graph.amides}
        chosen = {axis for axis, height in torsion_barriers(molecule, turning).items() if height < limit}
    return np.array([bool(f) and axis in chosen for axis, f in zip(axes, zmatrix.free, strict=True)], dtype=bool)


def _find_axis(molecule: Molecule, pair: Axis) -> tuple[int, int]:
    atoms = []
    for atom in pair:
        if isinstance(atom, str):
            if molecule.atom_labels.count(atom) != 1:
                raise InputError(f"soft torsion names atom '{atom}'; '{molecule.name}' has not just one of them")
            atom = molecule.atom_labels.index(atom)
        if not 0 <= atom < molecule.n_atoms:
            raise InputError(f"soft torsion names atom {atom}; '{molecule.name}' has atoms 0 to {molecule.n_atoms - 1}")
        atoms.append(int(atom))
    return min(atoms), max(atoms)


def torsion_barriers(molecule: Molecule, axes: Iterable[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """Highest minus lowest torsion energy in kJ/mol as one side of each axis turns rigidly from the input structure.

    axes : bonds (i, j) outside rings. The energy is that of all periodic, Ryckaert-Bellemans, custom and CMAP torsions,
    scanned in steps of one degree; a force that the torch kernels do not cover does not count.
    """
    terms = _torsion_terms(molecule)
    x = torch.as_tensor(molecule.positions, dtype=torch.float64)
    turns = torch.arange(360, dtype=torch.float64).deg2rad()
    barriers = {}
    for i, j in axes:
        frames = _turned(x, i, j, molecule.graph.beyond(i, j), turns)  # (3, N, 360)
        energy = sum((term(frames, None) for term in terms), torch.zeros_like(turns))
        barriers[i, j] = float(energy.max() - energy.min())
    return barriers


def _torsion_terms(molecule: Molecule) -> list[Term]:
    terms = []
    for force in molecule.system.getForces():
        if isinstance(force, TORSIONAL):
            with contextlib.suppress(UnsupportedForce):
                terms.append(translate_force(force, molecule.n_atoms))
    return [term.double() for term in terms if term is not None]


def _turned(x: Tensor, i: int, j: int, moved: list[int], turns: Tensor) -> Tensor:
    """x (N, 3) with the atoms `moved` turned about i-j by turns (T,) in radians -> (3, N, T); Rodrigues' formula."""
    axis = torch.nn.functional.normalize(x[j] - x[i], dim=0)
    arm = x[moved] - x[i]
    across = torch.linalg.cross(axis.expand_as(arm), arm)
    parallel = (arm @ axis)[:, None] * axis
    frames = x.T[:, :, None].repeat(1, 1, len(turns))
    part = parallel[..., None] + (arm - parallel)[..., None] * turns.cos() + across[..., None] * turns.sin()
    frames[:, moved] = (x[i][:, None] + part).transpose(0, 1)
    return frames
