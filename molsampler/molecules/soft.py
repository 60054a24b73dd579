"""Which torsions of a molecule are soft, that is, turn right round the circle at its temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import openmm
from openmm import unit

from molsampler.errors import InputError
from molsampler.molecules.molecule import Molecule
from molsampler.molecules.zmatrix import ZMatrix, neighbour_lists

SOFT_BARRIER = 20.0  # RT; methyl rotors have about 5, an amide about 33 at 300 K

Axis = tuple[int, int] | tuple[str, str]


def soft_torsions(
    molecule: Molecule, zmatrix: ZMatrix, soft: Sequence[Axis] | None = None, barrier: float = SOFT_BARRIER
) -> np.ndarray:
    """(N - 3,) bool: which torsions of the Z-matrix are soft.

    By default these are the free torsions about bonds outside every ring whose torsion energy in the force field,
    summed over the axis, varies by less than `barrier` times RT. `soft` names the axes instead: pairs of bonded atoms,
    by index or by label ("ALA2-N", "ALA2-CA"). Raises InputError for a pair that is no free axis, or lies in a ring.
    """
    axes = [tuple(sorted(t[1:3])) for t in zmatrix.torsion_atoms.tolist()]
    rings = ring_bonds(molecule)
    if soft is not None:
        chosen = {_find_axis(molecule, pair) for pair in soft}
        free = {axis for axis, is_free in zip(axes, zmatrix.free, strict=True) if is_free and axis not in rings}
        for i, j in sorted(chosen - free):
            raise InputError(
                f"no soft torsion can turn about {molecule.atom_labels[i]} {molecule.atom_labels[j]}: "
                "name two bonded atoms outside rings that both have further neighbours"
            )
    else:
        barriers = torsion_barriers(molecule, axes)
        limit = barrier / molecule.beta
        chosen = {axis for axis in axes if axis not in rings and barriers[axis] < limit}
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


def ring_bonds(molecule: Molecule) -> set[tuple[int, int]]:
    """The bonds (i < j) that lie in a ring: those whose removal leaves their two atoms connected."""
    neighbours = neighbour_lists(molecule)
    rings = set()
    for i, j in molecule.bonds:
        seen, stack = {i}, [k for k in neighbours[i] if k != j]
        while stack and j not in seen:
            k = stack.pop()
            if k not in seen:
                seen.add(k)
                stack += neighbours[k]
        if j in seen:
            rings.add((i, j))
    return rings


def torsion_barriers(molecule: Molecule, axes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """Highest minus lowest torsion energy in kJ/mol as each axis (i < j) turns rigidly from the input structure.

    Sums the proper terms of PeriodicTorsionForce and RBTorsionForce about the axis, scanned in steps of one degree.
    """
    turn = np.radians(np.arange(360.0))
    energies = {axis: np.zeros_like(turn) for axis in axes}
    bonded = set(molecule.bonds)
    for atoms, energy in _torsion_terms(molecule.system):
        pairs = [tuple(sorted(p)) for p in zip(atoms[:-1], atoms[1:], strict=True)]
        if pairs[1] in energies and bonded.issuperset(pairs):  # an improper is no rotation about its middle bond
            energies[pairs[1]] += energy(_dihedral(molecule.positions[list(atoms)]) + turn)
    return {axis: float(e.max() - e.min()) for axis, e in energies.items()}


def _torsion_terms(system: openmm.System):
    """Yields ((i, j, k, l), function of the torsion in radians -> kJ/mol) for every periodic and RB term."""
    kj = unit.kilojoule_per_mole
    for force in system.getForces():
        if isinstance(force, openmm.PeriodicTorsionForce):
            for n in range(force.getNumTorsions()):
                *atoms, period, phase, k = force.getTorsionParameters(n)
                shift, k = phase.value_in_unit(unit.radian), k.value_in_unit(kj)
                yield tuple(atoms), lambda t, m=period, s=shift, k=k: k * (1.0 + np.cos(m * t - s))
        elif isinstance(force, openmm.RBTorsionForce):
            for n in range(force.getNumTorsions()):
                *atoms, c0, c1, c2, c3, c4, c5 = force.getTorsionParameters(n)
                c = [x.value_in_unit(kj) for x in (c0, c1, c2, c3, c4, c5)]
                # Ryckaert-Bellemans angles count from trans.
                yield tuple(atoms), lambda t, c=c: np.polynomial.polynomial.polyval(np.cos(t - math.pi), c)


def _dihedral(points: np.ndarray) -> float:
    u, v, w = np.diff(points, axis=0)
    m, n = np.cross(u, v), np.cross(v, w)
    return math.atan2(float(u @ n) * float(np.linalg.norm(v)), float(m @ n))
