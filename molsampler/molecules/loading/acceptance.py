"""What the sampler has no coordinates or no energy for, refused by name."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import unit
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from molsampler.basis.errors import InputError
from molsampler.molecules.coordinates.zmatrix import build_zmatrix
from molsampler.molecules.dynamics.minimum import potential_energy
from molsampler.molecules.loading.one_molecule import ALONE, refuse_several
from molsampler.molecules.molecule import Molecule

OVERLAP = 0.05  # nm; the shortest bond there is, in H2, has 0.074
STRETCH = 0.1  # nm beyond the force field's length, at which a bond is none
_NAMED = 4  # examples in a message

_FLEXIBLE = {
    "pdb": "use a force field that makes none",
    "prmtop": "use parameters that make none",
    "system_xml": "make the System again with constraints=None and rigidWater=False, and serialise that one",
    "openmmtools": 'put constraints = "none" under [arguments], if this test system knows it',
}


def accept(molecule: Molecule, source: str) -> None:
    """Raise InputError for a molecule that cannot be sampled, naming the atoms at fault.

    source : the first key of the system.toml's source, for the advice: "pdb", "prmtop", "system_xml" or "openmmtools"

    Refused are several molecules, constraints, Drude particles, a periodic box, two implicit solvents, virtual sites,
    atoms without mass, positions that are not finite, atoms on top of each other, bonds torn apart, angles of 180
    degrees (`build_zmatrix`), an energy that is not finite or that depends on where the molecule is.
    """
    system = molecule.system
    constrained = [system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints())]
    refuse_several(molecule.topology, [*molecule.bonds, *constrained], f"'{molecule.name}'", source)
    _refuse_forces(molecule, source)
    _refuse_particles(molecule)
    _refuse_positions(molecule)
    _refuse_overlaps(molecule)
    _refuse_torn_bonds(molecule)
    build_zmatrix(molecule)
    _refuse_energy(molecule)


def _refuse_forces(molecule: Molecule, source: str) -> None:
    system, label = molecule.system, molecule.atom_labels
    if system.getNumConstraints():
        i, j, _ = system.getConstraintParameters(0)
        raise InputError(
            f"'{molecule.name}' has {system.getNumConstraints()} constraints, the first between {label[i]} and "
            f"{label[j]}; every bond length is sampled: {_FLEXIBLE[source]}"
        )
    kinds = [type(force).__name__ for force in system.getForces()]
    if any("Drude" in kind for kind in kinds):
        raise InputError(f"'{molecule.name}' has Drude particles ({', '.join(kinds)}); use a force field without them")
    if system.usesPeriodicBoundaryConditions():
        periodic = [type(f).__name__ for f in system.getForces() if _is_periodic(f)]
        raise InputError(
            f"'{molecule.name}' is in a periodic box ({', '.join(periodic)}); {ALONE}: make the System without cutoff"
        )
    solvents = [kind for kind in kinds if kind in ("GBSAOBCForce", "CustomGBForce")]
    if len(solvents) > 1:
        raise InputError(f"'{molecule.name}' has {len(solvents)} implicit solvents ({', '.join(solvents)}): give one")


def _is_periodic(force: openmm.Force) -> bool:
    try:
        return force.usesPeriodicBoundaryConditions()
    except openmm.OpenMMException:  # some forces do not know
        return False


def _refuse_particles(molecule: Molecule) -> None:
    for i, label in enumerate(molecule.atom_labels):
        if molecule.system.isVirtualSite(i):
            raise InputError(f"'{molecule.name}': {label} is a virtual site; use a force field without them")
        if not molecule.masses[i] > 0:
            raise InputError(
                f"'{molecule.name}': {label} has a mass of {molecule.masses[i]:g} dalton; it needs a positive one"
            )


def _refuse_positions(molecule: Molecule) -> None:
    x, n = molecule.positions, molecule.n_atoms
    if x.shape != (n, 3):
        raise InputError(f"'{molecule.name}' has {len(x)} positions for {n} atoms")
    bad = np.flatnonzero(~np.isfinite(x).all(-1))
    if len(bad):
        names = ", ".join(molecule.atom_labels[i] for i in bad[:_NAMED])
        raise InputError(f"'{molecule.name}': {len(bad)} atoms have no finite position ({names}); give all of them")


def _refuse_overlaps(molecule: Molecule) -> None:
    pairs = cKDTree(molecule.positions).query_pairs(OVERLAP, output_type="ndarray")
    if len(pairs):
        i, j = sorted(pairs.tolist())[0]
        distance = np.linalg.norm(molecule.positions[i] - molecule.positions[j])
        raise InputError(
            f"'{molecule.name}': {molecule.atom_labels[i]} and {molecule.atom_labels[j]} are {distance:.3f} nm apart "
            f"(of {len(pairs)} such pairs): atoms lie on top of each other; give a structure without overlaps"
        )


def _refuse_torn_bonds(molecule: Molecule) -> None:
    for force in molecule.system.getForces():
        if not isinstance(force, openmm.HarmonicBondForce):
            continue
        for k in range(force.getNumBonds()):
            i, j, length, strength = force.getBondParameters(k)
            length = length.value_in_unit(unit.nanometer)
            distance = float(np.linalg.norm(molecule.positions[i] - molecule.positions[j]))
            if distance > length + STRETCH and strength._value > 0:
                raise InputError(
                    f"'{molecule.name}': {molecule.atom_labels[i]} and {molecule.atom_labels[j]} are bonded "
                    f"({length:.3f} nm in the force field) but {distance:.3f} nm apart: residues are missing between "
                    "them, or structure and parameters have their atoms in different orders"
                )


def _refuse_energy(molecule: Molecule) -> None:
    moved = Rotation.from_rotvec([0.7, -1.1, 0.4]).apply(molecule.positions) + [0.3, -0.2, 0.5]
    try:
        here, there = (potential_energy(molecule.system, x) for x in (molecule.positions, moved))
    except openmm.OpenMMException as error:
        raise InputError(f"'{molecule.name}': OpenMM cannot compute its energy: {error}") from error
    if not np.isfinite(here):
        raise InputError(f"'{molecule.name}': the energy of the structure is {here} kJ/mol; give one without overlaps")
    if abs(there - here) > 1e-3 + 1e-6 * abs(here):
        kinds = sorted({type(force).__name__ for force in molecule.system.getForces()})
        raise InputError(
            f"'{molecule.name}': its energy changes by {there - here:.3g} kJ/mol when the molecule is moved as a "
            f"whole; take restraints to places (CustomExternalForce) out of the System, which has {', '.join(kinds)}"
        )
