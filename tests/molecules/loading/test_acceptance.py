"""What cannot be sampled is refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import openmm
import pytest
from openmm import app

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.acceptance import accept
from molsampler.molecules.loading.one_molecule import refuse_several
from molsampler.molecules.loading.pdb import parse_pdb
from molsampler.molecules.molecule import Molecule
from molsampler.molecules.topology import bonded_pairs
from tests.molecules.energy.energy_cases import molecule
from tests.molecules.structures import dipeptide_atoms

ATOMS = dipeptide_atoms()


def changed(source: str = "pdb", positions: np.ndarray | None = None, force: openmm.Force | None = None, **particles):
    """Acceptance of alanine dipeptide with other positions, one more force, or a particle made otherwise."""
    mol = molecule("aldp")
    system = openmm.XmlSerializer.clone(mol.system)
    for change in particles.values():
        change(system)
    if force is not None:
        system.addForce(force)
    accept(dataclasses.replace(mol, system=system, positions=mol.positions if positions is None else positions), source)


def test_alanine_dipeptide_is_accepted():
    changed()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("system_xml", "make the System again with constraints=None"),
        ("openmmtools", 'constraints = "none" under'),
        ("pdb", "force field that makes none"),
        ("prmtop", "parameters that make none"),
    ],
)
def test_constraints_say_how_to_be_rid_of_them(source, words):
    with pytest.raises(InputError, match=f"has 1 constraints, the first between ACE1-H1 and ACE1-CH3.*{words}"):
        changed(source, change=lambda system: system.addConstraint(0, 1, 0.1))


def test_virtual_sites_and_atoms_without_mass_are_named():
    def site(system):
        system.setParticleMass(3, 0.0)
        system.setVirtualSite(3, openmm.TwoParticleAverageSite(1, 2, 0.5, 0.5))

    with pytest.raises(InputError, match="ACE1-H3 is a virtual site"):
        changed(change=site)
    with pytest.raises(InputError, match="ACE1-H3 has a mass of 0 dalton"):
        changed(change=lambda system: system.setParticleMass(3, 0.0))


def test_forces_that_need_what_is_not_there_are_named():
    drude = openmm.DrudeForce()
    drude.addParticle(3, 1, -1, -1, -1, 1.0, 1e-3, 0.0, 0.0)
    with pytest.raises(InputError, match="Drude particles"):
        changed(force=drude)
    periodic = openmm.CustomBondForce("r^2")
    periodic.setUsesPeriodicBoundaryConditions(True)
    with pytest.raises(InputError, match=r"periodic box \(CustomBondForce\)"):
        changed(force=periodic)
    with pytest.raises(InputError, match=r"2 implicit solvents \(CustomGBForce, GBSAOBCForce\)"):
        changed(force=openmm.GBSAOBCForce())


def test_an_energy_that_depends_on_the_place_is_refused():
    pull = openmm.CustomExternalForce("x^2 + 2 * y^2")
    pull.addParticle(4, [])
    with pytest.raises(InputError, match="changes by .* kJ/mol when the molecule is moved.*CustomExternalForce"):
        changed(force=pull)


def test_an_energy_that_is_not_finite_is_refused():
    wall = openmm.CustomBondForce("log(r - 1)")  # of bonded atoms: the logarithm of a negative number
    wall.addBond(0, 1, [])
    with pytest.raises(InputError, match="energy of the structure is nan"):
        changed(force=wall)


def test_positions_are_looked_at():
    positions = molecule("aldp").positions.copy()
    with pytest.raises(InputError, match="has 21 positions for 22 atoms"):
        changed(positions=positions[:-1])
    positions[7, 1] = np.nan
    with pytest.raises(InputError, match=r"1 atoms have no finite position \(ALA2-H\)"):
        changed(positions=positions)


def test_atoms_on_top_of_each_other_are_named():
    positions = molecule("aldp").positions.copy()
    positions[10] = positions[19] + [0.01, 0.0, 0.0]
    with pytest.raises(InputError, match=r"ALA2-CB and NME3-H1 are 0.010 nm apart \(of 1 such pairs\)"):
        changed(positions=positions)


def test_a_torn_bond_names_its_atoms():
    positions = molecule("aldp").positions.copy()
    positions[16:] += [3.0, 0.0, 0.0]  # NME goes away
    with pytest.raises(InputError, match=r"ALA2-C and NME3-N are bonded \(0.13\d nm in the force field\) but 3.\d+ nm"):
        changed(positions=positions)


def test_three_atoms_in_a_line_are_named():
    """The methyl group of ACE moved to where CH3-C-N is straight."""
    positions = molecule("aldp").positions.copy()
    methyl, carbon, nitrogen = positions[1], positions[4], positions[6]
    away = (carbon - nitrogen) / np.linalg.norm(carbon - nitrogen)
    positions[:4] += carbon + away * np.linalg.norm(methyl - carbon) - methyl
    with pytest.raises(InputError, match=r"angle .*ACE1-C.* is 180.0 degrees"):
        changed(positions=positions)


def test_two_atoms_are_too_few():
    topology = app.Topology()
    residue = topology.addResidue("HCL", topology.addChain())
    atoms = [topology.addAtom(name, None, residue) for name in ("H", "CL")]
    topology.addBond(*atoms)
    system = openmm.System()
    for mass in (1.0, 35.0):
        system.addParticle(mass)
    with pytest.raises(InputError, match="at least 3"):
        accept(Molecule("hcl", topology, system, np.eye(3)[:2], 300.0), "pdb")


def refused(lines: list[str], source: str = "pdb") -> str:
    structure = parse_pdb("\n".join([*lines, "END", ""]), "it")
    with pytest.raises(InputError) as caught:
        refuse_several(structure.topology, bonded_pairs(structure.topology), "it", source)
    return str(caught.value)


WATER = "HETATM  901  O   HOH W{n:4d}      {x:6.3f}  20.000  20.000  1.00  0.00           O"
SODIUM = "HETATM  951 NA    NA W  90      30.000  20.000  20.000  1.00  0.00          NA"


def test_water_and_ions_are_counted_and_named():
    waters = [WATER.format(n=n, x=20.0 + 3 * n) for n in (1, 2)]
    text = refused([*ATOMS, "TER", *waters, SODIUM])
    assert "it holds water (2 molecules) and ions (1 NA)" in text and "--fix" in text
    assert "ions" not in refused([*ATOMS, "TER", *waters]) and "water" not in refused([*ATOMS, "TER", SODIUM])
    assert "water (2 molecules)" in refused(waters) and "cpptraj" in refused(waters, "prmtop")


def test_chains_are_listed():
    other = [f"{line[:21]}B{line[22:30]}{float(line[30:38]) + 30:8.3f}{line[38:]}" for line in ATOMS]
    text = refused([*ATOMS, "TER", *other])
    assert "2 disconnected molecules (chain A, ACE1 to NME3, 22 atoms; chain B, ACE1 to NME3, 22 atoms)" in text
    assert "--chains A" in text


def test_an_unconnected_atom_is_named():
    """A hydrogen that has another name than its template's hangs on nothing."""
    lines = [line.replace(" HA  ALA", " HX  ALA") for line in ATOMS]
    text = refused(lines)
    assert "no bond joins ALA2-HX" in text and "names of the atoms" in text


def test_a_residue_without_any_bond_is_named_as_not_standard():
    text = refused([line.replace("ALA", "XYZ") for line in ATOMS])
    assert "residue XYZ2 is not a standard one" in text and "CONECT" in text and "XYZ2-N" in text


def test_a_cluster_of_atoms_is_no_solution_of_ions():
    argon = [
        SODIUM.replace("NA    NA W  90", f"AR    AR W  {k}").replace("          NA", "          AR")
        for k in (91, 92, 93)
    ]
    assert "3 disconnected molecules" in refused(argon)
