"""PDB files of single frames: mdtraj finds every bond again, also those between standard residues that close a ring."""

from __future__ import annotations

import mdtraj as md
import pytest

from molsampler.molecules.loading.load import load_molecule
from molsampler.store.pdb import write_pdb


@pytest.mark.parametrize("name", ["aldp", "cyclo_phe_pro", "cyclo_ala_gly", "paracetamol"])
def test_bonds_come_back(name, tmp_path):
    molecule = load_molecule(name)
    topology = md.Topology.from_openmm(molecule.topology)
    write_pdb(tmp_path / "frame.pdb", md.Trajectory(molecule.positions[None], topology))
    again = md.load(str(tmp_path / "frame.pdb"))
    assert {frozenset((a.index, b.index)) for a, b in again.topology.bonds} == {frozenset(b) for b in molecule.bonds}
    assert [str(atom) for atom in again.topology.atoms] == [str(atom) for atom in topology.atoms]
    assert abs(again.xyz[0] - molecule.positions).max() < 6e-5  # three decimals of an Angstrom
