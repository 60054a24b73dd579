"""PDB files that this package writes: OpenMM and mdtraj find every bond again, also those in no table of residues."""

from __future__ import annotations

import io

import mdtraj as md
import numpy as np
import pytest
from openmm import app, unit

from molsampler.molecules.loading.load import load_molecule
from molsampler.store.pdb import conect_records, pdb_text, write_pdb

ROUNDING = 6e-5  # nm: three decimals of an Angstrom


def pairs(topology: app.Topology | md.Topology) -> set[frozenset[int]]:
    bonds = topology.bonds() if isinstance(topology, app.Topology) else topology.bonds
    return {frozenset((a.index, b.index)) for a, b in bonds}


@pytest.mark.parametrize("kind", ["openmm", "mdtraj"])
@pytest.mark.parametrize("name", ["aldp", "cyclo_phe_pro", "cyclo_ala_gly", "paracetamol"])
def test_both_readers_find_every_bond(name, kind, tmp_path):
    molecule = load_molecule(name)
    theirs = md.Topology.from_openmm(molecule.topology)
    path = tmp_path / "frame.pdb"
    write_pdb(path, molecule.topology if kind == "openmm" else theirs, molecule.positions)

    again = md.load(str(path))
    assert pairs(again.topology) == {frozenset(bond) for bond in molecule.bonds}
    assert [str(atom) for atom in again.topology.atoms] == [str(atom) for atom in theirs.atoms]
    assert abs(again.xyz[0] - molecule.positions).max() < ROUNDING

    read = app.PDBFile(str(path))
    assert pairs(read.topology) == {frozenset(bond) for bond in molecule.bonds}
    given = [(a.name, a.residue.name, a.residue.id, a.element) for a in molecule.topology.atoms()]
    assert [(a.name, a.residue.name, a.residue.id, a.element) for a in read.topology.atoms()] == given
    positions = np.array(read.positions.value_in_unit(unit.nanometer))
    assert abs(positions - molecule.positions).max() < ROUNDING


def test_a_bond_between_standard_residues_is_kept():
    """HA to O of one alanine: in no table, and left out by the writers of OpenMM and mdtraj."""
    molecule = load_molecule("aldp")
    text = pdb_text(molecule.topology, molecule.positions)
    read = app.PDBFile(io.StringIO(text))
    i, j = (next(a for a in read.topology.atoms() if (a.residue.name, a.name) == ("ALA", name)) for name in ("HA", "O"))
    read.topology.addBond(i, j)
    again = app.PDBFile(io.StringIO(pdb_text(read.topology, molecule.positions)))
    assert pairs(again.topology) == pairs(read.topology) and frozenset((i.index, j.index)) in pairs(again.topology)


def test_more_than_four_partners_take_a_second_record():
    serials = [str(k) for k in range(1, 8)]
    records = conect_records([(0, k) for k in (6, 1, 2, 3, 4, 5)], serials)
    assert records[:2] == ["CONECT    1    2    3    4    5", "CONECT    1    6    7"]
    assert records[2:] == [f"CONECT    {k}    1" for k in range(2, 8)]
    assert conect_records([(1, 0), (0, 1)], serials) == ["CONECT    1    2", "CONECT    2    1"]
