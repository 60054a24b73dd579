"""One walk over force fields and solvents: the torch kernels give what OpenMM's Reference platform gives."""

from __future__ import annotations

import dataclasses

import numpy as np
import openmm
import pytest
import torch
from openmm import app

from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.soft import soft_torsions, torsion_barriers
from molsampler.molecules.coordinates.zmatrix import build_zmatrix
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.molecule import Molecule
from tests.molecules.energy.energy_cases import reference, structures
from tests.molecules.peptides import build, chain_topology, force_field

PROTEIN = ("amber96.xml", "amber99sb.xml", "amber14-all.xml")
SOLVENTS = ("obc1", "obc2", "gbn", "gbn2", "vacuum")
PEPTIDE = "ACE ALA SER NME"


def in_force_field(mol: Molecule, *names: str) -> Molecule:
    """The same structure with the parameters of other files."""
    system = force_field(*names).createSystem(mol.topology, nonbondedMethod=app.NoCutoff)
    return dataclasses.replace(mol, name=" ".join(names), system=system)


def in_charmm_residues(mol: Molecule) -> Molecule:
    """The caps moved into the first and the last amino acid, where CHARMM has them as patches."""
    residues = list(mol.topology.residues())
    topology = app.Topology()
    chain = topology.addChain()
    new: dict[app.topology.Atom, app.topology.Atom] = {}
    for residue in residues[1:-1]:
        whole = topology.addResidue(residue.name, chain)
        for part in (residues[:1] if residue is residues[1] else []) + [residue]:
            new |= {a: topology.addAtom(part.name[0] + a.name, a.element, whole) for a in part.atoms()}
    new |= {a: topology.addAtom("T" + a.name, a.element, whole) for a in residues[-1].atoms()}
    for bond in mol.topology.bonds():
        topology.addBond(new[bond.atom1], new[bond.atom2])
    return dataclasses.replace(mol, topology=topology)


def assert_agrees(mol: Molecule) -> None:
    energy = TorchEnergy(mol, dtype=torch.float64, compile=False)
    x = structures(mol, 3, spread=0.006, seed=5)
    expected, expected_forces = reference(mol, x)
    value, forces = energy.energy_and_forces(x)
    assert value.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-5)
    assert forces.numpy() == pytest.approx(expected_forces, rel=1e-8, abs=1e-4)


@pytest.mark.parametrize("solvent", SOLVENTS)
@pytest.mark.parametrize("protein", PROTEIN)
def test_amber_force_fields_agree_with_the_reference_platform(protein, solvent):
    names = (protein,) if solvent == "vacuum" else (protein, f"implicit/{solvent}.xml")
    mol = in_force_field(build(PEPTIDE, "amber14-all.xml"), *names)
    forces = {type(force) for force in mol.system.getForces()}
    assert (openmm.CustomGBForce in forces) == (solvent != "vacuum")
    assert_agrees(mol)


def test_charmm36_with_cmap_agrees_with_the_reference_platform():
    mol = build("ALAD", "charmm36.xml")
    cmaps = [force for force in mol.system.getForces() if isinstance(force, openmm.CMAPTorsionForce)]
    assert cmaps[0].getNumTorsions() == 1
    assert_agrees(mol)


@pytest.mark.slow
def test_a_capped_peptide_of_charmm36_agrees_with_the_reference_platform():
    """Six seconds of matching patches, then two CMAP terms."""
    mol = in_force_field(in_charmm_residues(build(PEPTIDE, "amber14-all.xml")), "charmm36.xml")
    cmaps = [force for force in mol.system.getForces() if isinstance(force, openmm.CMAPTorsionForce)]
    assert cmaps[0].getNumTorsions() == 2
    assert_agrees(mol)
    assert Chart(mol).n_soft == 9  # two caps, two pairs of phi and psi, three in the side chains


def without_bonds(mol: Molecule) -> Molecule:
    """The same with a topology that names no bond."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for atom in mol.topology.atoms():
        topology.addAtom(atom.name, atom.element, residue)
    return dataclasses.replace(mol, topology=topology)


def test_urey_bradley_terms_of_charmm_are_no_bonds():
    mol = build("ALAD", "charmm36.xml")
    springs = sum(f.getNumBonds() for f in mol.system.getForces() if isinstance(f, openmm.HarmonicBondForce))
    assert springs > len(mol.bonds) == mol.n_atoms - 1  # no ring
    assert without_bonds(mol).bonds == mol.bonds


def test_bonds_of_a_three_membered_ring_are_bonds():
    """Each lies between the ends of an angle, as a Urey-Bradley term does, but is an arm of other angles too."""
    field = force_field("charmm36.xml")
    topology = chain_topology(["C3"], field)  # cyclopropane
    system = field.createSystem(topology, residueTemplates={residue: "C3" for residue in topology.residues()})
    mol = Molecule("C3", topology, system, np.zeros((9, 3)), 300.0)
    assert len(mol.bonds) == 9 and without_bonds(mol).bonds == mol.bonds


def test_cmap_counts_in_the_barriers_of_charmm36():
    mol = build("ALAD", "charmm36.xml")
    axes = [tuple(sorted(row[1:3])) for row in Chart(mol).soft_atoms.tolist()]
    with_map = torsion_barriers(mol, axes)
    system = openmm.XmlSerializer.clone(mol.system)
    kinds = [type(force) for force in system.getForces()]
    system.removeForce(kinds.index(openmm.CMAPTorsionForce))
    without = torsion_barriers(dataclasses.replace(mol, system=system), axes)
    changed = {axis for axis in axes if abs(with_map[axis] - without[axis]) > 0.5}
    names = [atom.name for atom in mol.topology.atoms()]
    assert {frozenset(names[k] for k in axis) for axis in changed} == {
        frozenset(("NL", "CA")),
        frozenset(("CA", "CRP")),
    }
    assert soft_torsions(mol, build_zmatrix(mol)).sum() == 5
